"""`[loop]`: a recipe's stages once a round, each later round starting from what the one before it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from tether.config.problems import nearest
from tether.config.sections import Section

STAGE = "stage:"


class LoopConfig(Section):
    """`[loop]`: repeating collect → label → train → evaluate on the newest policy."""

    rounds: int = Field(default=1, ge=1)
    """How many times the stages from `first` on are gone through. Round 2's are called `NAME-r2`, and so on."""
    first: str | None = None
    """The first stage that is repeated; those before it run once."""
    carry: dict[str, str] = {}
    """Stage → the repeated stage whose model takes its place in later rounds: with `{ sft = "ppo" }`, a repeated
    stage's `model = "stage:sft"` stands for the round before's `ppo`. `reference` and `baseline` stay as written."""
    gather: tuple[str, ...] = Field(default=(), strict=False)
    """Repeated stages whose examples add up: who reads `stage:NAME` in a later round gets all rounds' so far."""

    @model_validator(mode="after")
    def _whole(self) -> LoopConfig:
        if self.rounds > 1 and (self.first is None or not self.carry):
            raise ValueError(
                "rounds > 1 needs `first`, the stage a round begins with, and `carry`, what it starts from"
            )
        return self


def named(name: str, number: int) -> str:
    """What a repeated stage is called in a round.

    >>> named("ppo", 1), named("ppo", 2)
    ('ppo', 'ppo-r2')
    """
    return name if number == 1 else f"{name}-r{number}"


def unroll(entries: Sequence[Any], loop: LoopConfig, seed: int, found: list[str]) -> list[Any]:
    """The `[[stage]]` tables of all rounds, one after the other; what is wrong with `[loop]` goes into `found`.

    A later round's stages draw from seeds of their own: the stage's, or the run's, plus the rounds before.
    """
    if loop.rounds == 1:
        return list(entries)
    names = [entry.get("name") for entry in entries if isinstance(entry, Mapping)]
    if loop.first not in names:
        found.append(
            f"[loop], field first: there is no stage '{loop.first}'; {nearest(str(loop.first), _texts(names))}"
        )
        return list(entries)
    repeated = _texts(names[names.index(loop.first) :])
    for field, given in (("carry", [*loop.carry.values()]), ("gather", [*loop.gather])):
        for name in given:
            if name not in repeated:
                found.append(f"[loop], field {field}: '{name}' is not a repeated stage; {nearest(name, repeated)}")
    for name in loop.carry:
        if name not in names:
            found.append(f"[loop], field carry: there is no stage '{name}'; {nearest(name, _texts(names))}")
    unrolled = list(entries)
    for number in range(2, loop.rounds + 1):
        for entry in entries:
            if isinstance(entry, Mapping) and entry.get("name") in repeated:
                again = _retold(entry, "", loop, repeated, number)
                own = entry.get("seed", seed)
                later = own + number - 1 if isinstance(own, int) else own
                unrolled.append({**again, "name": named(entry["name"], number), "seed": later})
    return unrolled


def _texts(names: Sequence[Any]) -> list[str]:
    return [name for name in names if isinstance(name, str)]


def _retold(value: Any, field: str, loop: LoopConfig, repeated: Sequence[str], number: int) -> Any:
    """A value of a repeated stage as it reads in a later round."""
    if isinstance(value, Mapping):
        told = {key: _retold(inner, key, loop, repeated, number) for key, inner in value.items()}
        target = str(value.get("path", "")).removeprefix(STAGE)
        if target in loop.gather and str(value.get("path")).startswith(STAGE):
            told["also"] = [f"{STAGE}{named(target, n)}" for n in range(1, number)] + list(told.get("also", ()))
        return told
    if isinstance(value, list):
        return [_retold(inner, field, loop, repeated, number) for inner in value]
    if not isinstance(value, str) or not value.startswith(STAGE):
        return value
    target = value.removeprefix(STAGE)
    if field == "model" and target in loop.carry:
        return STAGE + named(loop.carry[target], number - 1)
    return STAGE + named(target, number) if target in repeated else value
