"""What an annotator says about a task, by position, and what the store is told of it, by response.

Every error speaks of positions and of the task's number: nothing here names an id of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from tether.errors import InputError
from tether.feedback import work
from tether.feedback.facts import add_guideline
from tether.feedback.projects import Settings, versions
from tether.feedback.records import Answer, Conflict, Judgement, Shown
from tether.feedback.schema import LARGEST
from tether.feedback.store import Store
from tether.feedback.web.turns import Turn, by_number, held_in, stored_answer

Rank = Annotated[int, Field(strict=True, ge=0, le=8)]
LETTERS = "ABCDEFGHI"
"""What responses are called, by position."""


class Said(BaseModel):
    """An answer by the positions shown: `ranking`, `ratings` or `correction` as the task's kind asks, or `skip`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    submit_key: str = Field(min_length=1, max_length=80)
    """Chosen by the sender, once per answer; the same key again returns what was stored the first time."""
    guideline_version: int = Field(strict=True, ge=0, le=LARGEST)
    """The version the task was shown with; 0 for none."""
    ranking: list[Rank | None] | None = Field(default=None, max_length=9)
    """Each response's rank, 0 the best, equal ranks tie; null leaves it out."""
    ratings: list[dict[str, Annotated[int, Field(strict=True, ge=-10, le=10)]]] | None = Field(
        default=None, max_length=9
    )
    """Each response's value of every attribute."""
    correction: str | None = Field(default=None, max_length=100_000)
    """A better answer, where the task takes one."""
    skip: str | None = Field(default=None, max_length=2000)
    """One of the project's reasons to skip."""
    strength: float | None = Field(default=None, ge=0, le=3, allow_inf_nan=False)
    """Of a pair: how clear the difference is, from 0 (hardly) to 3 (much)."""
    all_bad: bool = False
    """No response is acceptable."""
    rationale: str | None = Field(default=None, max_length=20_000)
    """Why."""
    flag: str | None = Field(default=None, max_length=2000)
    """One of the project's reasons to flag, or such a reason, ": " and a note."""
    seconds: float | None = Field(default=None, ge=0, le=1e7, allow_inf_nan=False)
    """Spent on the task."""


def options(settings: Settings) -> dict[str, Any]:
    """What a task of the project may be answered with."""
    asked = ("ties", "all_bad", "strength", "attributes", "rationale", "correction", "skip_reasons", "flag_reasons")
    return settings.model_dump(mode="json", include=set(asked))


def give(store: Store, user: int, number: int, submit_key: str, said_of: Callable[[Turn], Said]) -> Judgement:
    """Stores what is said of an open turn, or returns what was stored under this key before. Errors as below."""
    with store.writing() as db:
        try:
            turn = held_in(db, store, user, number)
        except Conflict:
            stored = stored_answer(db, user, number, own_key(user, submit_key))
            if stored is None:
                raise
            return stored
        now = store.now()
        answer = _answer(db, now, user, turn, said_of(turn))
        with by_number(turn.number, turn.assignment.id):
            return work.submit(db, [answer], user, now)[0]


def _answer(db: Connection, now: float, user: int, turn: Turn, said: Said) -> Answer:
    """What the store is told. InputError: it is not what the task asks."""
    where = f"task {turn.number}"
    _check_options(where, turn, said)
    shown = turn.assignment.responses
    return Answer(
        assignment=turn.assignment.id,
        submit_key=own_key(user, said.submit_key),
        guideline=_guideline(db, now, where, turn, said.guideline_version),
        ranking=None if said.skip is not None else _ranking(where, turn, said),
        strength=said.strength,
        all_bad=said.all_bad,
        skip=said.skip,
        rationale=said.rationale or None,
        seconds=said.seconds,
        ratings=None if said.ratings is None else _ratings(where, turn, shown, said.ratings),
        correction=said.correction,
        flag=said.flag or None,
    )


def own_key(user: int, submit_key: str) -> str:
    """The store's key: nobody learns by a clash that another used the same."""
    return f"{user}.{submit_key}"


def by_position(judgement: Judgement) -> dict[str, Any]:
    """A stored answer as its annotator gave it, in the terms of `Said`."""
    ranking, ratings = judgement.ranking, judgement.ratings
    return {
        "ranking": None if ranking is None else [ranking.get(response) for response in judgement.shown],
        "ratings": None if ratings is None else [ratings[response] for response in judgement.shown],
        "correction": judgement.correction,
        "skip": judgement.skip,
        "strength": judgement.strength,
        "all_bad": judgement.all_bad,
        "rationale": judgement.rationale,
        "flag": judgement.flag,
        "seconds": judgement.seconds,
    }


