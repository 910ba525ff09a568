"""Rewards that can be checked: the table of verifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.errors import InputError
from tether.types import Scorer

VERIFIERS: dict[str, Any] = {}
"""Name → its section."""


def build_verifier(name: str, options: Mapping[str, Any]) -> Scorer:
    """The scorer `name` with these options."""
    raise InputError(f"there is no verifier '{name}'")
