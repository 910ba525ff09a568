"""A project's settings as the fields of a form, and back."""

from __future__ import annotations

import math
from typing import Any

from starlette.datastructures import FormData

from tether.errors import InputError
from tether.feedback.projects import Settings, settings_of
from tether.feedback.web.session import text

FIELDS = (
    *("overlap", "shown", "ties", "all_bad", "strength", "attributes", "rationale", "correction", "rendering"),
    *("quota", "lease_minutes", "gold_percent", "repeat_percent", "skip_reasons", "flag_reasons"),
)
"""The fields of the form."""


def settings_fields(settings: Settings) -> dict[str, Any]:
    """What the form shows: numbers and texts by field, True for a ticked box."""
    lines = [f"{a.name} {a.low} {a.high}" for a in settings.attributes]
    return settings.model_dump() | {
        "attributes": "\n".join(lines),
        "quota": "" if settings.quota is None else settings.quota,
        "lease_minutes": f"{settings.lease / 60:g}",
        "gold_percent": f"{settings.gold_share * 100:g}",
        "repeat_percent": f"{settings.repeat_share * 100:g}",
        "skip_reasons": "\n".join(settings.skip_reasons),
        "flag_reasons": "\n".join(settings.flag_reasons),
    }


def said_fields(form: FormData) -> dict[str, Any]:
    """The fields as they were sent, to be shown again."""
    ticks = ("ties", "all_bad", "strength", "correction")
    return {name: name in form if name in ticks else text(form, name) for name in FIELDS}


def settings_from(form: FormData) -> Settings:
    """The settings a form gives. InputError naming the first field that is wrong."""
    said = said_fields(form)
    said["attributes"] = [_attribute(line) for line in _lines(said["attributes"])]
    said["quota"] = said["quota"].strip() or None
    said["lease"] = 60 * _number(said.pop("lease_minutes"), "minutes for an item")
    for share, what in (("gold", "share of gold items"), ("repeat", "share of items asked again")):
        said[f"{share}_share"] = _number(said.pop(f"{share}_percent"), what) / 100
    for name in ("skip_reasons", "flag_reasons"):
        said[name] = _lines(said[name])
    return settings_of(said)


def _lines(said: str) -> list[str]:
    return [line.strip() for line in said.split("\n") if line.strip()]


def _attribute(line: str) -> dict[str, Any]:
    """`helpful 1 7`, or a name alone."""
    name, *bounds = line.rsplit(maxsplit=2)
    if len(bounds) == 2 and all(bound.lstrip("-").isdigit() for bound in bounds):
        return {"name": name, "low": bounds[0], "high": bounds[1]}
    return {"name": line}


def _number(said: str, what: str) -> float:
    try:
        number = float(said)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"project settings, {what}: {said[:20]!r} is not a number")
    return number
