"""What goes into the store and what comes out of it, as plain frozen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tether.errors import InputError

UserKind = Literal["human", "ai", "simulated"]
ItemKind = Literal["pair", "ranking", "rating", "edit"]
ProjectState = Literal["open", "paused", "closed"]


class Missing(InputError):
    """What was named is not there, or not this user's to see."""


class Conflict(InputError):
    """The store has moved on: answered already, time ran out, taken back."""


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A prompt to be answered. Its identity is its text, messages and token ids; `meta` of the first adding is kept."""

    text: str
    """The prompt as a person reads it."""
    messages: Sequence[Mapping[str, str]] = ()
    """The conversation so far; empty when the prompt is plain text."""
    token_ids: Sequence[int] = ()
    """The prompt as the model reads it; empty when not known."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever came with it, JSON-able."""


@dataclass(frozen=True, slots=True)
class NewResponse:
    """One response. Its identity is its prompt, text, token ids, ending, checkpoint and sampling parameters."""

    prompt: int
    """Id of the prompt it answers."""
    text: str
    """What annotators read."""
    token_ids: Sequence[int] = ()
    """What the model wrote; empty when not known."""
    ended: bool = True
    """Whether the model closed its turn."""
    checkpoint: str | None = None
    """Which model wrote it; None for a person."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """How it was drawn: temperature, seed …"""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever came with it, JSON-able."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """A question to annotators about responses to a prompt. Its identity is its project, kind and set of responses."""

    responses: Sequence[int]
    """Ids of different responses to one prompt: two of a pair, 2 to 9 of a ranking, 1 to 9 to rate, one to edit."""
    overlap: int = 3
    """How many annotators answer it. Adding the item again with a larger number raises it."""
    kind: ItemKind | None = None
    """None for a pair or a ranking, by the number of responses."""
    project: int = 1
    """Id of its project; 1 is "default", which is always there."""
    gold: Mapping[int, int] | None = None
    """The ranking expected, response id → rank. Everybody of the project is asked, and nobody told that it is gold."""
    selection: Mapping[str, Any] | None = None
    """Why it was chosen, JSON-able: `arm`, `propensity`, `score` (see active.py)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A response as an annotator sees it: nothing tells which checkpoint wrote it."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """One annotator's turn at one item."""

    id: int
    item: int
    key: str
    """The item's content hash: the same in every store."""
    user: int
    prompt: str
    messages: tuple[Mapping[str, str], ...]
    responses: tuple[Shown, ...]
    """In the order shown to this annotator, which is recorded."""
    expires: float
    """The place is held until then, in seconds since 1970."""
    kind: ItemKind = "pair"
    project: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What an annotator says about an assignment: what the item's kind asks for, or a reason to skip it.

    A pair or ranking wants a `ranking`, a rating `ratings`, an edit a `correction`.
    """

    assignment: int
    submit_key: str
    """Chosen by the sender, once per answer: sending the same key again returns what was stored the first time."""
    guideline: int
    """Version of the guideline the annotator was shown."""
    ranking: Mapping[int, int] | None = None
    """Response id → rank, 0 the best, equal ranks tie; a response left out is not ranked."""
    strength: float | None = None
    """How clear the difference is: 0 (none) to 3."""
    all_bad: bool = False
    """None of the responses is acceptable."""
    skip: str | None = None
    """Why there is no ranking."""
    rationale: str | None = None
    seconds: float | None = None
    """How long the annotator took."""
    ratings: Mapping[int, Mapping[str, int]] | None = None
    """Response id → attribute → value."""
    correction: str | None = None
    """A better answer in the annotator's words."""
    flag: str | None = None
    """What is wrong with the item itself, whatever the answer."""


@dataclass(frozen=True, slots=True)
class LastWord:
    """What settles an item, whatever the votes."""

    item: int
    user: int
    """Who adjudicates."""
    submit_key: str
    guideline: int
    ranking: Mapping[int, int]
    """Response id → rank, for every response."""
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A stored answer, its taking back ("undo") or the last word on a disputed item ("adjudicate"). Never changed."""

    id: int
    """Dense, in the order of commits."""
    assignment: int
    item: int
    user: int
    guideline: int
    action: Literal["rank", "rate", "edit", "skip", "undo", "adjudicate"]
    ranking: Mapping[int, int] | None
    strength: float | None
    all_bad: bool
    skip: str | None
    rationale: str | None
    seconds: float | None
    submit_key: str
    revision: int
    """0 for the first of its assignment, then 1, 2 …"""
    supersedes: int | None
    """The judgement this one replaces."""
    created: float
    shown: tuple[int, ...]
    """Response ids in the order the annotator saw them."""
    ratings: Mapping[int, Mapping[str, int]] | None = None
    correction: str | None = None
    flag: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Which judgements. Empty tuples mean all."""

    projects: tuple[int, ...] = ()
    items: tuple[int, ...] = ()
    users: tuple[int, ...] = ()
    user_kinds: tuple[UserKind, ...] = ()
    guidelines: tuple[int, ...] = ()
    checkpoints: tuple[str, ...] = ()
    """Only items whose every response was written by one of these."""
    until: int | None = None
    """The last judgement to know of; None for the newest there is."""


@dataclass(frozen=True, slots=True)
class Past:
    """An answer or skip in force, with what its annotator saw."""

    judgement: Judgement
    prompt: str
    messages: tuple[Mapping[str, str], ...]
    responses: tuple[Shown, ...]
    """In the order shown."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """An item whose annotators do not agree which response is the best."""

    item: int
    key: str
    prompt: str
    messages: tuple[Mapping[str, str], ...]
    responses: tuple[Shown, ...]
    """In an order that tells nothing of where they came from."""
    judgements: tuple[Judgement, ...]
    """The rankings in force, by id."""
    adjudication: Judgement | None
    """The last word, when there is one."""


class Effort(NamedTuple):
    """What one annotator did in a project, gold items included."""

    user: int
    answers: int
    skips: int
    seconds: float | None
    """Median time of an answer; None where none was measured."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a project is. Gold items are counted in `gold` and `by_user` alone."""

    items: int
    done: int
    """Items with all the answers they want."""
    answers: int
    wanted: int
    """Answers that all items want together."""
    skips: int
    gold: int
    """Gold items."""
    open: int
    """Leases that have not ended."""
    by_user: tuple[Effort, ...]
    """By user id; who neither answered nor skipped is left out."""


class VotedPair(NamedTuple):
    """One annotator's ranking of two responses, maybe among others, by their texts in alphabetical order."""

    prompt: str
    first: str
    second: str
    side: int
    """-1: the first is better, 1: the second is, 0: a tie."""
    user: int
