"""Policy-gradient losses, per token, and the objective they make with a tether to the reference.

`POLICY_LOSSES` is the table of losses; `policy_objective` is what algorithms without a value function minimise.

Shapes: `S` responses; all others (N,), over response tokens. `old_logprobs` and `advantages` carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from tether.math.aggregate import Aggregation, Denominators, aggregate
from tether.math.kl import KL_ESTIMATORS, k3
from tether.math.segments import expand, segment_mean

# exp(20) ≈ 5e8 is far past any clip. Beyond fp32's exp(88) the ratio is inf, and even a branch that min() leaves out
# would then backpropagate 0 · inf = NaN.
_LOG_RATIO_LIMIT = 20.0


class Clip(NamedTuple):
    """How far the ratio may go before a token stops counting: [1 − low, 1 + high]."""

    low: float = 0.2
    high: float = 0.2


def clipped_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated to be minimised.

        L_t = −min(r_t A_t, clip(r_t, 1−ε_low, 1+ε_high) A_t),   r_t = π(a_t) / π_old(a_t)

    A wider ε_high is DAPO's clip-higher (Yu et al. 2025).

    >>> import torch
    >>> up = torch.tensor([1.5]).log()
    >>> clipped_policy_loss(up, torch.zeros(1), torch.tensor([2.0]), Clip(0.2, 0.25)).item()
    -2.5
    """
    free, clipped = _surrogates(logprobs, old_logprobs, advantages, clip)
    return -free.minimum(clipped)


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """1 where the clip decides (the clipped branch is the smaller one, so the token has no gradient), else 0.

    >>> import torch
    >>> up = torch.tensor([1.5, 1.5]).log()
    >>> clip_fraction(up, torch.zeros(2), torch.tensor([2.0, -2.0]), Clip()).tolist()
    [1.0, 0.0]
    """
    free, clipped = _surrogates(logprobs, old_logprobs, advantages, clip)
    return (clipped < free).to(logprobs.dtype)


def _surrogates(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    ratio = _ratio(logprobs, old_logprobs)
    return ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


class PolicyLoss(NamedTuple):
    """What a row of `POLICY_LOSSES` gives."""

    loss: Tensor
    """(N,) to be minimised."""
    clipped: Tensor
    """(N,) 1 where the clip has changed what the token teaches, else 0."""


def reinforce(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip, lengths: Tensor) -> PolicyLoss:
    """REINFORCE (Williams 1992): L_t = −A_t log π(a_t), for samples of the very policy that is updated.

    >>> import torch
    >>> one = torch.ones(1)
    >>> reinforce(-2 * one, -2 * one, 3 * one, Clip(), torch.tensor([1])).loss.item()
    6.0
    """
    return PolicyLoss(-advantages * logprobs, logprobs.new_zeros(logprobs.shape))


def ppo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip, lengths: Tensor) -> PolicyLoss:
    """PPO's clipped surrogate and its clip fraction: the loss of GRPO (Shao et al. 2024, eq. 3) and DAPO too.

    >>> import torch
    >>> up = torch.tensor([1.5]).log()
    >>> [x.item() for x in ppo(up, torch.zeros(1), torch.tensor([2.0]), Clip(0.2, 0.25), torch.tensor([1]))]
    [-2.5, 1.0]
    """
    return PolicyLoss(
        clipped_policy_loss(logprobs, old_logprobs, advantages, clip),
        clip_fraction(logprobs, old_logprobs, advantages, clip),
    )


def gspo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip, lengths: Tensor) -> PolicyLoss:
    """GSPO (Zheng et al. 2025): PPO's surrogate of the response's ratio, in its per-token form (eq. 13 and 14).

        s = (π(y) / π_old(y))^(1/|y|),   s_t = sg[s] · π(a_t) / sg[π(a_t)],   L_t = −min(s_t A_t, clip(s_t) A_t)

    Where a response's tokens share one advantage, the mean over them has the value and the gradient of the sequence
    form (eq. 5). The clip is on s, so that it is all tokens of a response or none; `lengths` (S,).

    >>> import torch
    >>> ratios = torch.tensor([2.0, 0.5]).log()
    >>> gspo(ratios, torch.zeros(2), torch.ones(2), Clip(), torch.tensor([2])).loss.tolist()
    [-1.0, -1.0]
    """
    return ppo(logprobs, sequence_old_logprobs(logprobs, old_logprobs, lengths), advantages, clip, lengths)


