"""A dataset out of a store: rows of a shape, written to a file or folder, with its card and a receipt in the store.

Its parts: `asked.py` (what was asked, and all that was said), `shapes.py` (that → rows), `files.py` (rows → bytes),
`card.py` (README.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from tether.data.rows import Row
from tether.errors import InputError
from tether.feedback.asked import gather
from tether.feedback.card import Subject, card, facts_about
from tether.feedback.facts import next_id
from tether.feedback.files import is_file_name, write_file, write_folder
from tether.feedback.queries import last_judgement
from tether.feedback.records import Query
from tether.feedback.schema import exports, secrets
from tether.feedback.shapes import SHAPES, Options, rows_of
from tether.feedback.store import EVERYTHING, Store


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an export wrote, as the store remembers it."""

    id: int
    query: Mapping[str, Any]
    """Which judgements, which shape and options: with the store, all that is needed to write the same bytes again."""
    last_judgement: int
    num_rows: int
    sha256: str
    """Of the file; of a folder, over its data files' names and bytes."""
    user: int | None
    created: float


def make_dataset(
    store: Store,
    out: Path,
    shape: str = "preferences",
    *,
    query: Query = EVERYTHING,
    options: Options | None = None,
    kind: str = "jsonl",
    license: str | None = None,
    by: int | None = None,
) -> Receipt:
    """Writes `out`: a file where it ends in .jsonl, .csv or .parquet, else a folder with a file a split and a card.

    `kind` is what a folder holds: jsonl, csv, parquet or datasets. `by` is the user who asked for it. Without a salt in
    `options` the store's own is used, drawn once at random. The same query up to the same judgement gives the same
    bytes.

    InputError: an unknown shape, bad options, nothing to export, a split into a single file, a place that is taken, or
    another file's ending.
    """
    options = options or Options()
    single = is_file_name(out)
    if single and options.held_out:
        raise InputError(f"{out}: one file would mix held-out prompts with the others; give a folder for held_out")
    options.check()
    given = bool(options.salt)
    options = options if given else replace(options, salt=store_salt(store))
    with store.reading() as db:
        until = last_judgement(db) if query.until is None else min(query.until, last_judgement(db))
        query = replace(query, until=until)
        rows = rows_of(db, shape, query, options)
        if not rows:
            raise InputError(f"nothing to export as {shape}: {_others(db, shape, query)}")
        facts = None if single else facts_about(db, gather(db, query), options.salt)
    if facts is None:
        sha256 = write_file(rows, out)
    else:
        splits = _splits(rows)
        files = {} if kind == "datasets" else {split: f"{split}.{kind}" for split in splits}
        subject = Subject(out.name, shape, splits, files, options, until, _version(), license)
        sha256 = write_folder(splits, out, kind, {"README.md": card(subject, facts)})
    asked = {
        "shape": shape,
        "kind": out.suffix.lower()[1:] if single else kind,
        "salt": "given" if given else "store's",
    }
    return _record(store, {**_plain(query), **_plain(options), **asked}, until, len(rows), sha256, by)


def store_salt(store: Store) -> str:
    """The store's own salt for pseudonyms. Who is forgotten gets another name, so another pseudonym too."""
    with store.reading() as db:
        secret = db.execute(select(secrets.c.value).where(secrets.c.name == "store")).scalar_one()
    return hashlib.sha256(f"pseudonyms\0{secret}".encode()).hexdigest()


def receipts(store: Store) -> list[Receipt]:
    """Every export of the store, the newest first."""
    with store.reading() as db:
        rows = db.execute(select(exports).order_by(exports.c.id.desc())).all()
    return [Receipt(r.id, r.query, r.last_judgement, r.num_rows, r.sha256, r.user_id, r.created) for r in rows]


def _others(db: Connection, shape: str, query: Query) -> str:
    """What there is where a shape has no rows."""
    there = [other for other in SHAPES if rows_of(db, other, query, Options())]
    if shape in there:
        return "min_votes and min_agreement leave none of its rows"
    if not there:
        return "there is no judgement that the query lets through"
    return f"the answers that the query lets through make rows of {', '.join(there)} only"


def _splits(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for split in ("train", "test"):
        if kept := [row for row in rows if row["split"] == split]:
            found[split] = kept
    return found


def _plain(record: Query | Options) -> dict[str, Any]:
    """For JSON; without the salt."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(record).items() if k != "salt"}


def _record(store: Store, query: dict[str, Any], until: int, num_rows: int, sha256: str, by: int | None) -> Receipt:
    of = query.get("projects", [])
    with store.writing() as db:
        now, identity = store.now(), next_id(db, exports)
        row = {"id": identity, "project_id": of[0] if len(of) == 1 else None, "user_id": by, "query": query}
        row |= {"last_judgement": until, "num_rows": num_rows, "sha256": sha256, "created": now}
        db.execute(insert(exports), row)
    return Receipt(identity, query, until, num_rows, sha256, by, now)


def _version() -> str:
    from tether import __version__

    return __version__
