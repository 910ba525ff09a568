"""Adding users, guidelines, prompts, responses and items: what is there already is found by its content key.

So a stage that was killed while adding is simply run again. All functions want a connection that holds the write lock.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, func, insert, select, update

from tether.errors import InputError
from tether.feedback.records import ItemKind, NewItem, NewPrompt, NewResponse, UserKind
from tether.feedback.schema import AnyRow, guidelines, item_responses, items, projects, prompts, responses, users

_CHUNK = 500  # values of one IN list
EVERYBODY = 1_000_000  # the overlap of a gold item

_UNKEPT = re.compile("[\0\ud800-\udfff]")

SIZES: Mapping[ItemKind, tuple[int, int]] = {"pair": (2, 2), "ranking": (2, 9), "rating": (1, 9), "edit": (1, 1)}
"""Kind of item → the fewest and the most responses."""

_RAISE_OVERLAP = (
    update(items)
    .where(items.c.id == bindparam("the_item"), items.c.overlap < bindparam("wanted"))
    .values(overlap=bindparam("wanted"))
)


def content_key(*parts: Any) -> str:
    """SHA-256 of the parts as JSON.

    >>> content_key("hello", [1, 2])[:8]
    '9da0b43a'
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def next_id(db: Connection, table: Table) -> int:
    """One more than the largest id; safe because only the holder of the write lock asks."""
    return int(db.execute(_largest_id(table)).scalar_one()) + 1


def find(db: Connection, query: Select[Any], column: ColumnElement[Any], values: Iterable[Any]) -> Iterator[AnyRow]:
    """Rows of `query` whose `column` is one of `values`, asked for in portions any database accepts."""
    wanted = sorted(set(values))
    for start in range(0, len(wanted), _CHUNK):
        yield from db.execute(_among(query, column), {"wanted": wanted[start : start + _CHUNK]})


# Building a statement takes SQLAlchemy longer than running it; an object that comes again is recognised at once.
@lru_cache(maxsize=256)
def _among(query: Select[Any], column: ColumnElement[Any]) -> Select[Any]:
    return query.where(column.in_(bindparam("wanted", expanding=True)))


@cache
def _largest_id(table: Table) -> Select[Any]:
    return select(func.coalesce(func.max(table.c.id), 0))


def add_user(db: Connection, name: str, kind: UserKind, now: float) -> int:
    """The id of the user of this name; InputError when the name is taken by another kind."""
    if not name or len(name) > 200:
        raise InputError(f"user name {name!r}: must have 1 to 200 characters")
    check_text(name, "user name")
    if kind not in get_args(UserKind):
        raise InputError(f"user {name!r}: kind {kind!r} is none of {', '.join(get_args(UserKind))}")
    known = db.execute(select(users.c.id, users.c.kind).where(users.c.name == name)).first()
    if known is None:
        new = next_id(db, users)
        db.execute(insert(users), {"id": new, "name": name, "kind": kind, "created": now})
        return new
    if known.kind != kind:
        raise InputError(f"user {name!r}: is of kind {known.kind}, so it cannot be added as {kind}")
    return int(known.id)


def add_guideline(db: Connection, text: str, now: float) -> int:
    """The version number of this text: a new one unless the very same text has one already."""
    check_text(text, "guideline")
    return _add(db, guidelines, [{"key": content_key(text), "text": text, "created": now}])[0]


def add_prompts(db: Connection, new: Sequence[NewPrompt]) -> list[int]:
    """Ids of these prompts, in order."""
    return _add(db, prompts, [_prompt_row(p) for p in new])


def add_responses(db: Connection, new: Sequence[NewResponse]) -> list[int]:
    """Ids of these responses, in order; InputError when a prompt is not there."""
    asked = find(db, select(prompts.c.id, prompts.c.key), prompts.c.id, {r.prompt for r in new})
    keys = {row.id: row.key for row in asked}
    return _add(db, responses, [_response_row(keys, r) for r in new])


def add_items(db: Connection, new: Sequence[NewItem]) -> list[int]:
    """Ids of these items, in order.

    InputError: no such project, or responses that are unknown, repeated, of several prompts, or too few or many for the
    kind; a gold ranking that is none, or differs from the one the item was added with.
    """
    query = select(responses.c.id, responses.c.key, responses.c.prompt_id)
    facts = {row.id: row for row in find(db, query, responses.c.id, {r for item in new for r in item.responses})}
    named = find(db, select(projects.c.id, projects.c.name), projects.c.id, {item.project for item in new})
    names = {row.id: row.name for row in named}
    rows = [_item_row(facts, names, item) for item in new]
    first_new = next_id(db, items)
    ids = _add(db, items, rows)
    _check_gold_is_kept(db, ids, rows)
    places = {i: item.responses for i, item in reversed(list(zip(ids, new, strict=True))) if i >= first_new}
    links = [
        {"item_id": i, "position": position, "response_id": response}
        for i, of_item in sorted(places.items())
        for position, response in enumerate(of_item)
    ]
    if links:
        db.execute(insert(item_responses), links)
    if new:
        db.execute(_RAISE_OVERLAP, [{"the_item": i, "wanted": n.overlap} for i, n in zip(ids, new, strict=True)])
    return ids


