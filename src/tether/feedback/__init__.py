"""Collecting preferences: the store, annotators that are programs, agreement, aggregation, export. Without torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tether.errors import InputError

if TYPE_CHECKING:
    from tether.feedback.store import Store


def open_store(where: str | os.PathLike[str]) -> Store:
    """The preference store in an SQLite file, made or migrated when need be.

    InputError when SQLAlchemy or Alembic is not installed, or the file can't be a store.
    """
    try:
        import alembic  # noqa: F401

        from tether.feedback.store import Store
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("alembic", "sqlalchemy"):
            raise
        raise InputError(f"the preference store needs the package {package}: pip install 'tether-rlhf[demo]'") from None
    return Store.open(where)