def cispo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip, lengths: Tensor) -> PolicyLoss:
    """CISPO (MiniMax-M1 2025, eq. 4 and 5): REINFORCE weighted by the clipped ratio, so that no token is left out.

        L_t = −sg[clip(r_t, 1−ε_low, 1+ε_high)] A_t log π(a_t)

    A token counts as clipped where its weight is not its ratio.

    >>> import torch
    >>> now, old = torch.tensor([-1.0]), torch.tensor([-3.0])
    >>> [x.item() for x in cispo(now, old, torch.tensor([2.0]), Clip(1.0, 4.0), torch.tensor([1]))]
    [10.0, 1.0]
    """
    ratio = _ratio(logprobs.detach(), old_logprobs)
    weight = ratio.clamp(1 - clip.low, 1 + clip.high)
    return PolicyLoss(-weight * advantages * logprobs, (weight != ratio).to(logprobs.dtype))


POLICY_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Clip, Tensor], PolicyLoss]] = {
    "reinforce": reinforce,
    "ppo": ppo,
    "gspo": gspo,
    "cispo": cispo,
}
"""Name → (logprobs (N,), old_logprobs (N,), advantages (N,), clip, lengths (S,)) → PolicyLoss."""


def sequence_old_logprobs(logprobs: Tensor, old_logprobs: Tensor, lengths: Tensor) -> Tensor:
    """(N,) old log-probs against which every token has its response's ratio, (π(y)/π_old(y))^(1/|y|): GSPO's.

        sg[log π_t] − mean_t' (log π_t' − log π_old,t')

    No gradient: that of a ratio to them is the token's own.

    >>> import torch
    >>> sequence_old_logprobs(torch.tensor([1.0, 3.0]), torch.zeros(2), torch.tensor([2])).tolist()
    [-1.0, 1.0]
    """
    now = logprobs.detach()
    return now - expand(segment_mean(now - old_logprobs, lengths), lengths)


class Sampled(Protocol):
    """What the objective reads of a batch; `tether.types.RolloutBatch` is one."""

    @property
    def lengths(self) -> Tensor:
        """(S,) tokens of each response."""
        ...

    @property
    def total(self) -> Denominators:
        """Tokens and responses of the whole optimiser step."""
        ...

    @property
    def logprobs(self) -> Tensor:
        """(N,) of the policy that sampled."""
        ...

    @property
    def ref_logprobs(self) -> Tensor:
        """(N,) of the reference."""
        ...

    @property
    def advantages(self) -> Tensor:
        """(N,)"""
        ...


class Surrogate(NamedTuple):
    """How a policy's loss is made."""

    loss: str
    """A row of `POLICY_LOSSES`."""
    clip: Clip
    """Its clip range."""
    how: Aggregation
    """How tokens become a number, see `aggregate`."""
    longest: int | None = None
    """The constant of `how = "constant"`."""
    kl: str | None = None
    """A row of `KL_ESTIMATORS` to be added as a loss; None adds none."""
    beta: float = 0.0
    """Weight of that KL."""


def policy_objective(
    logprobs: Tensor, entropy: Tensor, batch: Sampled, surrogate: Surrogate
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's share of agg(L) + β · agg(KL), and of its metrics (those are means over tokens, always).

    L is a row of `POLICY_LOSSES`, the KL to the reference a row of `KL_ESTIMATORS`, and agg is `aggregate`. `logprobs`
    and `entropy` are the current policy's. Raises KeyError for a name that is in no table.

    >>> import torch
    >>> from tether.types import RolloutBatch, Totals
    >>> now, old, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -4.0])
    >>> columns = {"logprobs": old, "ref_logprobs": ref, "advantages": torch.tensor([1.0, 2.0])}
    >>> batch = RolloutBatch((), Totals(2, 1, 1), torch.tensor([2]), torch.tensor([0]), **columns)
    >>> loss, metrics = policy_objective(now, torch.ones(2), batch, Surrogate("ppo", Clip(), "token", 8, "k2", 0.5))
    >>> (loss.item(), metrics["policy/loss"].item(), metrics["policy/ratio"].item())
    (-1.0, -1.5, 1.0)
    """
    lengths, total, how = batch.lengths, batch.total, surrogate.how
    constant = surrogate.longest if how == "constant" else None
    loss, clipped = POLICY_LOSSES[surrogate.loss](logprobs, batch.logprobs, batch.advantages, surrogate.clip, lengths)
    objective = policy = aggregate(loss, lengths, total, how, constant)
    if surrogate.kl is not None:
        estimate = KL_ESTIMATORS[surrogate.kl](logprobs, batch.ref_logprobs)
        objective = policy + surrogate.beta * aggregate(estimate, lengths, total, how, constant)
    now = logprobs.detach()
    about = {
        "policy/entropy": entropy.detach(),
        "policy/clip_frac": clipped,
        "policy/approx_kl": k3(batch.logprobs, now),
        "policy/ratio": (now - batch.logprobs).exp(),
    }
    metrics = {name: aggregate(x, lengths, total) for name, x in about.items()}
    return objective, {"policy/loss": policy.detach()} | metrics