def order_said(ranks: Sequence[int | None]) -> str:
    """A ranking by the letters responses are shown under.

    >>> order_said([0, 2, 0, None])
    'A = C > B'
    """
    places = sorted({rank for rank in ranks if rank is not None})
    return " > ".join(" = ".join(letter for letter, r in zip(LETTERS, ranks, strict=False) if r == at) for at in places)


def _check_options(where: str, turn: Turn, said: Said) -> None:
    """InputError for what the project does not ask, or asks and did not get."""
    settings, kind = turn.project.settings, turn.assignment.kind
    if said.skip is not None:
        if said.skip not in settings.skip_reasons:
            raise InputError(f"{where}: the reason to skip is none of the project's; see options.skip_reasons")
        if any(part is not None for part in (said.ranking, said.ratings, said.correction)):
            raise InputError(f"{where}: give either an answer or a reason to skip, not both")
    if said.strength is not None and not (settings.strength and kind == "pair"):
        raise InputError(f"{where}: does not ask how clear the difference is; leave strength out")
    if said.all_bad and not (settings.all_bad and kind in ("pair", "ranking")):
        raise InputError(f"{where}: does not ask whether all are bad; leave all_bad out")
    if said.correction is not None and not (settings.correction or kind == "edit"):
        raise InputError(f"{where}: does not ask for a better answer; leave correction out")
    if said.rationale and settings.rationale == "off":
        raise InputError(f"{where}: does not ask for reasons; leave rationale out")
    if settings.rationale == "required" and said.skip is None and not (said.rationale or "").strip():
        raise InputError(f"{where}: say why: the project wants a reason with each answer")
    if said.flag and not any(said.flag == r or said.flag.startswith(f"{r}: ") for r in settings.flag_reasons):
        raise InputError(f"{where}: what is reported is none of the project's reasons; see options.flag_reasons")


def _ranking(where: str, turn: Turn, said: Said) -> dict[int, int] | None:
    """Response id → rank. "All bad" without a ranking makes them equal."""
    shown, given = turn.assignment.responses, said.ranking
    if given is None:
        return {response.id: 0 for response in shown} if said.all_bad else None
    if turn.assignment.kind not in ("pair", "ranking"):
        raise InputError(f"{where}: takes no ranking")
    if len(given) != len(shown):
        raise InputError(f"{where}: shows {len(shown)} responses, and the ranking has {len(given)}")
    ranks = [rank for rank in given if rank is not None]
    if len(ranks) < 2:
        raise InputError(f"{where}: rank two or more of the responses")
    if len(set(ranks)) < len(ranks) and not turn.project.settings.ties and not said.all_bad:
        raise InputError(f"{where}: the project takes no ties; decide which is better")
    return {response.id: rank for response, rank in zip(shown, given, strict=True) if rank is not None}


def _ratings(
    where: str, turn: Turn, shown: Sequence[Shown], given: Sequence[Mapping[str, int]]
) -> dict[int, dict[str, int]]:
    attributes = {attribute.name: attribute for attribute in turn.project.settings.attributes}
    if not attributes:
        raise InputError(f"{where}: does not ask for ratings; leave them out")
    if len(given) != len(shown):
        raise InputError(f"{where}: shows {len(shown)} responses, and {len(given)} are rated")
    for letter, values in zip(LETTERS, given, strict=False):
        if set(values) != set(attributes):
            raise InputError(f"{where}: rate response {letter} by {', '.join(attributes)}, by all and no other")
        for name, value in values.items():
            low, high = attributes[name].low, attributes[name].high
            if not low <= value <= high:
                raise InputError(f"{where}: {name} of response {letter} is {value}, not a number {low} to {high}")
    return {response.id: dict(values) for response, values in zip(shown, given, strict=True)}


def _guideline(db: Connection, now: float, where: str, turn: Turn, version: int) -> int:
    """The store's id of a version of the project's guideline; without any, of the empty text."""
    if version == 0:
        return add_guideline(db, "", now)
    if turn.project.guideline is not None and turn.project.guideline.version == version:
        return turn.project.guideline.id
    found = next((known.id for known in versions(db, turn.project.id) if known.version == version), None)
    if found is None:
        raise InputError(f"{where}: its project has no guideline of version {version}")
    return found
