"""Drawing tokens: one uniform number a token, from the sample's own key, turned into a token by the inverse CDF.

A key depends on the seed, the prompt's tokens and the sample's number alone, so a sample does not depend on its batch
neighbours, on the batch's size, or on the order of the prompts.

Shapes: `B` rows, `S` samples, `V` vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor, nn

from tether.config import SamplingConfig
from tether.types import Prompt

BLOCK = 64
"""Tokens summed at a time when a token is looked up in the distribution."""


def sample_keys(prompts: Sequence[Prompt], k: int, seed: int) -> Tensor:
    """(S,) int64 keys of the k samples of each prompt, prompt by prompt.

    A prompt that occurs again gets other keys than before: copies in one batch are further samples, not repetitions.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    keys: list[int] = []
    for prompt in prompts:
        occurrence = seen[prompt.token_ids]
        seen[prompt.token_ids] += 1
        stem = blake2b(repr((seed, prompt.token_ids, occurrence)).encode(), digest_size=8)
        for sample in range(k):
            own = stem.copy()
            own.update(b"/%d" % sample)
            keys.append(int.from_bytes(own.digest(), "little", signed=True))
    return torch.tensor(keys, dtype=torch.int64)


def uniforms(keys: Tensor, step: Tensor) -> Tensor:
    """(B,) float64 in [0, 1): the `step`-th number (B,) of each key's stream (B,), both int64.

    SplitMix64 (Steele, Lea, Flood 2014) as a counter: number t is mix(key + (t+1)·step), with no state to carry along.
    """
    z = keys + (step + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).double() * 2.0**-53


def draw(logits: Tensor, uniform: Tensor | None, params: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Tokens (B,) int64 and their log-probs (B,) float32, from logits (B, V); greedy where `uniform` (B,) is None.

    Temperature first, then top-k, then top-p of what top-k left. The log-prob is of the full distribution at the
    temperature, before top-k and top-p: what a trainer computes.
    """
    logprobs = torch.log_softmax(logits if params.temperature == 1.0 else logits / params.temperature, dim=-1)
    if uniform is None:
        tokens = logprobs.argmax(-1)
    else:
        tokens = inverse_cdf(kept(logprobs.exp(), params.top_k, params.top_p), uniform)
    return tokens, logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """(B,) int64: the first token at which the running sum of `weights` (B, V) exceeds `uniform` (B,) of their total.

    Running sums are float64: over 150,000 float32 numbers they are off by more than a rare token's probability.
    They are taken over blocks first and then within the one block that is hit, which is several times faster than
    over all tokens. A token of weight 0 is never given. A NaN gives some valid token.
    """
    blocks = nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK)).view(len(weights), -1, BLOCK)
    cdf = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform.unsqueeze(-1) * cdf[:, -1:]
    block = torch.searchsorted(cdf, target, right=True).clamp_(max=cdf.shape[-1] - 1)
    target -= cdf.gather(-1, block - 1 + (block == 0)) * (block > 0)
    inner = blocks[torch.arange(len(blocks), device=blocks.device), block.squeeze(-1)].cumsum(-1, dtype=torch.float64)
    # The two sums may round apart; below the block's total there is always a token to hit.
    target = torch.minimum(target, inner[:, -1:] * (1 - 2.0**-53))
    place = torch.searchsorted(inner, target, right=True)
    return (block * BLOCK + place).squeeze(-1).clamp_(max=weights.shape[-1] - 1)


def kept(probs: Tensor, top_k: int, top_p: float) -> Tensor:
    """`probs` (B, V) with those outside top-k, then outside top-p of the rest, set to 0; not renormalised.

    Top-p (Holtzman et al. 2020) keeps the smallest set that reaches p, so always the likeliest token. Of equal
    probabilities the lower id comes first.
    """
    if not 0 < top_k < probs.shape[-1] and top_p == 1.0:
        return probs
    ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
    if 0 < top_k < probs.shape[-1]:
        ordered[:, top_k:] = 0
    if top_p < 1.0:
        cdf = ordered.cumsum(-1, dtype=torch.float64)
        ordered = ordered.masked_fill(cdf - ordered >= top_p * cdf[:, -1:], 0)
    return torch.empty_like(probs).scatter_(-1, ids, ordered)


def _signed(constant: int) -> int:
    """The 64-bit constant as two's complement: torch has no unsigned 64-bit arithmetic."""
    return constant - 2**64 if constant >= 2**63 else constant


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
