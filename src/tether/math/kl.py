"""Estimators of KL(π ‖ π_ref) from sampled tokens, and the controller of its coefficient.

With samples from π and the log-ratio l = log π − log π_ref of the sampled token (`logprobs - ref_logprobs`), Schulman
2020 ("Approximating KL divergence") estimates

    k1 = l                    unbiased, high variance, negative for half the tokens
    k2 = l² / 2               biased, low variance, never negative
    k3 = exp(−l) − 1 + l      unbiased, low variance, never negative

That is about their *value*. As a *reward* only k1 also has the right gradient, ∇ KL(π ‖ π_ref) of whole responses; k2
and k3 pull elsewhere, and hardly hold. Used as a *loss* (differentiated through `logprobs`, on-policy), their expected
gradients are those of the next token's distributions at the states visited; what a token does to the KL of later ones
is left out:

    k1   0: E[∇ log π] = 0, so it pulls nowhere
    k2   ∇ KL(π ‖ π_ref), unbiased for the next token: the one to use as a loss
    k3   ∇ KL(π_ref ‖ π), the other direction; equal to second order near π_ref (GRPO uses it)

All of shape (N,), over response tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """l = log π − log π_ref. As a reward it gives the unbiased policy gradient of the KL; as a loss, none.

    >>> import torch
    >>> k1(torch.tensor([-1.0]), torch.tensor([-3.0])).item()
    2.0
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """l² / 2. As a loss its gradient is an unbiased estimate of ∇ KL(π ‖ π_ref) of the next token.

    >>> import torch
    >>> k2(torch.tensor([-1.0]), torch.tensor([-3.0])).item()
    2.0
    """
    return 0.5 * (logprobs - ref_logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(−l) − 1 + l. As a loss its gradient estimates ∇ KL(π_ref ‖ π), not ∇ KL(π ‖ π_ref).

    >>> import torch
    >>> round(k3(torch.tensor([-1.0]), torch.tensor([-3.0])).item(), 4)
    1.1353
    """
    log_ratio = logprobs - ref_logprobs
    # expm1: near the reference exp(−l) − 1 would cancel to 0 in fp32.
    return (-log_ratio).expm1() + log_ratio


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""Name → (logprobs (N,), ref_logprobs (N,)) → (N,)."""


def adapt_beta(beta: float, kl: float, target: float, num_responses: int, horizon: int) -> float:
    """The next KL coefficient (Ziegler et al. 2019, §2.2): multiplicative control towards `target` nats a response.

        error = clip((kl − target) / target, ±0.2),   β ← β · (1 + error · num_responses / horizon)

    `kl` is the mean KL of a response, summed over its tokens; `horizon` is in responses. More responses than the
    horizon count as one horizon, so that β stays positive. Raises ValueError for a `kl` that is not finite, and for a
    `target` or `horizon` that is not positive.

    >>> adapt_beta(0.5, kl=30.0, target=6.0, num_responses=100, horizon=1000)
    0.51
    """
    if not math.isfinite(kl):
        raise ValueError(f"the measured KL is {kl}, which no coefficient can steer")
    if target <= 0 or horizon <= 0:
        raise ValueError(f"target={target} and horizon={horizon} must be positive")
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error * min(1.0, num_responses / horizon))
