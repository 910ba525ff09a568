"""The verifier `gym`: an answer to a reasoning-gym task, scored by the task itself (1 is right; parts give parts).

For data from `gym:TASK`, whose rows bring the task's own entry along.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from pydantic import model_validator
from torch import Tensor

from tether.config import Section
from tether.data.gym import make_task
from tether.errors import InputError
from tether.rewards.answers import Pattern, captured, graded, place_of
from tether.types import Group, Prompt


class Gym(Section):
    """The score that a reasoning-gym task gives an answer, 0 to 1; needs reasoning-gym (extra `verify`).

    Many tasks give a small score to any answer at all, and a part for a right answer among other words.
    """

    pattern: Pattern | None = None
    """What of the response is the answer: the first group of this expression's last match (`.` takes line ends too);
    all of it, spaces at its ends aside, when not given."""

    @model_validator(mode="after")
    def _installed(self) -> Gym:
        if find_spec("reasoning_gym") is None:
            raise InputError("needs the package reasoning-gym: pip install 'tether-rlhf[verify]'")
        return self

    def grade(self, text: str, prompt: Prompt) -> float:
        entry = prompt.meta.get("entry")
        name = entry.get("metadata", {}).get("source_dataset") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise InputError(
                f"{place_of(prompt)}: has no entry of a reasoning-gym task; valid for `gym`: data of gym:TASK"
            )
        answer = text if self.pattern is None else captured(self.pattern, text)
        if answer is None:
            return 0.0
        try:
            score = float(_task(name).score_answer(answer.strip(), entry))
        except Exception:  # a task reads the model's words, and not every task is ready for all of them
            return 0.0
        return score if math.isfinite(score) else 0.0

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return graded(groups, self.grade)


@functools.cache
def _task(name: str) -> Any:
    """A task by name, to score with; its settings are for making prompts."""
    return make_task(name)
