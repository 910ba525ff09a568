"""Files of answers given elsewhere → judgements in a store.

Its parts: `readers.py` (files → records, by format), `foreign.py` (what records and answers are).

Whoever answered becomes a user without a password, under the name of the tool, so nobody's account is taken for theirs.
Importing a file again adds nothing, and an answer that is there is never changed. Where a file does not say in which
order the responses were shown, the order kept is drawn, and the answer is marked so that no measure of position bias
counts it. Answers are by the guideline given, or by one that says that none is known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, update

from tether.config import DataConfig
from tether.data.rows import read_rows
from tether.errors import InputError
from tether.feedback.accounts import record as note
from tether.feedback.claims import shuffled
from tether.feedback.facts import (
    add_guideline,
    add_items,
    add_prompts,
    add_responses,
    add_user,
    check_text,
    content_key,
    find,
    next_id,
)
from tether.feedback.foreign import Reading, Record, Said
from tether.feedback.projects import Attribute, Project, Settings, add_project, one_project
from tether.feedback.queries import item_texts
from tether.feedback.readers import READERS, format_of
from tether.feedback.records import Answer, ItemKind, NewItem, NewPrompt, NewResponse
from tether.feedback.schema import assignments, items, judgements, projects
from tether.feedback.schema import users as accounts
from tether.feedback.shapes import DESIRABLE, IMPORTED, UNKNOWN_ORDER
from tether.feedback.store import Store
from tether.feedback.work import submit

_UNKNOWN_GUIDELINE = "Imported. What these annotators were told is not known."
_CHUNK = 200  # records between two looks at what is there
_SCALES = (1, 5, 7, 10)  # the best rating, when the file shows ratings but not their scale


class Imported(NamedTuple):
    """What a file came to."""

    project: int
    records: int
    items: int
    """Questions that were not there before."""
    answers: int
    """Judgements added, skips included."""
    known: int
    """Answers left as they were: that user had answered that item before."""
    left_out: int
    """Drafts, and adjudications of another store."""
    identical: int
    """Records passed over because two of their responses are the same text."""
    users: int


@dataclass(frozen=True, slots=True)
class _Task:
    """Everything the adding of records needs to know."""

    project: Project
    guideline: int
    overlap: int | None
    now: float


def import_answers(
    store: Store,
    data: DataConfig,
    project: str,
    *,
    format: str = "auto",
    kind: ItemKind | None = None,
    reading: Reading | None = None,
    guideline: str | None = None,
    overlap: int | None = None,
    by: int | None = None,
) -> Imported:
    """Adds all answers of a file to the project of this name, made when new: all of them, or none and an InputError.

    `kind` is that of a new project; that of all records, or found from the answers, when not given. Items want no more
    answers than the file has, unless `overlap` says so; those without one want as many as the project's settings say.
    InputError names file, record and field.
    """
    rows, source = read_rows(data), data.path
    chosen = format_of(rows, source) if format == "auto" else format
    if chosen not in READERS:
        raise InputError(f"format {chosen!r}: is none of auto, {', '.join(READERS)}")
    with store.reading() as db:
        asks = db.execute(select(projects.c.kind).where(projects.c.name == project)).scalar() or kind
    reading = reading or Reading()
    _check_reading(reading, chosen, source)
    records = list(READERS[chosen](rows, source, reading, asks == "edit"))
    if not any(one.said for one in records):
        raise InputError(f"{source}: holds no answers; a file of prompts and responses is added in the app")
    _check_kind(asks, records, source, project)
    with store.writing() as db:
        now = store.now()
        known_as = db.execute(select(projects.c.id).where(projects.c.name == project)).scalar()
        identity = known_as or _new_project(db, project, kind, records, now)
        task = _Task(one_project(db, identity), add_guideline(db, guideline or _UNKNOWN_GUIDELINE, now), overlap, now)
        before = next_id(db, items)
        added = known = 0
        apart = [one for one in records if len(set(one.responses)) == len(one.responses)]
        for start in range(0, len(apart), _CHUNK):
            here = _add_all(db, apart[start : start + _CHUNK], task)
            added, known = added + here[0], known + here[1]
        found = Imported(
            project=identity,
            records=len(records),
            items=next_id(db, items) - before,
            answers=added,
            known=known,
            left_out=sum(one.left_out for one in records),
            identical=len(records) - len(apart),
            users=len({said.user for one in records for said in one.said}),
        )
        if found.answers or found.items:
            note(db, by, "imported", now, file=source, project=identity, answers=found.answers, items=found.items)
    return found


def _check_reading(reading: Reading, format: str, source: str) -> None:
    """InputError for what says how to read files of another format."""
    if format not in ("argilla", "label-studio") and replace(reading, annotator="") != Reading(annotator=""):
        raise InputError(
            f"{source}: is of format {format}, whose fields have fixed names; a prompt or response field, questions to "
            "ignore and suggestions are told of argilla and label-studio only"
        )


def _check_kind(kind: ItemKind | None, records: Sequence[Record], source: str, project: str) -> None:
    """InputError where no answer is one that a project of this kind takes."""
    given = [one for record in records for one in record.said if one.skip is None]
    wanted = {"rating": "ratings", "edit": "correction"}.get(kind or "", "ranks")
    if kind is not None and given and all(getattr(one, wanted) is None for one in given):
        what = {"ranks": "comparisons", "ratings": "ratings", "correction": "written answers"}[wanted]
        raise InputError(
            f"{source}: holds no {what}, which project {project!r} of kind {kind} is made of; give "
            "another project or kind"
        )


def _new_project(db: Connection, name: str, kind: ItemKind | None, records: Sequence[Record], now: float) -> int:
    """A project of the kind the answers are of, with the attributes they rate."""
    said = [one for record in records for one in record.said]
    values: dict[str, list[int]] = defaultdict(list)
    for one in said:
        for of_response in one.ratings or ():
            for attribute, value in of_response.items():
                values[attribute].append(value)
    scales = [_scale(attribute, given) for attribute, given in values.items()]
    sizes, told = {len(record.responses) for record in records}, {record.kind for record in records}
    kind = kind or (told.pop() if len(told) == 1 else None)
    if kind is None and any(one.ranks is not None for one in said):
        kind = "pair" if sizes == {2} else "ranking"
    kind = kind or ("rating" if values else "edit" if any(one.correction is not None for one in said) else None)
    if kind is None:
        raise InputError(f"{records[0].where}: all answers are skips, so the kind of project {name!r} must be given")
    settings = Settings(attributes=tuple(scales), shown=min(max(sizes), 9), correction=kind == "edit")
    return add_project(db, name, kind, settings, now)


def _scale(attribute: str, values: Sequence[int]) -> Attribute:
    if attribute == DESIRABLE.name and set(values) <= {DESIRABLE.low, DESIRABLE.high}:
        return DESIRABLE  # where all are 1, the values alone would make a scale from 1 of it
    low, high = min(*values, 1), max(values)
    if not 0 < len(attribute) <= 40:
        raise InputError(f"attribute {attribute!r}: its name must have 1 to 40 characters")
    check_text(attribute, f"attribute {attribute!r}")
    if low < -10 or high > 10:
        raise InputError(f"attribute {attribute!r}: values go from {low} to {high}, but scales from -10 to 10 at most")
    return Attribute(name=attribute, low=low, high=next(top for top in _SCALES if top >= high and top > low))


def _add_all(db: Connection, records: Sequence[Record], task: _Task) -> tuple[int, int]:
    """How many answers were added and how many known. When one record is wrong, it is looked for and named."""
    try:
        with db.begin_nested():
            return _add(db, records, task)
    except InputError as error:
        if len(records) == 1:
            raise InputError(f"{records[0].where}: {error}") from None
    counts = [_add_all(db, [record], task) for record in records]
    return sum(new for new, _ in counts), sum(known for _, known in counts)


class _New(NamedTuple):
    """An answer to add."""

    item: int
    item_key: str
    submit_key: str
    """The same whenever this user's answer to this item is imported."""
    said: Said
    record: Record
    responses: list[int]
    """In the order of the record."""


