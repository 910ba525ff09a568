"""How far a policy has moved from its reference, in nats a response."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tether.errors import InputError
from tether.evals.bootstrap import Floats, interval, numbers, paired
from tether.types import Interval


def sequence_kl(
    logprobs: ArrayLike, ref_logprobs: ArrayLike, lengths: ArrayLike, *, num: int = 2000, seed: int = 0
) -> Interval:
    """KL(policy ‖ reference) of whole responses: the mean over S sampled responses of Σ_t (log π - log π_ref).

    Log-probs (N,) of the sampled tokens, response after response, and `lengths` (S,), as on the flat token axis. It is
    the unbiased k1 estimate: single responses may be negative. The responses must be sampled from the policy, at the
    temperature of the log-probs, without top-k or top-p. InputError when the lengths don't sum to N.

    >>> sequence_kl([-1.0, -1.0, -2.0], [-1.5, -2.0, -1.5], [2, 1]).estimate
    0.5
    """
    return interval(response_log_ratios(logprobs, ref_logprobs, lengths), num=num, seed=seed)


def response_log_ratios(logprobs: ArrayLike, ref_logprobs: ArrayLike, lengths: ArrayLike) -> Floats:
    """(S,): Σ_t (log π - log π_ref) of each response; 0 for an empty one."""
    ours, theirs = paired("logprobs", logprobs, "ref_logprobs", ref_logprobs)
    sizes = numbers("lengths", lengths).astype(np.int64)
    if sizes.min() < 0:
        raise InputError(f"lengths: entry {int(sizes.argmin())} is negative")
    if sizes.sum() != len(ours):
        raise InputError(f"lengths: sum to {sizes.sum()}, but there are {len(ours)} log-probs")
    owner = np.repeat(np.arange(len(sizes)), sizes)
    found: Floats = np.bincount(owner, weights=ours - theirs, minlength=len(sizes)).astype(np.float64)
    return found


def best_of_n_kl(n: int) -> float:
    """An upper bound, near exact, on the KL of best-of-n sampling from its policy: ln n - (n - 1)/n (Stiennon 2020).

    >>> best_of_n_kl(1)
    0.0
    """
    if n < 1:
        raise InputError(f"n {n}: must be at least 1")
    return math.log(n) - (n - 1) / n
