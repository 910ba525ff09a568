"""Rows of the shape `judgements`, as JSON or a table of columns keeps them → records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tether.config.problems import first_problem
from tether.data.rows import Row
from tether.errors import InputError
from tether.feedback.foreign import Reading, Record, Said, prompt_parts
from tether.feedback.records import ItemKind, UserKind

_SAID = ("correction", "skip", "rationale", "flag", "strength", "all_bad", "seconds", "created")


class _Turn(BaseModel):
    """A message of the prompt."""

    model_config = ConfigDict(strict=True)

    role: str
    content: str


class _Shown(BaseModel):
    """A response."""

    model_config = ConfigDict(strict=True)

    text: str
    checkpoint: str | None = Field(max_length=500)
    ended: bool


class _Judgement(BaseModel):
    """A row; what else it holds is not read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    kind: ItemKind
    prompt: str | list[_Turn] = Field(min_length=1)
    shown: list[_Shown] = Field(min_length=1)
    annotator: str
    annotator_kind: UserKind
    action: str
    ranks: list[int | None] | None
    ratings: list[dict[str, int | None]] | None
    """A table gives every row every attribute: what was not rated is None."""
    correction: str | None
    skip: str | None
    rationale: str | None
    flag: str | None
    strength: float | None
    all_bad: bool
    seconds: float | None
    created: float | None
    order_known: bool
    gold: list[int | None] | None
    meta: dict[str, Any]

    @field_validator("meta", mode="before")
    @classmethod
    def _unpacked(cls, value: Any) -> Any:
        """A table keeps it as JSON text. JSON has no infinities."""
        try:
            text = value if isinstance(value, str) else json.dumps(value)
            return json.loads(text, parse_constant=lambda _: None)
        except (TypeError, ValueError):
            raise ValueError("is no JSON") from None

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        for name in ("ranks", "ratings", "gold"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.shown):
                raise ValueError(f"{name} has {len(given)} values for {len(self.shown)} responses shown")
        return self


def read_judgements(rows: Sequence[Row], source: str, reading: Reading, editing: bool) -> Iterator[Record]:
    """The responses of each in the order they were shown. InputError names record and field."""
    for number, row in enumerate(rows, 1):
        where = f"{source}, record {number}"
        try:
            yield _record(_Judgement.model_validate(row), where)
        except ValidationError as error:
            raise InputError(f"{where}: is no row of a `judgements` export ({_first(error)})") from None


def _first(error: ValidationError) -> str:
    finding = error.errors(include_url=False)[0]
    if finding["loc"][:1] == ("prompt",) and finding["type"] != "missing":
        return "prompt: Input should be text, or a list of messages with role and content"
    return first_problem([finding])


def _record(row: _Judgement, where: str) -> Record:
    asked = row.prompt if isinstance(row.prompt, str) else [turn.model_dump() for turn in row.prompt]
    text, messages = prompt_parts(asked)
    rated = [{name: value for name, value in one.items() if value is not None} for one in row.ratings or ()]
    said = Said(
        f"tether:{row.annotator}",
        row.annotator_kind,
        None if row.ranks is None else tuple(row.ranks),
        None if row.ratings is None else tuple(rated),
        **{name: getattr(row, name) for name in _SAID},
    )
    annotated = row.action != "adjudicate"
    return Record(
        where,
        text,
        tuple(one.text for one in row.shown),
        (said,) if annotated else (),
        messages,
        tuple(one.checkpoint for one in row.shown),
        tuple(one.ended for one in row.shown),
        shown=row.order_known,
        gold=None if row.gold is None else tuple(row.gold),
        meta=row.meta,
        left_out=int(not annotated),
        kind=row.kind,
    )
