"""Files of prompts and responses → what a project asks.

Understood is what `tether.data` reads: prompts alone, one response, chosen and rejected, a list of responses (ranked or
not), conversations; and `groups.jsonl` of a `tether run` sample stage. A row may also say who wrote its responses
(`checkpoint`, or `checkpoints` beside a list or as {chosen, rejected}) and, where it ranks them, that it is `gold`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Connection

from tether.config import DataConfig
from tether.config.problems import first_problem
from tether.data.formats import ALIASES, Example, Said, detect, understand
from tether.data.rows import READERS, Row, read_rows
from tether.errors import InputError
from tether.feedback.facts import SIZES, add_items, add_prompts, add_responses, check_text, content_key
from tether.feedback.foreign import prompt_parts
from tether.feedback.projects import Project
from tether.feedback.records import ItemKind, NewItem, NewPrompt, NewResponse

_ONE_EACH = ("prompt_response", "messages", "unpaired")


@dataclass(frozen=True)
class Written:
    """A response before it has a prompt in the store."""

    text: str
    token_ids: Sequence[int] = ()
    ended: bool = True
    checkpoint: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A prompt and the responses to it."""

    prompt: NewPrompt
    responses: tuple[Written, ...] = ()
    gold: tuple[int, ...] | None = None
    """The rank each response ought to get."""

    @property
    def said(self) -> Said:
        """The prompt as a model's template wants it."""
        return [dict(message) for message in self.prompt.messages] or self.prompt.text


class Added(NamedTuple):
    """What a file came to."""

    prompts: int
    items: int
    identical: int
    """Responses left out because another to the same prompt says the very same."""
    left_over: int
    """Responses left out because no other was there to show them with."""


def read_file(path: Path, name: str | None = None) -> list[Question]:
    """The questions in a file, by its ending. `name` is what messages call it.

    Raises:
        InputError: it can't be read or understood; the sentence names file, row and field.
    """
    stage = path.parent.name if path.name == "groups.jsonl" else None
    try:
        return questions(read_rows(DataConfig(path=str(path))), name or path.name, stage)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name or path.name)) from None


def read_upload(content: bytes, name: str) -> list[Question]:
    """The questions in a file that came over the network. InputError as of `read_file`."""
    name = Path(name.replace("\\", "/")).name
    ending = Path(name).suffix.lower()
    if ending not in READERS:
        raise InputError(f"{name or 'the file'}: files end in {', '.join(READERS)}, not '{ending}'")
    with tempfile.TemporaryDirectory(prefix="tether-") as folder:
        path = Path(folder) / f"upload{ending}"
        path.write_bytes(content)
        return read_file(path, name)


def read_lines(text: str) -> list[Question]:
    """One prompt a line, or JSONL. InputError as of `read_file`."""
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and all(line.lstrip().startswith("{") for line in lines):
        return read_upload("\n".join(lines).encode("utf-8", "surrogatepass"), "the lines.jsonl")
    return questions([{"prompt": line.strip()} for line in lines], "the lines")


def questions(rows: Sequence[Row], source: str, stage: str | None = None) -> list[Question]:
    """Rows of one format → questions; rows of one response each are gathered by their prompt.

    `stage` is the checkpoint of a sample stage's groups that name none.

    Raises:
        InputError: another format, or a bad row; the sentence names source, row and field.
    """
    if not rows:
        raise InputError(f"{source}: is empty; it holds no prompt")
    if isinstance(rows[0].get("prompt"), Mapping):
        return _checked([_group(row, f"{source}, row {number}", stage) for number, row in enumerate(rows, 1)], source)
    found, unranked = detect(list(rows[0]), source), False
    if found == "prompts" and (name := _list_of_responses(rows[0])):
        _check_lists(rows, name, source)
        rows, found, unranked = [{**row, "ranking": [0] * len(row[name])} for row in rows], "ranking", True
    if found in ("text", "steps"):
        raise InputError(f"{source}: holds {found} data (columns {', '.join(rows[0])}), which asks nothing")
    asked = [_question(e, unranked, f"{source}, row {e.row}") for e in understand(rows, found, source, "train")]
    return _checked(gathered(asked) if found in _ONE_EACH else asked, source)