def _add(db: Connection, records: Sequence[Record], task: _Task) -> tuple[int, int]:
    of_record = _add_items(db, records, task)
    given = list(_given(db, records, of_record))
    query = select(judgements.c.submit_key)
    stored = {row.submit_key for row in find(db, query, judgements.c.submit_key, [new.submit_key for new in given])}
    # Whoever was forgotten since is not brought back: their name is not looked up again.
    unknown = list({new.submit_key: new for new in reversed(given) if new.submit_key not in stored}.values())[::-1]
    people = dict.fromkeys((new.said.user, new.said.kind) for new in unknown)
    users = {name: add_user(db, name, kind, task.now) for name, kind in people}
    _refuse_accounts(db, sorted(users.values()))
    pairs = select(assignments.c.item_id, assignments.c.user_id).where(assignments.c.role == "annotate")
    there = {(row.item_id, row.user_id) for row in find(db, pairs, assignments.c.item_id, [i for i, _ in of_record])}
    added = [new for new in unknown if (new.item, users[new.said.user]) not in there]
    _make_room(db, [new.item for new in added if new.said.skip is None], task.now)
    _submit(db, added, users, task)
    return len(added), len(given) - len(added)


def _given(db: Connection, records: Sequence[Record], of_record: Sequence[tuple[int, list[int]]]) -> Iterator[_New]:
    keys = {row.id: row.key for row in find(db, select(items.c.id, items.c.key), items.c.id, [i for i, _ in of_record])}
    for record, (item, responses) in zip(records, of_record, strict=True):
        for said in record.said:
            begin = IMPORTED if record.shown else UNKNOWN_ORDER
            yield _New(item, keys[item], begin + content_key(keys[item], said.user), said, record, responses)


