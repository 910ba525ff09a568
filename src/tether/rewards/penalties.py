"""What a score loses for the form of a response: an end of turn that is missing, and length. Pure, one a response.

Shapes: `S` responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tether.types import Group


def missing_end(scores: Tensor, groups: Sequence[Group], rule: Literal["penalty", "replace"], value: float) -> Tensor:
    """(S,) scores (S,) with the rule applied to responses that did not end their turn.

    `penalty` subtracts `value`, which leaves better and worse cut responses apart; `replace` sets the score to `value`,
    whatever the reward model thinks of half a reply (-1 in Ziegler et al. 2019 and Huang et al. 2024).
    """
    ended = [response.ended for group in groups for response in group.responses]
    changed = scores - value if rule == "penalty" else torch.full_like(scores, value)
    return torch.where(torch.tensor(ended, device=scores.device), scores, changed)


def length_penalty(groups: Sequence[Group], free: int, per_token: float, most: float = float("inf")) -> Tensor:
    """(S,) float32 to subtract: `per_token` for each token after the first `free`, at most `most`.

        p_s = min(most, per_token · max(0, |y_s| - free))

    DAPO's soft punishment of overlong responses (Yu et al. 2025, eq. 13) is `free = L_max - L_cache`,
    `per_token = 1 / L_cache`, `most = 1`. |y| counts trained tokens, the end-of-turn token included.
    """
    lengths = torch.tensor([response.num_trained for group in groups for response in group.responses])
    return ((lengths - free).clamp(min=0) * per_token).float().clamp(max=most)
