"""Gold items: those whose answer is known, asked of everybody among the others. SQL over a connection."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, exists, func, select, update

from tether.feedback.facts import EVERYBODY, check_ranking
from tether.feedback.records import Conflict, Missing
from tether.feedback.schema import assignments, item_responses, items

_ASKED = exists().where(assignments.c.item_id == items.c.id).correlate(items)


def unasked(db: Connection, project: int, limit: int) -> list[int]:
    """Ids of pairs and rankings that nobody has been asked yet, the last first: they are asked last."""
    query = (
        select(items.c.id)
        .where(items.c.project_id == project, items.c.gold.is_(None), items.c.kind.in_(("pair", "ranking")), ~_ASKED)
        .order_by(items.c.id.desc())
        .limit(limit)
    )
    return [row.id for row in db.execute(query)]


def make_gold(db: Connection, project: int, item: int, ranking: Mapping[int, int]) -> None:
    """Makes an item gold; wants the write lock.

    Missing: no such item in the project. Conflict: somebody was asked already. InputError: no ranking of it.
    """
    row = db.execute(select(items, _ASKED.label("asked")).where(items.c.id == item)).first()
    if row is None or row.project_id != project or row.kind not in ("pair", "ranking"):
        raise Missing(f"item {item}: there is no such pair or ranking in this project")
    if row.asked or row.gold is not None:
        raise Conflict(f"item {item}: was asked already; choose one nobody has seen")
    check_ranking(f"item {item}", ranking)
    known = select(func.count()).where(item_responses.c.item_id == item, item_responses.c.response_id.in_(ranking))
    if db.execute(known).scalar_one() != len(ranking):
        raise Missing(f"item {item}: the ranking names a response it does not show")
    gold = {str(response): ranking[response] for response in sorted(ranking)}
    db.execute(update(items).where(items.c.id == item).values(gold=gold, overlap=EVERYBODY))