def gathered(asked: Sequence[Question]) -> list[Question]:
    """Questions of the same prompt as one, with all their responses."""
    together: dict[str, Question] = {}
    for question in asked:
        key = content_key(question.said)
        before = together.get(key)
        together[key] = replace(before, responses=before.responses + question.responses) if before else question
    return list(together.values())


def add_questions(db: Connection, project: Project, asked: Sequence[Question]) -> Added:
    """Stores questions as items of the project, all of them or, on an error, none; wants the write lock.

    A prompt's responses are shown in groups of as many as the project shows, in their order. Running it again adds
    nothing. InputError: a gold ranking the project's kind cannot have, or one the item had otherwise before.
    """
    kept = [_distinct(question) for question in asked]
    _check_gold(project.kind, kept)
    identical = sum(len(q.responses) for q in asked) - sum(len(q.responses) for q in kept)
    prompts = add_prompts(db, [question.prompt for question in kept])
    ids = add_responses(
        db,
        [
            NewResponse(prompt, r.text, r.token_ids, r.ended, r.checkpoint, r.sampling)
            for prompt, question in zip(prompts, kept, strict=True)
            for r in question.responses
        ],
    )
    items, start = [], 0
    for question in kept:
        its = ids[start : start + len(question.responses)]
        start += len(its)
        items += _items(project, its, question.gold)
    asked_of = sum(len(item.responses) for item in items)
    return Added(len(set(prompts)), len(set(add_items(db, items))), identical, len(ids) - asked_of)


def shown_at_once(kind: ItemKind, shown: int) -> int:
    """How many responses an item of this kind has, where the project says `shown`."""
    fewest, most = SIZES[kind]
    return min(max(shown, fewest), most)


def across(by_checkpoint: Iterable[Sequence[Written]]) -> tuple[Written, ...]:
    """Responses of several checkpoints to one prompt, the first of each, then the second: neighbours differ in origin.

    >>> [w.text for w in across([[Written("a1"), Written("a2")], [Written("b1"), Written("b2")]])]
    ['a1', 'b1', 'a2', 'b2']
    """
    columns = list(by_checkpoint)
    rounds = max((len(column) for column in columns), default=0)
    return tuple(column[n] for n in range(rounds) for column in columns if n < len(column))


def _items(project: Project, its: Sequence[int], gold: Sequence[int] | None) -> list[NewItem]:
    settings, size = project.settings, shown_at_once(project.kind, project.settings.shown)
    if gold is not None:
        ranks = dict(zip(its, gold, strict=True))
        return [NewItem(its, settings.overlap, project.kind, project.id, ranks)] if its else []
    chunks = (its[at : at + size] for at in range(0, len(its), size))
    least, _ = SIZES[project.kind]
    return [NewItem(c, settings.overlap, project.kind, project.id) for c in chunks if len(c) >= least]


def _check_gold(kind: ItemKind, asked: Sequence[Question]) -> None:
    fewest, most = SIZES[kind]
    for number, question in enumerate(asked, 1):
        many = len(question.responses)
        if question.gold is not None and kind not in ("pair", "ranking"):
            raise InputError(f"prompt {number}: only a pair or a ranking can be gold, not kind {kind}")
        if question.gold is not None and not fewest <= many <= most:
            wanted = "2" if kind == "pair" else "2 to 9"
            raise InputError(f"prompt {number}: is gold with {many} different responses; kind {kind} takes {wanted}")


def _distinct(question: Question) -> Question:
    first = {r.text: place for place, r in reversed(list(enumerate(question.responses)))}
    places = sorted(first.values())
    if len(places) == len(question.responses):
        return question
    gold = question.gold and tuple(question.gold[place] for place in places)
    return replace(question, responses=tuple(question.responses[place] for place in places), gold=gold)


