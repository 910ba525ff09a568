"""Losses that learn a policy from preferences directly, without a reward model: DPO's family, ORPO and KTO.

Shapes: `P` pairs, `S` responses. A response's *score* is its log-ratio log π/π_ref, or its log-prob where there is no
reference, summed over its tokens or averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tether.math.preference_losses import bradley_terry_loss

PairLoss = Callable[[Tensor, Tensor, float, Tensor | float, float], Tensor]
"""(chosen (P,), rejected (P,), β, margin, label_smoothing) → (P,)."""


def sigmoid_loss(
    chosen: Tensor, rejected: Tensor, beta: float, margin: Tensor | float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """(P,) DPO: Bradley–Terry's loss of the implicit rewards β·score (Rafailov et al. 2023, eq. 7).

        L = −(1−ε) log σ(h) − ε log σ(−h),     h = β (chosen − rejected) − m

    `label_smoothing` ε in [0, ½) is the share of flipped labels: conservative DPO (Mitchell 2023). `margin` m, a number
    or (P,), is how far apart rewards shall be (Amini et al. 2024, eq. 3). With log-probs for scores this is CPO's loss
    (Xu et al. 2024, eq. 3), with their means and m = γ SimPO's (Meng et al. 2024, eq. 6).

    >>> import torch
    >>> round(sigmoid_loss(torch.tensor([3.0]), torch.tensor([-2.0]), 0.2).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    return bradley_terry_loss(beta * chosen, beta * rejected, margin, label_smoothing)


def hinge_loss(
    chosen: Tensor, rejected: Tensor, beta: float, margin: Tensor | float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """(P,) SLiC's hinge on the log-ratios (Zhao et al. 2023, eq. 1; Liu et al. 2024 (RSO), eq. 8).

        L = (1−ε) max(0, 1 − h) + ε max(0, 1 + h),     h = β (chosen − rejected) − m

    >>> import torch
    >>> hinge_loss(torch.tensor([3.0, 9.0]), torch.tensor([1.0, 1.0]), 0.25).tolist()
    [0.5, 0.0]
    """
    gap = beta * (chosen - rejected) - margin
    return (1 - label_smoothing) * (1 - gap).relu() + label_smoothing * (1 + gap).relu()


def ipo_loss(
    chosen: Tensor, rejected: Tensor, beta: float, margin: Tensor | float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """(P,) IPO: the gap of scores is drawn *to* 1/(2β), not beyond it (Azar et al. 2023, eq. 17, with τ = β).

        L = (1−ε) (d − c)² + ε (d + c)²,     d = chosen − rejected − m/β,     c = 1/(2β)

    Up to a constant, smoothing moves the goal to (1−2ε) c.

    >>> import torch
    >>> ipo_loss(torch.tensor([3.0]), torch.tensor([1.0]), 0.5).item()
    1.0
    """
    gap, goal = chosen - rejected - margin / beta, 0.5 / beta
    return (1 - label_smoothing) * (gap - goal).square() + label_smoothing * (gap + goal).square()


def robust_loss(
    chosen: Tensor, rejected: Tensor, beta: float, margin: Tensor | float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """(P,) Robust DPO: in expectation over labels flipped at rate ε, DPO's loss of the true labels.

        L = (−(1−ε) log σ(h) + ε log σ(−h)) / (1 − 2ε),     h = β (chosen − rejected) − m

    (Chowdhury et al. 2024, eq. 12.) At ε = 0 it is `sigmoid_loss`; it may be negative.

    >>> import torch
    >>> round(robust_loss(torch.zeros(1), torch.zeros(1), 0.1, 0.0, 0.25).item(), 4)
    0.6931
    """
    gap = beta * (chosen - rejected) - margin
    flipped = label_smoothing * logsigmoid(-gap)
    return (flipped - (1 - label_smoothing) * logsigmoid(gap)) / (1 - 2 * label_smoothing)


class DirectLoss(NamedTuple):
    """One row of `DIRECT_LOSSES`: a loss, the scores it takes, and what its authors set."""

    loss: PairLoss
    reference: bool
    """Scores are log-ratios to a reference; else plain log-probs, and no reference is loaded."""
    length_normalised: bool = False
    """Scores are means over a response's tokens, not sums."""
    beta: float = 0.1
    gamma: float = 0.0
    """Margin of every pair."""
    sft_coef: float = 0.0
    """Weight of the negative log-likelihood of the chosen responses."""


DIRECT_LOSSES: dict[str, DirectLoss] = {
    "sigmoid": DirectLoss(sigmoid_loss, reference=True),
    # The mean is what IPO's authors ran; the paper's sums would make the goal depend on length.
    "ipo": DirectLoss(ipo_loss, reference=True, length_normalised=True),
    "hinge": DirectLoss(hinge_loss, reference=True),
    "robust": DirectLoss(robust_loss, reference=True),
    "simpo": DirectLoss(sigmoid_loss, reference=False, length_normalised=True, beta=2.0, gamma=1.0),
    "cpo": DirectLoss(sigmoid_loss, reference=False, sft_coef=1.0),
}
"""Name → loss on pairs."""


def orpo_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(P,) ORPO's odds-ratio term, of mean log-probs a token (Hong et al. 2024, eqs. 4 and 7).

        L = −log σ(log odds(chosen) − log odds(rejected)),     odds(p) = p / (1 − p)

    To it belongs the negative log-likelihood of the chosen response, at weight 1 / λ.

    >>> import torch
    >>> p = torch.tensor([0.75, 0.5]).log()
    >>> round(orpo_loss(p[:1], p[1:]).item(), 4)  # odds 3 against 1: log(1 + 1/3)
    0.2877
    """
    return -logsigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(logprobs: Tensor) -> Tensor:
    """log(p / (1 − p)) of log-probs of any shape; finite at p = 1 too, where p counts as 1 − ε of the type.

    >>> import torch
    >>> log_odds(torch.tensor([0.5]).log()).item()
    0.0
    """
    logprobs = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return logprobs - (-torch.expm1(logprobs)).log()


def kto_loss(
    log_ratios: Tensor,
    desirable: Tensor,
    baseline: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """(S,) KTO: gains and losses against what is expected, both saturating (Ethayarajh et al. 2024, eq. 8).

        L = λ_D (1 − σ(β (r − z)))  of a desirable response,     λ_U (1 − σ(β (z − r)))  of an undesirable one

    `log_ratios` r (S,) summed over tokens, `desirable` (S,) bool, `baseline` z ≥ 0 from `kto_baseline`.

    >>> import torch
    >>> r, good = torch.tensor([2.0, 2.0]), torch.tensor([True, False])
    >>> kto_loss(r, good, 2.0, 0.1).tolist()
    [0.5, 0.5]
    """
    surprise = beta * (log_ratios - baseline)
    return torch.where(desirable, desirable_weight * (-surprise).sigmoid(), undesirable_weight * surprise.sigmoid())


def kto_baseline(log_ratios: Tensor) -> float:
    """z = max(0, mean log-ratio of *mismatched* pairs, each prompt with another's response), without gradient.

    A biased estimate of KL(π ‖ π_ref) that needs no sampling (Ethayarajh et al. 2024, section 4.1). `log_ratios` (S,)
    are summed over tokens; of none of them z is 0.

    >>> import torch
    >>> kto_baseline(torch.tensor([3.0, -1.0])), kto_baseline(torch.tensor([-3.0, 1.0])), kto_baseline(torch.zeros(0))
    (1.0, 0.0, 0.0)
    """
    return max(0.0, float(log_ratios.detach().mean())) if len(log_ratios) else 0.0


def pair_metrics(chosen: Tensor, rejected: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Weighted sums over pairs of rewards, without gradient: how often the chosen is ahead (a tie is half), and by how
    much, and both rewards. All arguments (P,).

    >>> import torch
    >>> found = pair_metrics(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), torch.tensor([0.5, 0.5]))
    >>> {name: value.item() for name, value in found.items()}
    {'accuracy': 0.75, 'margin': 1.0, 'chosen_reward': 0.5, 'rejected_reward': -0.5}
    """
    chosen, rejected = chosen.detach(), rejected.detach()
    ahead = torch.where(chosen == rejected, 0.5, (chosen > rejected).float())
    columns = {
        "accuracy": ahead,
        "margin": chosen - rejected,
        "chosen_reward": chosen,
        "rejected_reward": rejected,
    }
    return {name: (weights * column).sum() for name, column in columns.items()}
