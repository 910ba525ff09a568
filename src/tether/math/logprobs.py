"""Log-probabilities and entropies of response tokens, without ever holding all logits.

Shapes: `N` response tokens, `d` width, `V` vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Logits(NamedTuple):
    """What a model does to its head's outputs x to make logits.

    Without a soft cap x · scale (Granite, Cohere); with one softcap · tanh(x · scale / softcap) (Gemma 2).
    """

    scale: float = 1.0
    softcap: float | None = None


_PLAIN = Logits()


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    transform: Logits = _PLAIN,
    entropy: bool = False,
    chunk_elements: int = 2**25,
) -> tuple[Tensor, Tensor | None]:
    """Each target's log-softmax and, if asked, the entropy in nats of the distribution it was drawn from.

    `hidden` (N, d) are the states that predict `targets` (N,); `weight` (V, d) and `bias` (V,) are the head's. Logits
    are divided by `temperature`. Returns ((N,), (N,) or None) in fp32 (fp64 for fp64 inputs), both with gradient.

    Rows go through the vocabulary in chunks of at most `chunk_elements` logits (but at least a row); with more than
    one chunk, logits are not kept for the backward pass but computed again. The chunking never changes the result
    beyond rounding.

    >>> hidden, weight = torch.zeros(2, 3), torch.ones(4, 3)
    >>> logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0, 3]), entropy=True)
    >>> [round(x, 4) for x in (*logprobs.tolist(), *entropy.tolist())]
    [-1.3863, -1.3863, 1.3863, 1.3863]
    """
    num_rows = max(1, chunk_elements // len(weight))
    num_chunks = -(-len(hidden) // num_rows)
    if num_chunks <= 1:
        return _chunk(hidden, weight, targets, bias, temperature, transform, entropy)
    # Equal chunks rather than full ones and a small rest.
    parts: list[tuple[Tensor, Tensor | None]] = []
    for rows, wanted in zip(hidden.tensor_split(num_chunks), targets.tensor_split(num_chunks), strict=True):
        args = (rows, weight, wanted, bias, temperature, transform, entropy)
        if torch.is_grad_enabled():
            part = checkpoint(_chunk, *args, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
            parts.append(cast("tuple[Tensor, Tensor | None]", part))
        else:
            parts.append(_chunk(*args))
    entropies = [h for _, h in parts if h is not None]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat(entropies) if entropies else None


def _chunk(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: float,
    transform: Logits,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    logits = F.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    scale, softcap = transform
    if softcap is not None:
        logits = logits.mul(scale / softcap).tanh() * (softcap / temperature)
    elif scale != temperature:
        # In place: nothing needs the unscaled logits, here or in the backward pass.
        logits = logits.mul_(scale / temperature)
    if not entropy:
        return -F.cross_entropy(logits, targets, reduction="none"), None
    logp = logits.log_softmax(-1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)
