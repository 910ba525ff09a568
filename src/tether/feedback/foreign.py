"""Other tools' records in this store's terms: which field is the prompt, which are responses, what an answer says.

A record of Argilla or Label Studio has named fields and, for each annotator, values for named questions. What a value
means follows from its form: an order of the responses' names is a ranking, one name a choice, "tie" a tie, a number the
rating of the one response it is about, any other text the reason why (or, about a single response, a better answer).
Words among which a response is named are a choice only where the annotator said nothing else about that record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tether.data.formats import ALIASES, ROLES
from tether.errors import InputError
from tether.feedback.records import ItemKind, UserKind
from tether.types import Message


@dataclass(frozen=True, slots=True)
class Said:
    """What one annotator says about a record; `ranks` and `ratings` in the order of its responses."""

    user: str
    kind: UserKind = "human"
    ranks: tuple[int | None, ...] | None = None
    """0 the best, equal ranks tie, None not ranked."""
    ratings: tuple[Mapping[str, int], ...] | None = None
    correction: str | None = None
    skip: str | None = None
    rationale: str | None = None
    flag: str | None = None
    strength: float | None = None
    all_bad: bool = False
    seconds: float | None = None
    created: float | None = None
    """Seconds since 1970; None when not known."""


@dataclass(frozen=True, slots=True)
class Record:
    """A prompt, responses to it, and everybody's answers."""

    where: str
    """File and record, for error messages."""
    prompt: str
    responses: tuple[str, ...]
    said: tuple[Said, ...] = ()
    messages: tuple[Message, ...] = ()
    checkpoints: tuple[str | None, ...] = ()
    """Who wrote each response; empty when not known."""
    ended: tuple[bool, ...] = ()
    shown: bool = False
    """Whether the responses stand in the order annotators saw them."""
    gold: tuple[int | None, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0
    """Answers that are none: drafts."""
    kind: ItemKind | None = None
    """What was asked; None where the file does not say."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read files that leave it open."""

    prompt: str | None = None
    """The field that is answered; found by its name when not given."""
    responses: tuple[str, ...] = ()
    """The fields that answer it, or the one that lists the answers; found by their names when not given."""
    ignore: tuple[str, ...] = ()
    """Questions whose values are passed over."""
    suggestions: bool = False
    """Whether suggestions and predictions of models count, as answers of users of kind ai."""
    annotator: str = "imported"
    """Name of the user whose answers these are, where the file names nobody."""


class Fields(NamedTuple):
    """A record's fields, sorted out."""

    prompt: str
    messages: tuple[Message, ...]
    names: tuple[str, ...]
    """What answers call the responses."""
    responses: tuple[str, ...]


class Part(NamedTuple):
    """One value of one annotator."""

    question: str
    value: Any
    about: str | None = None
    """The response it is about, where the tool says so."""
    free: bool = False
    """Whether the tool says that it is text in the annotator's words."""


class _Order(NamedTuple):
    """What one value may mean for the order of the responses."""

    doubt: int
    """0: a list of responses; 1: one of their names, or a tie; 2: words with a response's name among them."""
    question: str
    ranks: tuple[int | None, ...]
    all_bad: bool = False
    text: str | None = None
    """The value, where it may be a text after all."""


_PROMPTS = (
    *ALIASES["prompt"],
    "input",
    "user_input",
    "dialogue",
    "dialog",
    "conversation",
    "context",
    "chat",
    "source",
)
_RESPONSE = re.compile(
    r"(response|answer|reply|completion|output|generation|summary|candidate|option|model|assistant|chosen|rejected|text)"
    r"s?[-_ ]?\w{0,12}$"
)
_TEXTS = ("text", "content", "body", "html", "response", "answer", "value", "title")
_TIES = {"tie", "tied", "equal", "same", "both", "bothequal", "bothgood", "nopreference", "aboutthesame"}
_ALL_BAD = {"neither", "none", "bothbad", "allbad", "botharebad"}
_ORDINALS = {"left": 0, "right": 1, "first": 0, "second": 1, "third": 2}


def record_of(where: str, fields: Fields, said: Sequence[Said | None], identity: object) -> Record:
    """A record of another tool, shown in the order of its fields; what is None among `said` is left out."""
    kept = tuple(one for one in said if one is not None)
    about = {"id": str(identity)}
    left_out = len(said) - len(kept)
    return Record(
        where, fields.prompt, fields.responses, kept, fields.messages, shown=True, meta=about, left_out=left_out
    )


def sort_fields(fields: Mapping[str, Any], reading: Reading, where: str) -> Fields:
    """Finds the prompt and the responses. InputError when it cannot tell, naming the fields."""
    given = {name: value for name, value in fields.items() if value not in (None, "", [])}
    names = ", ".join(fields) or "none"
    for wanted in (*((reading.prompt,) if reading.prompt else ()), *reading.responses):
        if wanted not in given:
            raise InputError(f"{where}: has no field '{wanted}', or it is empty; its fields are {names}")
    prompt = reading.prompt or next((n for n in _PROMPTS if n in given), None)
    found = list(reading.responses) or [n for n in given if n != prompt and _answers(n, given[n])]
    if prompt is None:
        others = [n for n in given if n not in found]
        prompt = others[0] if len(others) == 1 else None
    if prompt is None or not found:
        raise InputError(f"{where}: cannot tell prompt and responses among its fields ({names}); name them")
    text, messages = _asked(given[prompt], f"{where}, field '{prompt}'")
    if len(found) == 1 and isinstance(given[found[0]], list):
        labels, texts = _listed(given[found[0]], f"{where}, field '{found[0]}'")
    else:
        labels, texts = tuple(found), tuple(_text(given[n], f"{where}, field '{n}'") for n in found)
    return Fields(text, messages, labels, texts)


def _answers(name: str, value: Any) -> bool:
    listed = isinstance(value, list) and not _is_chat(value)
    return (isinstance(value, str) or listed) and (listed or _RESPONSE.match(name.lower()) is not None)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(m, Mapping) and "role" in m and "content" in m for m in value)


