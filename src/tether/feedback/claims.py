"""Handing out items: who gets which, for how long. All functions want a connection that holds the write lock.

An item's place is taken by an answer (`items.done`) or by the live lease of an open assignment; the two together never
exceed its overlap. A skip gives its place back, and the item never returns to who skipped it. Where somebody is asked
again what they have answered, to see whether they say the same, that takes no place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from tether.feedback.facts import content_key, next_id
from tether.feedback.projects import Settings, settings_of
from tether.feedback.queries import item_texts, words_of
from tether.feedback.records import Assignment, Conflict, Missing
from tether.feedback.schema import LARGEST, AnyRow, assignments, items, projects, secrets, users

_APART = 20  # turns of somebody between an item and the same again, at the least

_user: BindParameter[int] = bindparam("user", type_=Integer)
_project: BindParameter[int] = bindparam("project", type_=Integer)
_now: BindParameter[float] = bindparam("now")
_limit: BindParameter[int] = bindparam("limit", type_=Integer)


def _others_live() -> ScalarSelect[int]:
    other = assignments.alias("other")
    live = (other.c.state == "open") & (other.c.expires > _now) & (other.c.user_id != _user)
    live &= other.c.role == "annotate"
    count = select(func.count()).select_from(other).where(other.c.item_id == items.c.id, live)
    return count.correlate(items).scalar_subquery()


_has_place: ColumnElement[bool] = items.c.done + _others_live() < items.c.overlap
_mine = assignments.alias("mine")
_had = exists().where(_mine.c.item_id == items.c.id, _mine.c.user_id == _user)
_never_had = ~_had.correlate(items)
_turns = (
    select(assignments.c.id)
    .join_from(assignments, items)
    .where(assignments.c.user_id == _user, assignments.c.role != "adjudicate", items.c.project_id == _project)
)
_gold_there = exists().where(items.c.project_id == _project, items.c.gold.is_not(None))

_secret = select(secrets.c.value).where(secrets.c.name == "store").scalar_subquery()
_WHO = (
    select(
        # People draw by lots that only the store can compute; programs by their names alone, so as to be repeatable.
        (case((users.c.kind == "human", _secret), else_="") + users.c.name).label("lot"),
        (users.c.kind == "human").label("human"),
        projects.c.name.label("project"),
        projects.c.state,
        projects.c.settings,
        _turns.with_only_columns(assignments.c.item_id)
        .where(items.c.gold.is_(None), assignments.c.role == "annotate")
        .order_by(assignments.c.item_id.desc())
        .limit(1)
        .scalar_subquery()
        .label("newest"),
        _gold_there.label("has_gold"),
    )
    .join_from(users, projects, projects.c.id == _project, isouter=True)
    .where(users.c.id == _user)
)
_answered = (assignments.c.state == "done") & (assignments.c.role == "annotate")
_TURNS = _turns.with_only_columns(
    func.count().label("asked"), func.coalesce(func.sum(case((_answered, 1), else_=0)), 0).label("done")
)
_ITEM = (items.c.id.label("item"), items.c.key, items.c.kind, items.c.project_id)
_NEW = (*_ITEM, literal("annotate").label("role"))
_HELD = (
    select(assignments.c.id, assignments.c.shown, *_ITEM)
    .join_from(assignments, items)
    .where(assignments.c.user_id == _user, assignments.c.state == "open", items.c.project_id == _project)
    .where((assignments.c.role == "repeat") | _has_place)
    .order_by(assignments.c.id)  # as given out: by item, the order would tell which are gold
    .limit(_limit)
)
_FRESH = (
    select(*_NEW)
    .where(items.c.project_id == _project, items.c.done < items.c.overlap, items.c.gold.is_(None))
    .where(items.c.id > bindparam("after"), items.c.id <= bindparam("upto"))
    .where(_never_had, _has_place)
    .order_by(items.c.id)
    .limit(_limit)
)
_GOLD = select(*_NEW).where(items.c.project_id == _project, items.c.gold.is_not(None), _never_had)
_long_ago = (
    _turns.order_by(assignments.c.id.desc())
    .offset(bindparam("apart", type_=Integer))
    .limit(1)
    .correlate(None)
    .scalar_subquery()
)
_AGAIN = (
    _turns.with_only_columns(*_ITEM, literal("repeat").label("role"))
    .where(_answered, items.c.gold.is_(None), assignments.c.id < _long_ago)
    .where(~_had.where(_mine.c.role == "repeat").correlate(items))
    .order_by(assignments.c.id)
    .limit(_limit)
)
_among = items.c.id.in_(bindparam("among", expanding=True))


class _Queries(NamedTuple):
    """Where the items of a claim come from."""

    held: Select[Any]
    fresh: Select[Any]
    gold: Select[Any]
    again: Select[Any]


_ALL = _Queries(_HELD, _FRESH, _GOLD, _AGAIN)
_QUERIES = {False: _ALL, True: _Queries(*(query.where(_among) for query in _ALL))}  # by whether some items are named

_ONE = (
    select(assignments, *_ITEM, items.c.overlap, items.c.done, projects.c.settings)
    .join_from(assignments, items)
    .join(projects)
    .where(assignments.c.id == bindparam("the_id"))
)
_LIVE_OTHERS = select(_others_live()).where(items.c.id == bindparam("item"))
_RENEW = update(assignments).where(assignments.c.id == bindparam("the_id")).values(expires=bindparam("until"))


def claim(
    db: Connection, user: int, limit: int, project: int, among: Sequence[int] | None, now: float, lease: float | None
) -> list[Assignment]:
    """Up to `limit` items of an open project: those the user holds first, then new ones in order of id.

    `among` restricts to some item ids; `lease` (seconds) overrules the project's. Missing: no such user or project.
    """
    who = db.execute(_WHO, {"user": user, "project": project}).first()
    if who is None or who.project is None:
        raise Missing(
            f"user {user}: there is no user with this id" if who is None else f"there is no project {project}"
        )
    if who.state != "open":
        return []
    given = {"user": user, "project": project, "now": now} | ({} if among is None else {"among": list(among)})
    settings = settings_of(who.settings)
    held = db.execute(_QUERIES[among is not None].held, {**given, "limit": limit}).all()
    fresh = _fresh(db, who, settings, given, limit - len(held), len(held))
    texts = item_texts(db, [row.item for row in (*held, *fresh)])
    expires = now + (settings.lease if lease is None else lease)
    mine = [_assignment(row.id, user, row, texts[row.item], row.shown, expires) for row in held]
    if held:
        db.execute(_RENEW, [{"the_id": row.id, "until": expires} for row in held])
    if fresh:
        first = next_id(db, assignments)
        for at, row in enumerate(fresh):
            lot = who.lot if row.role == "annotate" else f"{who.lot} again"
            order = shuffled(row.key, lot, texts[row.item])
            mine.append(_assignment(first + at, user, row, texts[row.item], order, expires))
        new = zip(mine[len(held) :], fresh, strict=True)
        db.execute(insert(assignments), [_assignment_row(a, row.role, now) for a, row in new])
    return mine


def held(db: Connection, user: int, assignment: int) -> Assignment:
    """An open assignment of this user. Missing when it is not theirs, Conflict when it is answered."""
    row = _own(db, user, assignment)
    return _assignment(row.id, user, row, item_texts(db, [row.item])[row.item], row.shown, row.expires)


def heartbeat(db: Connection, user: int, assignment: int, now: float, lease: float | None) -> float:
    """Renew the lease of an open assignment; when it ends now. Conflict when others have taken its place since."""
    row = _own(db, user, assignment)
    check_place(db, row, now)
    until = now + lease_of(row, lease)
    db.execute(_RENEW, {"the_id": assignment, "until": until})
    return until


def lease_of(row: AnyRow, given: float | None) -> float:
    """Seconds a place is held: what the store was opened with, else what the project of `row` says."""
    return settings_of(row.settings).lease if given is None else given


def live_others(db: Connection, item: int, user: int, now: float) -> int:
    """How many others hold a place of this item by a lease that has not ended."""
    return int(db.execute(_LIVE_OTHERS, {"item": item, "user": user, "now": now}).scalar_one())


def holds_place(row: AnyRow, now: float) -> bool:
    """Whether the lease of this assignment, with its item's `done` and `overlap`, has not ended, or it needs no place.

    It may have ended by another server's clock, or before a clock was put back; then an answer may be in its place.
    """
    return bool(row.role == "repeat" or (row.expires > now and row.done < row.overlap))


def check_place(db: Connection, row: AnyRow, now: float) -> None:
    """Conflict when an assignment holds no place, and answers and live leases of others leave none."""
    if holds_place(row, now):
        return
    if row.done + live_others(db, row.item_id, row.user_id, now) >= row.overlap:
        raise Conflict(f"assignment {row.id}: its time ran out and others have answered the item since; claim another")


def shuffled(item_key: str, lot: str, of_item: Sequence[AnyRow]) -> list[int]:
    """Response ids in an order that is random between annotators, and the same whenever it is drawn again."""
    return [
        r.id for r in sorted(of_item, key=lambda r: hashlib.sha256(f"{item_key}\0{lot}\0{r.key}".encode()).digest())
    ]


def _fresh(
    db: Connection, who: AnyRow, settings: Settings, given: Mapping[str, Any], room: int, num_held: int
) -> list[AnyRow]:
    """Up to `room` items the user never had, within their quota; gold ones and repeats are strewn among them."""
    if room <= 0:
        return []
    asked = done = 0
    if settings.quota is not None or who.has_gold or settings.repeat_share:
        asked, done = db.execute(_TURNS, given).one()
    if settings.quota is not None:
        room = min(room, settings.quota - done - num_held)
    found: list[AnyRow] = []
    newest = who.newest or 0
    # Beyond the user's newest item there is nothing to skip over, so look there first; then pick up what others left.
    for after, upto in ((newest, LARGEST), (0, newest)):
        if (left := room - len(found)) > 0:
            span = {**given, "limit": left, "after": after, "upto": upto}
            found += db.execute(_QUERIES["among" in given].fresh, span).all()
    strewn = [_strewn(who, settings, asked + turn) for turn in range(room)]
    return _mixed(db, who, given, found, strewn) if found and any(strewn) else found


def _strewn(who: AnyRow, settings: Settings, turn: int) -> Literal["gold", "again", ""]:
    """What a turn of the user in the project is for, if not an ordinary item: the same whenever it is drawn again."""
    drawn = int(content_key(who.lot, who.project, turn)[:13], 16) / 16**13
    if drawn < settings.gold_share:
        return "gold" if who.has_gold else ""
    again = who.human and drawn < settings.gold_share + settings.repeat_share
    return "again" if again else ""  # programs would be asked for what they have said by the same key


def _mixed(
    db: Connection, who: AnyRow, given: Mapping[str, Any], found: Sequence[AnyRow], strewn: Sequence[str]
) -> list[AnyRow]:
    """Gold items and repeats at their turns, as long as there are ordinary ones to hide them among."""
    query = _QUERIES["among" in given]
    gold = list(db.execute(query.gold, given)) if "gold" in strewn else []
    gold.sort(key=lambda row: content_key(who.lot, row.key))
    far = {**given, "limit": len(strewn), "apart": _APART - 1}
    again = list(db.execute(query.again, far)) if "again" in strewn else []
    ordinary = list(found)
    mixed: list[AnyRow] = []
    for kind in strewn:
        if not ordinary:
            break
        if kind == "gold" and gold:
            mixed.append(gold.pop())
        else:
            mixed.append((again if kind == "again" and again else ordinary).pop(0))
    return mixed


def _own(db: Connection, user: int, assignment: int) -> AnyRow:
    row = db.execute(_ONE, {"the_id": assignment}).first()
    if row is None or row.user_id != user:
        raise Missing(f"assignment {assignment}: there is no such assignment")
    if row.state != "open":
        raise Conflict(f"assignment {assignment}: is answered already; undo that answer first")
    return row


def _assignment(
    identity: int, user: int, item: AnyRow, of_item: Sequence[AnyRow], order: Sequence[int], expires: float
) -> Assignment:
    words = words_of(of_item, order)
    return Assignment(identity, item.item, item.key, user, *words, expires, item.kind, item.project_id)


def _assignment_row(assignment: Assignment, role: str, now: float) -> dict[str, Any]:
    return {
        "id": assignment.id,
        "item_id": assignment.item,
        "user_id": assignment.user,
        "shown": [response.id for response in assignment.responses],
        "state": "open",
        "role": role,
        "claimed": now,
        "expires": assignment.expires,
    }
