"""The task's HTML form: what its fields say, and how they are filled with what was said before.

Fields: `choice` of a pair (a letter, "tie" or "bad"), `rank_A` … of a ranking (1 the best, empty: left out), `rate_A_0`
… (the value of the first attribute for response A), `strength`, `all_bad`, `correction`, `rationale`, `flag` with
`flag_note`, `seconds`; the button that skips sends `skip`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData

from tether.config.problems import first_problem
from tether.errors import InputError
from tether.feedback.projects import Settings
from tether.feedback.web.answers import LETTERS, Said
from tether.feedback.web.session import text
from tether.feedback.web.turns import Turn


def said_in(form: FormData, turn: Turn) -> Said:
    """What the form says about the turn. InputError in the words of the page when something is missing or wrong."""
    letters, skip = LETTERS[: len(turn.assignment.responses)], text(form, "skip")
    told: dict[str, Any] = {
        "submit_key": text(form, "submit_key"),
        "guideline_version": _number(form, "guideline_version") or 0,
        "flag": _flag(form),
        "seconds": _seconds(form),
    }
    if skip:
        told["skip"] = skip
    else:
        told |= {"rationale": text(form, "rationale").strip() or None, "strength": _number(form, "strength")}
        told |= _answer(form, letters, turn)
    try:
        return Said.model_validate(told)
    except ValidationError as error:
        raise InputError(first_problem(error.errors())) from None


def fields_of(said: Mapping[str, Any], kind: str, settings: Settings) -> dict[str, str]:
    """The form's fields filled with an answer in the terms of `Said`."""
    flag, _, note = (said.get("flag") or "").partition(": ")
    fields = {"rationale": said.get("rationale"), "correction": said.get("correction"), "flag": flag, "flag_note": note}
    if said.get("strength") is not None:
        fields["strength"] = f"{said['strength']:g}"
    if said.get("all_bad"):
        fields["all_bad"] = "on"
    if (ranking := said.get("ranking")) is not None:
        fields |= _choice(ranking, said) if kind == "pair" else _ranks(ranking)
    for letter, values in zip(LETTERS, said.get("ratings") or (), strict=False):
        for at, attribute in enumerate(settings.attributes):
            fields[f"rate_{letter}_{at}"] = str(values.get(attribute.name, ""))
    return {name: value for name, value in fields.items() if value}


def _answer(form: FormData, letters: str, turn: Turn) -> dict[str, Any]:
    kind, settings = turn.assignment.kind, turn.project.settings
    told: dict[str, Any] = {"ratings": _ratings(form, letters, settings, needed=kind == "rating")}
    correction = text(form, "correction")
    if correction.strip() or kind == "edit":
        told["correction"] = correction
    if kind == "pair":
        told |= _chosen(text(form, "choice"), letters)
    elif kind == "ranking":
        ranks = [_number(form, f"rank_{letter}") for letter in letters]
        told["all_bad"] = bool(text(form, "all_bad"))
        if any(rank is not None for rank in ranks) or not told["all_bad"]:
            told["ranking"] = [None if rank is None else rank - 1 for rank in ranks]
    return told


def _chosen(choice: str, letters: str) -> dict[str, Any]:
    if choice in ("tie", "bad"):
        return {"ranking": [0] * len(letters), "all_bad": choice == "bad"}
    if choice == "" or choice not in letters:
        raise InputError("Choose an answer first.")
    return {"ranking": [0 if letter == choice else 1 for letter in letters]}


def _ratings(form: FormData, letters: str, settings: Settings, needed: bool) -> list[dict[str, int]] | None:
    """Values by response and attribute; None when nothing is rated and nothing need be."""
    given = {
        (letter, at): _number(form, f"rate_{letter}_{at}")
        for letter in letters
        for at in range(len(settings.attributes))
    }
    missing = [where for where, value in given.items() if value is None]
    if missing and not needed and len(missing) == len(given):
        return None
    if missing:
        letter, at = missing[0]
        raise InputError(f"Rate response {letter} by “{settings.attributes[at].name}” too.")
    if not given:
        return None
    return [
        {attribute.name: given[letter, at] or 0 for at, attribute in enumerate(settings.attributes)}
        for letter in letters
    ]


def _choice(ranking: Sequence[int | None], said: Mapping[str, Any]) -> dict[str, str | None]:
    if said.get("all_bad"):
        return {"choice": "bad"}
    best = min((rank for rank in ranking if rank is not None), default=0)
    first = [letter for letter, rank in zip(LETTERS, ranking, strict=False) if rank == best]
    return {"choice": first[0] if len(first) == 1 else "tie"}


def _ranks(ranking: Sequence[int | None]) -> dict[str, str | None]:
    ranked = zip(LETTERS, ranking, strict=False)
    return {f"rank_{letter}": str(rank + 1) for letter, rank in ranked if rank is not None}


def _flag(form: FormData) -> str | None:
    reason, note = text(form, "flag"), " ".join(text(form, "flag_note").split())
    return f"{reason}: {note}" if reason and note else reason or None


def _number(form: FormData, name: str) -> int | None:
    """A whole number; None when the field is empty."""
    given = text(form, name).strip()
    if not given:
        return None
    if len(given) > 10 or not given.removeprefix("-").isdecimal() or not given.isascii():
        raise InputError(f"{name}: {given[:20]!r} is not a whole number")
    return int(given)


def _seconds(form: FormData) -> float | None:
    try:
        return float(text(form, "seconds")[:20])
    except ValueError:
        return None