def _asked(value: Any, where: str) -> tuple[str, tuple[Message, ...]]:
    if not _is_chat(value):
        return _text(value, where), ()
    if strange := [m["role"] for m in value if m["role"] not in tuple(ROLES)]:
        raise InputError(f"{where}: role {strange[0]!r} is none of {', '.join(ROLES)}")
    messages: list[Message] = [{"role": ROLES[m["role"]], "content": _text(m["content"], where)} for m in value]
    return prompt_parts(messages)


def prompt_parts(prompt: str | Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """A prompt as text and messages: of a conversation what the user said last, and all of it; of text no messages.

    >>> prompt_parts([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])[0]
    'Hi'
    """
    if isinstance(prompt, str):
        return prompt, ()
    asked = [m["content"] for m in prompt if m["role"] == "user"]
    return asked[-1] if asked else prompt[-1]["content"], tuple(prompt)


def _text(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        value = next((value[name] for name in _TEXTS if isinstance(value.get(name), str) and value[name]), value)
    if not isinstance(value, str):
        raise InputError(f"{where}: is {type(value).__name__}, not text")
    return value


def _listed(values: Sequence[Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and texts of responses in a list: their `id`s, or their places from 1."""
    names = [str(v["id"]) if isinstance(v, Mapping) and "id" in v else str(at) for at, v in enumerate(values, 1)]
    return tuple(names), tuple(_text(v, f"{where}, item {at}") for at, v in enumerate(values, 1))


def place_of(label: Any, names: Sequence[str]) -> int | None:
    """Which response a label means: by its name, by what both have in common, or by its number; None when none.

    >>> [place_of(label, ["reply_1", "reply_2"]) for label in ("reply-2", "2", "B", "left", "reply 1 is better", "no")]
    [1, 1, 1, 0, 0, None]
    """
    if not isinstance(label, str | int) or isinstance(label, bool):
        return None
    said, known = _plain(label), [_plain(name) for name in names]
    if label in names or said in known:
        return list(names).index(str(label)) if label in names else known.index(said)
    within = [at for at, name in enumerate(known) if len(name) > 1 and name in said]
    if len(within) == 1:
        return within[0]
    if (digits := re.fullmatch(r"\D*?(\d+)", said)) is not None:
        numbers = [_number(name) for name in known]
        wanted = int(digits[1])
        return numbers.index(wanted) if wanted in numbers else _within(wanted - 1, names) if None in numbers else None
    if said in _ORDINALS:
        return _within(_ORDINALS[said], names)
    return _within(ord(said) - ord("a"), names) if re.fullmatch("[a-i]", said) else None


def _plain(label: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(label).lower())


def _number(name: str) -> int | None:
    digits = re.search(r"(\d+)$", name)
    return int(digits[1]) if digits else None


def _within(place: int, names: Sequence[str]) -> int | None:
    return place if 0 <= place < len(names) else None


@dataclass
class Gathered:
    """One annotator's values, as they come in."""

    names: tuple[str, ...]
    orders: list[_Order] = field(default_factory=list)
    ratings: dict[int, dict[str, int]] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def take(self, part: Part, where: str) -> None:
        """Adds what a value says. InputError when it says nothing this store can keep."""
        value, where = part.value, f"{where}, question '{part.question}'"
        if isinstance(value, list) and all(isinstance(one, str) for one in value) and (part.free or len(value) == 1):
            value = "\n".join(value)
        if isinstance(value, list):
            self._take_list(part.question, value, where)
        elif isinstance(value, bool | int | float):
            self._rate(part, value, where)
        elif isinstance(value, str):
            self._take_text(part, value)
        elif value is not None:
            raise InputError(f"{where}: {type(value).__name__} is no answer understood; ignore the question")

    def _take_list(self, question: str, value: list[Any], where: str) -> None:
        labels = [v.get("value") if isinstance(v, Mapping) else v for v in value]
        places = [place_of(label, self.names) for label in labels]
        if all(place is None for place in places):
            return  # labels of the whole record
        if None in places or len(set(places)) < len(places):
            raise InputError(f"{where}: ranks {labels}, but the responses are {', '.join(self.names)}")
        given = [v.get("rank") if isinstance(v, Mapping) else None for v in value]
        if strange := [rank for rank in given if rank is not None and (type(rank) is not int or rank < 0)]:
            raise InputError(f"{where}: rank {strange[0]!r} is no whole number from 0")
        ranks = [at if rank is None else rank for at, rank in enumerate(given)]
        by_place = dict(zip(places, ranks, strict=True))
        best = min(ranks)
        told = tuple(by_place[at] - best if at in by_place else None for at in range(len(self.names)))
        self.orders.append(_Order(0, question, told))

    def _rate(self, part: Part, value: float, where: str) -> None:
        place, attribute = 0, part.question
        if part.about in self.names:
            place = self.names.index(str(part.about))
        elif len(self.names) > 1:
            found, attribute = _split_question(part.question, self.names)
            if found is None:
                raise InputError(
                    f"{where}: {value} does not say which of the responses {', '.join(self.names)} it is about; "
                    "ignore the question"
                )
            place = found
        if value % 1:  # NaN and infinities too
            raise InputError(f"{where}: {value} is no whole number, as ratings are")
        self.ratings.setdefault(place, {})[attribute[:40]] = int(value)

    def _take_text(self, part: Part, value: str) -> None:
        choosing = len(self.names) > 1 and not part.free
        said, place = _plain(value), place_of(value, self.names) if choosing else None
        if choosing and (said in _TIES or said in _ALL_BAD):
            self.orders.append(_Order(1, part.question, (0,) * len(self.names), said in _ALL_BAD, value))
        elif place is not None:
            doubt = 1 if _is_name(said, self.names) else 2
            ranks = tuple(int(at != place) for at in range(len(self.names)))
            self.orders.append(_Order(doubt, part.question, ranks, text=value))
        elif value.strip():
            self.texts.append((part.question, value))

    def said(self, user: str, kind: UserKind, editing: bool, where: str, **more: Any) -> Said | None:
        """The answer; None when nothing was said. InputError when two questions order the responses differently."""
        ratings = tuple(self.ratings.get(at, {}) for at in range(len(self.names))) if self.ratings else None
        order = self._order(where)
        texts = [(o.question, o.text) for o in self.orders if o is not order and o.text is not None] + self.texts
        correction = None
        if texts and (editing or (len(self.names) == 1 and ratings is None)):
            correction = texts.pop(0)[1]
        why = "\n".join(text if len(texts) == 1 else f"{question}: {text}" for question, text in texts) or None
        if order is None and ratings is None and correction is None:
            return None
        ranks, all_bad = (None, False) if order is None else (order.ranks, order.all_bad)
        return Said(user, kind, ranks, ratings, correction, None, why, all_bad=all_bad, **more)

    def _order(self, where: str) -> _Order | None:
        """The least doubtful; words that name a response mean it only where the annotator said nothing else."""
        least = min((order.doubt for order in self.orders), default=None)
        if least is None or (least == 2 and self.ratings):
            return None
        first, *others = [order for order in self.orders if order.doubt == least]
        for other in others:
            if (other.ranks, other.all_bad) != (first.ranks, first.all_bad):
                raise InputError(
                    f"{where}: questions '{first.question}' and '{other.question}' order the responses differently; "
                    "ignore one of them"
                )
        return first


def _is_name(said: str, names: Sequence[str]) -> bool:
    return said in map(_plain, names) or said in _ORDINALS or re.fullmatch(r"\d+|[a-i]", said) is not None


def _split_question(question: str, names: Sequence[str]) -> tuple[int | None, str]:
    """The response a question's name names, and the rest of it.

    >>> _split_question("generations-2-helpful", ["generations-1", "generations-2"])
    (1, 'helpful')
    """
    for at, name in sorted(enumerate(names), key=lambda pair: -len(pair[1])):
        if name in question:
            return at, question.replace(name, "").strip("-_ .") or "rating"
    digits = re.search(r"(\d+)", question)
    place = place_of(digits[1], names) if digits else None
    rest = re.sub(r"\d+", "", question)
    return place, re.sub(r"[-_ .]{2,}", "-", rest).strip("-_ .") or "rating"


def answer_of(
    parts: Iterable[Part],
    fields: Fields,
    user: str,
    reading: Reading,
    where: str,
    *,
    editing: bool = False,
    **more: Any,
) -> Said | None:
    """One annotator's answer from the values they gave. InputError naming the question it cannot make sense of."""
    gathered, kind = Gathered(fields.names), more.pop("kind", "human")
    for part in parts:
        if part.question not in reading.ignore:
            gathered.take(part, where)
    return gathered.said(user, kind, editing, where, **more)


def moment(value: Any) -> float | None:
    """An ISO 8601 time, UTC unless it says otherwise, as seconds since 1970; None when it is none.

    >>> moment("1970-01-01T00:01:00Z"), moment(""), moment("yesterday")
    (60.0, None, None)
    """
    try:
        read = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
