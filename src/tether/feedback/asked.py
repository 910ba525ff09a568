"""What a query's judgements are about: items with their words, all that was said of each, and by whom.

Items, prompts and responses go by the hash of their content, annotators by salted hashes of their names.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from tether.feedback.facts import content_key, find
from tether.feedback.queries import adjudications, in_force
from tether.feedback.records import Judgement, Query
from tether.feedback.schema import AnyRow, item_responses, items, prompts, responses, users


@dataclass(frozen=True)
class Asked:
    """An item and all that was said about it."""

    item: AnyRow
    """As `items_of` gives it, its prompt included."""
    responses: list[AnyRow]
    judged: list[Judgement]
    """In force, skips included, by id."""
    last_word: Judgement | None
    """The adjudication."""
    split: str
    """`train` or `test`."""

    @property
    def prompt(self) -> Any:
        """The messages of a conversation, or text."""
        return self.item.messages or self.item.text

    @property
    def rankings(self) -> list[Judgement]:
        """The annotators' rankings."""
        return [j for j in self.judged if j.ranking is not None]

    @property
    def decisive(self) -> list[Judgement]:
        """The rankings that count: the adjudication, or else the annotators'."""
        return self.rankings if self.last_word is None else [self.last_word]

    def said(self, text: str | None) -> Any:
        """A response's text as the prompt wants it: text for text, for a conversation the turn that continues it."""
        return [{"role": "assistant", "content": text}] if self.item.messages else text


@dataclass(frozen=True)
class People:
    """Who annotated."""

    names: Mapping[int, str]
    kinds: Mapping[int, str]
    salt: str

    def hidden(self, user: int) -> str:
        """A hash in place of a user's name; whoever does not know the salt cannot check a guess."""
        return hashlib.sha256(f"{self.salt}\0{self.names[user]}".encode()).hexdigest()[:16]


def gather(db: Connection, query: Query, *, gold: bool = False, held_out: float = 0.0) -> list[Asked]:
    """Every item the query's judgements are about, by id; gold ones only when asked for."""
    of_item: dict[int, list[Judgement]] = defaultdict(list)
    for judgement in in_force(db, query):
        of_item[judgement.item].append(judgement)
    settled, split = adjudications(db, query), splits(db, held_out)
    wanted = items_of(db, sorted(of_item.keys() | settled.keys()))
    found = (Asked(item, its, of_item[item.id], settled.get(item.id), split(item.prompt_key)) for item, its in wanted)
    return [asked for asked in found if gold or asked.item.gold is None]


def people(db: Connection, salt: str) -> People:
    """All users of the store."""
    rows = db.execute(select(users.c.id, users.c.name, users.c.kind)).all()
    return People({row.id: row.name for row in rows}, {row.id: row.kind for row in rows}, salt)


def guidelines_of(judged: Sequence[Judgement]) -> int | list[int]:
    """The guideline these were given by, or all of them where there was more than one (or nothing was given)."""
    versions = sorted({j.guideline for j in judged})
    return versions[0] if len(versions) == 1 else versions


def splits(db: Connection, held_out: float) -> Callable[[str], str]:
    """Which split the prompt of a key is in: `test` for a share `held_out` of the prompts, else `train`.

    Decided by the prompt's content hash. The same words may be stored more than once, with different token ids or
    none: such prompts go where the first of them goes.
    """
    if not held_out:
        return lambda key: "train"
    several = select(prompts.c.text).group_by(prompts.c.text).having(func.count() > 1)
    query = select(prompts.c.key, prompts.c.text, prompts.c.messages).where(prompts.c.text.in_(several))
    known: dict[str, str] = {}
    first = {
        row.key: known.setdefault(content_key(row.text, row.messages), row.key)
        for row in db.execute(query.order_by(prompts.c.id))
    }
    return lambda key: "test" if int(first.get(key, key)[:13], 16) < held_out * 16**13 else "train"


def items_of(db: Connection, wanted: Sequence[int]) -> Iterator[tuple[AnyRow, list[AnyRow]]]:
    """Items by id, each with its prompt, and its responses in order."""
    query = select(
        *(items.c[name] for name in ("id", "key", "kind", "project_id", "gold", "selection")),
        prompts.c.key.label("prompt_key"),
        *(prompts.c[name] for name in ("text", "messages", "token_ids", "meta")),
    ).join_from(items, prompts)
    links = select(item_responses.c.item_id, responses).join_from(item_responses, responses)
    of_item: dict[int, list[AnyRow]] = defaultdict(list)
    for row in find(db, links.order_by(item_responses.c.position), item_responses.c.item_id, wanted):
        of_item[row.item_id].append(row)
    for row in sorted(find(db, query, items.c.id, wanted), key=lambda row: int(row.id)):
        yield row, of_item[row.id]