def _refuse_accounts(db: Connection, wanted: Sequence[int]) -> None:
    """InputError where answers would become those of somebody who can sign in."""
    query = select(accounts.c.name).where(accounts.c.password.is_not(None))
    if row := next(find(db, query, accounts.c.id, wanted), None):
        raise InputError(f"user {row.name!r}: has an account here; give the imported answers another annotator's name")


def _add_items(db: Connection, records: Sequence[Record], task: _Task) -> list[tuple[int, list[int]]]:
    """Each record's item, and its responses in the order of the record."""
    prompts = add_prompts(db, [NewPrompt(r.prompt, r.messages, meta=r.meta) for r in records])
    flat = [
        NewResponse(
            prompt,
            text,
            ended=record.ended[at] if record.ended else True,
            checkpoint=record.checkpoints[at] if record.checkpoints else None,
        )
        for prompt, record in zip(prompts, records, strict=True)
        for at, text in enumerate(record.responses)
    ]
    ids = iter(add_responses(db, flat))
    of_record = [[next(ids) for _ in record.responses] for record in records]
    return list(zip(add_items(db, _new_items(records, of_record, task)), of_record, strict=True))


def _new_items(records: Sequence[Record], of_record: Sequence[list[int]], task: _Task) -> list[NewItem]:
    found = []
    for record, responses in zip(records, of_record, strict=True):
        answers = sum(said.skip is None for said in record.said)
        overlap = task.overlap or (answers or task.project.settings.overlap)
        gold = None if record.gold is None else dict(zip(responses, record.gold, strict=True))
        known = None if gold is None else {response: rank for response, rank in gold.items() if rank is not None}
        found.append(NewItem(responses, overlap, task.project.kind, task.project.id, known))
    return found


_LIVE = (
    select(assignments.c.item_id, func.count().label("live"))
    .where(assignments.c.state == "open", assignments.c.role == "annotate", assignments.c.expires > bindparam("now"))
    .group_by(assignments.c.item_id)
)
_RAISE = update(items).where(items.c.id == bindparam("the_id")).values(overlap=bindparam("wanted"))


def _make_room(db: Connection, answered: Sequence[int], now: float) -> None:
    """Raises the overlap of items that would otherwise get more answers than they want."""
    live = {row.item_id: row.live for row in db.execute(_LIVE, {"now": now})} if answered else {}
    query = select(items.c.id, items.c.done, items.c.overlap)
    new = Counter(answered)
    raised = []
    for row in find(db, query, items.c.id, new):
        wanted = row.done + live.get(row.id, 0) + new[row.id]
        if wanted > row.overlap:
            raised.append({"the_id": row.id, "wanted": wanted})
    if raised:
        db.execute(_RAISE, raised)


def _submit(db: Connection, added: Sequence[_New], users: Mapping[str, int], task: _Task) -> None:
    """An assignment for each answer, then the answer by the way every other takes."""
    texts = item_texts(db, sorted({new.item for new in added}))
    first, rows = next_id(db, assignments), []
    by_time: dict[float, list[Answer]] = defaultdict(list)
    for identity, new in enumerate(added, first):
        order = new.responses if new.record.shown else shuffled(new.item_key, new.said.user, texts[new.item])
        when = task.now if new.said.created is None else new.said.created
        rows.append(
            {"id": identity, "item_id": new.item, "user_id": users[new.said.user], "shown": order, "state": "open"}
            | {"claimed": when, "expires": when + 1}
        )
        by_time[when].append(_answer(identity, new.submit_key, new.said, new.responses, task))
    if rows:
        db.execute(insert(assignments), rows)
    for when, answers in sorted(by_time.items()):
        submit(db, answers, None, when)


def _answer(assignment: int, key: str, said: Said, responses: Sequence[int], task: _Task) -> Answer:
    pairs = zip(responses, said.ranks or (), strict=False)
    return Answer(
        assignment,
        key,
        task.guideline,
        None if said.ranks is None else {response: rank for response, rank in pairs if rank is not None},
        ratings=None if said.ratings is None else dict(zip(responses, said.ratings, strict=True)),
        skip=said.skip,
        **{n: getattr(said, n) for n in ("strength", "all_bad", "rationale", "seconds", "correction", "flag")},
    )