def _question(example: Example, unranked: bool, where: str) -> Question:
    meta = dict(example.meta)
    gold = str(meta.pop("gold", "")).lower() in ("1", "true", "yes")
    if example.conversation:
        prompt, texts = _continued(list(example.conversation))
    else:
        assert example.prompt is not None
        prompt, texts = example.prompt, example.responses
    names = _checkpoints(meta, len(texts), where)
    ranks = example.labels or (0, 1)  # a preference: the chosen, then the rejected
    if gold and (unranked or len(texts) < 2):
        raise InputError(f"{where}, column 'gold': needs a ranking, or chosen and rejected")
    written = tuple(Written(text, checkpoint=name) for text, name in zip(texts, names, strict=True))
    return Question(NewPrompt(*prompt_parts(prompt), meta=_storable(meta)), written, tuple(ranks) if gold else None)


def _continued(turns: list[Mapping[str, str]]) -> tuple[Said, tuple[str, ...]]:
    """A conversation as what is answered and, when the assistant had the last word, the answer."""
    answered = turns[-1]["role"] == "assistant" and len(turns) > 1
    return (turns[:-1], (turns[-1]["content"],)) if answered else (turns, ())


def _storable(meta: Mapping[str, Any]) -> Any:
    """The values as JSON keeps them: infinities and NaN become None."""
    return json.loads(json.dumps(meta, default=str), parse_constant=lambda _: None)


def _checkpoints(meta: dict[str, Any], num: int, where: str) -> list[str | None]:
    """Who wrote the responses, taken out of the other columns."""
    given = meta.pop("checkpoints", None)
    if isinstance(given, Mapping):
        given = [given.get(side) for side in ("chosen", "rejected")]
    if given is None:
        given = [meta.pop("checkpoint", None)] * num
    named = given if isinstance(given, list) else []
    if len(named) != num or not all(n is None or (isinstance(n, str) and len(n) <= 500) for n in named):
        raise InputError(f"{where}: checkpoints must name who wrote each of the {num} responses, in up to 500 letters")
    return named


def _group(row: Mapping[str, Any], where: str, stage: str | None) -> Question:
    """A row of a sample stage's groups.jsonl, token ids and all."""
    try:
        group = _Group.model_validate(row)
    except ValidationError as error:
        raise InputError(f"{where}: is no group of a sample stage ({first_problem(error.errors())})") from None
    asked, turns = group.prompt, [turn.model_dump() for turn in group.prompt.messages or ()]
    written = [
        Written(r.text, r.token_ids or (), r.ended, (r.meta or _Origin()).checkpoint or stage) for r in group.responses
    ]
    return Question(NewPrompt(asked.text, turns, asked.token_ids or (), _storable(asked.meta or {})), tuple(written))


class _Turn(BaseModel):
    role: str
    content: str


class _Asked(BaseModel):
    text: str
    messages: list[_Turn] | None = None
    token_ids: list[int] | None = None
    meta: dict[str, Any] | None = None


class _Origin(BaseModel):
    checkpoint: str | None = Field(default=None, max_length=500)


class _Response(BaseModel):
    text: str
    token_ids: list[int] | None = None
    ended: bool = True
    meta: _Origin | None = None


class _Group(BaseModel):
    """A row of groups.jsonl; what else it holds is not read."""

    prompt: _Asked
    responses: list[_Response]


def _checked(asked: list[Question], source: str) -> list[Question]:
    for number, question in enumerate(asked, 1):
        where = f"{source}, prompt {number}"
        spoken = [message["content"] for message in question.prompt.messages]
        for text in (question.prompt.text, *spoken, *(r.text for r in question.responses)):
            check_text(text, where)
    return asked


def _list_of_responses(row: Row) -> str | None:
    return next((name for name in ALIASES["responses"] if isinstance(row.get(name), list)), None)


def _check_lists(rows: Sequence[Row], name: str, source: str) -> None:
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(name), list) or len(row[name]) < 2:
            raise InputError(
                f"{source}, row {number}, column '{name}': must be a list of two or more; one alone is a `response`"
            )
