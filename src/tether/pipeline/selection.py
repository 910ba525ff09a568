"""Active selection in a recipe: an ensemble of reward models says which pairs a `label` stage asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tether.errors import InputError
from tether.feedback.active import information, select_pairs
from tether.feedback.label import candidates
from tether.pipeline.artifacts import read_json, write_json
from tether.pipeline.place import Place
from tether.pipeline.sections import SelectConfig
from tether.types import Group

BUDGET = 2048
"""Tokens of one forward of a reward model: speed and memory only."""


class Selection(NamedTuple):
    """What a `label` stage asks about."""

    pool: int
    """Pairs there were to choose from."""
    chosen: dict[int, dict[str, Any]]
    """Place of a chosen group → arm, propensity and score."""


def select_groups(place: Place, config: SelectConfig, groups: Sequence[Group], read: str) -> Selection:
    """Chooses by the stage's seed, and keeps what it chose in `selection.json`.

    A run that was killed thus goes on with the same pairs, though a score may come out otherwise in its last digit.
    `read` is the hash of the tokenizer that the groups' tokens are of. InputError: fewer pairs than `config.num`, or a
    reward model whose scores are not finite.
    """
    file = place.folder / "selection.json"
    kept = read_json(file)
    if kept is None:
        pool = candidates([asdict(group) for group in groups])
        if len(pool) < config.num:
            raise InputError(
                f"select.num = {config.num}: {len(groups)} pairs were sampled, of which {len(pool)} are different "
                "questions with two different answers; choose at most so many, or sample more"
            )
        scores = pair_scores(place, config, [groups[at] for at in pool], read)
        picked = select_pairs(
            information(scores), config.num, uniform=config.uniform, power=config.power, seed=place.seed
        )
        records = sorted(({"group": pool[one.pair], **one.record()} for one in picked), key=lambda row: row["group"])
        kept = {"pool": len(pool), "chosen": records}
        write_json(file, kept)
    return Selection(kept["pool"], {row.pop("group"): row for row in kept["chosen"]})


def pair_scores(place: Place, config: SelectConfig, pairs: Sequence[Group], read: str) -> NDArray[np.float64]:
    """(E, P, 2) every member's scores of every pair; one reward model in memory at a time."""
    members = []
    for name in config.models:
        scorer = place.reward_model(name, read, device=config.device, token_budget=BUDGET)
        scores = scorer.heads(pairs).double().cpu()  # (2P, heads)
        if not bool(torch.isfinite(scores).all()):
            raise InputError(f"select.models: {name} gave no finite score for some of {len(scores)} responses")
        members.append(scores.T.reshape(-1, len(pairs), 2))
    found: NDArray[np.float64] = torch.cat(members).numpy()
    return found