def check_ranking(where: str, ranking: Mapping[int, int]) -> None:
    """InputError unless these are ranks, 0 the best, of two or more responses."""
    if len(ranking) < 2 or any(type(rank) is not int or not 0 <= rank <= 999 for rank in ranking.values()):
        raise InputError(f"{where}: the ranking needs two or more responses, with ranks 0, 1, 2 … up to 999")


def check_text(text: str | None, where: str) -> None:
    """InputError for characters that no database keeps: PostgreSQL has no NUL, UTF-8 no halves of characters."""
    if text is not None and _UNKEPT.search(text):
        raise InputError(f"{where}: contains NUL or half of a character (a lone surrogate); take it out")


def _add(db: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids of `rows`, found by their keys or added."""
    known = {
        row.key: row.id for row in find(db, select(table.c.id, table.c.key), table.c.key, (r["key"] for r in rows))
    }
    upcoming = next_id(db, table)
    missing: list[dict[str, Any]] = []
    for row in rows:
        if row["key"] not in known:
            known[row["key"]] = upcoming + len(missing)
            missing.append({"id": known[row["key"]], **row})
    if missing:
        db.execute(insert(table), missing)
    return [known[row["key"]] for row in rows]


def _readable(text: str) -> str:
    """With a replacement for what no database keeps: text is for reading, and token ids are the truth."""
    return _UNKEPT.sub("\ufffd", text)


def _prompt_row(prompt: NewPrompt) -> dict[str, Any]:
    messages, token_ids = [dict(m) for m in prompt.messages], list(prompt.token_ids)
    kept = [{name: _readable(said) for name, said in m.items()} for m in messages]
    return {
        "key": content_key(prompt.text, messages, token_ids),
        "text": _readable(prompt.text),
        "messages": kept or None,
        "token_ids": token_ids or None,
        "meta": dict(prompt.meta) or None,
    }


def _response_row(prompt_keys: Mapping[int, str], response: NewResponse) -> dict[str, Any]:
    if response.prompt not in prompt_keys:
        raise InputError(f"response {response.text[:40]!r}: there is no prompt {response.prompt}")
    token_ids, sampling = list(response.token_ids), dict(response.sampling)
    parts = (prompt_keys[response.prompt], response.text, token_ids, response.ended, response.checkpoint, sampling)
    return {
        "key": content_key(*parts),
        "prompt_id": response.prompt,
        "text": _readable(response.text),
        "token_ids": token_ids or None,
        "ended": response.ended,
        "checkpoint": response.checkpoint,
        "sampling": sampling or None,
        "meta": dict(response.meta) or None,
    }


def _item_row(facts: Mapping[int, AnyRow], project_names: Mapping[int, str], item: NewItem) -> dict[str, Any]:
    where = f"item of responses {list(item.responses)}"
    if item.project not in project_names:
        raise InputError(f"{where}: there is no project {item.project}")
    if missing := [r for r in item.responses if r not in facts]:
        raise InputError(f"{where}: there is no response {missing[0]}")
    kind = _kind(item, where)
    if len({facts[r].prompt_id for r in item.responses}) > 1:
        raise InputError(f"{where}: they answer different prompts")
    if item.overlap < 1:
        raise InputError(f"{where}: overlap {item.overlap} must be at least 1")
    # Items of "default" are hashed as they were before there were projects.
    of_project = () if item.project == 1 else (project_names[item.project],)
    return {
        "key": content_key(kind, sorted(facts[r].key for r in item.responses), *of_project),
        "kind": kind,
        "prompt_id": facts[item.responses[0]].prompt_id,
        "overlap": item.overlap if item.gold is None else EVERYBODY,
        "done": 0,
        "project_id": item.project,
        "gold": None if item.gold is None else _gold(item, kind, where),
        "selection": None if item.selection is None else dict(item.selection),
    }


def _kind(item: NewItem, where: str) -> ItemKind:
    num = len(item.responses)
    if len(set(item.responses)) != num or (item.kind is None and num < 2):
        raise InputError(f"{where}: give two or more different responses")
    kind = item.kind or ("pair" if num == 2 else "ranking")
    if kind not in SIZES:
        raise InputError(f"{where}: kind {kind!r} is none of {', '.join(SIZES)}")
    fewest, most = SIZES[kind]
    if not fewest <= num <= most:
        wanted = str(most) if fewest == most else f"{fewest} to {most}"
        raise InputError(f"{where}: {num} responses; kind {kind} takes {wanted}")
    return kind


def _gold(item: NewItem, kind: ItemKind, where: str) -> dict[str, int]:
    gold = item.gold or {}
    if kind not in ("pair", "ranking"):
        raise InputError(f"{where}: only a pair or a ranking can be gold, not kind {kind}")
    check_ranking(f"{where}: gold", gold)
    if strange := set(gold) - set(item.responses):
        raise InputError(f"{where}: gold ranks response {min(strange)}, which is none of them")
    return {str(response): gold[response] for response in sorted(gold)}


def _check_gold_is_kept(db: Connection, ids: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
    """An item may have been asked already, so adding it again cannot make it gold, or change what is expected."""
    stored = {row.id: row.gold for row in find(db, select(items.c.id, items.c.gold), items.c.id, ids)}
    for i, row in zip(ids, rows, strict=True):
        if row["gold"] is not None and stored[i] != row["gold"]:
            raise InputError(f"item {i}: is there already, with gold {stored[i]}; it cannot become {row['gold']}")
