"""Which key does what on the task page; every annotator may change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tether.errors import InputError
from tether.feedback.web.answers import LETTERS
from tether.feedback.web.session import Form, SignedIn, Stored, form_fields, go, page, text

router = APIRouter()


class Action(NamedTuple):
    """Something a key does."""

    name: str
    label: str
    key: str
    """The key as it is at first."""


GROUPS: tuple[tuple[str, tuple[Action, ...]], ...] = (
    (
        "Answers",
        (
            *(Action(letter, f"Response {letter}: choose it, rank it, rate it", letter.lower()) for letter in LETTERS),
            Action("tie", "A pair: equally good", "t"),
            Action("all_bad", "None is acceptable", "n"),
            Action("equal", "A ranking: the next is as good as the last", "="),
            Action("erase", "A ranking: take the last one out", "Backspace"),
            Action("rate", "Go to what is not rated yet", "q"),
        ),
    ),
    (
        "Numbers",
        tuple(Action(str(n), f"Number {n}", str(n)) for n in range(10)),
    ),
    (
        "Words",
        (
            Action("rationale", "Say why", "r"),
            Action("correction", "Write a better answer", "w"),
            Action("flag", "Report a problem", "p"),
        ),
    ),
    (
        "Going on",
        (
            Action("submit", "Submit and go on", "Enter"),
            Action("skip", "Skip, for a reason", "s"),
            Action("undo", "Take the last answer back", "u"),
        ),
    ),
    (
        "Looking",
        (
            Action("view", "Formatted or as written", "v"),
            Action("guideline", "The guideline", "l"),
            Action("history", "My answers", "y"),
            Action("help", "All shortcuts", "?"),
        ),
    ),
)
ACTIONS = {action.name: action for _, actions in GROUPS for action in actions}
NAMED_KEYS = ("Enter", "Backspace", "Delete", "Insert")
"""Keys besides those of one letter. Tab, Space, Escape and the arrows stay the browser's."""


def keys_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Action → key, of a user's settings; no keys at all when they are turned off."""
    if settings.get("keys_off"):
        return {}
    chosen = settings.get("keys")
    changed = chosen if isinstance(chosen, dict) else {}
    return {name: str(changed.get(name, action.key)) for name, action in ACTIONS.items()}


def checked_keys(given: Mapping[str, str]) -> dict[str, str]:
    """Action → key, where every action has a key of its own. InputError naming what is wrong."""
    keys: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, action in ACTIONS.items():
        key = given.get(name, action.key)
        key = key if key in NAMED_KEYS else key.lower()
        if key not in NAMED_KEYS and (len(key) != 1 or not key.isprintable() or key.isspace()):
            named = ", ".join(NAMED_KEYS)
            raise InputError(f"“{action.label}”: give one letter, digit or sign, or one of {named}")
        if key in taken:
            raise InputError(f"“{action.label}” and “{taken[key]}” both want the key {key}; give one of them another")
        taken[key], keys[name] = action.label, key
    return keys


@router.get("/shortcuts")
def shortcuts_page(request: Request, user: SignedIn, saved: bool = False) -> Response:
    """Every action with its key."""
    keys = keys_of({**user.settings, "keys_off": False})
    return _page(request, keys, bool(user.settings.get("keys_off")), saved=saved)


@router.post("/shortcuts", openapi_extra=form_fields("off", "reset", *(f"key_{name}" for name in ACTIONS)))
def change_shortcuts(request: Request, store: Stored, user: SignedIn, form: Form) -> Response:
    """Keeps the keys with the account; refuses two actions on one key."""
    off = bool(text(form, "off"))
    given = {} if text(form, "reset") else {name: text(form, f"key_{name}", a.key) for name, a in ACTIONS.items()}
    try:
        keys = checked_keys(given)
    except InputError as error:
        return _page(request, given, off, wrong=f"{error}.", status=422)
    changed = {name: key for name, key in keys.items() if key != ACTIONS[name].key}
    store.change_user(user.id, settings={**user.settings, "keys": changed, "keys_off": off})
    return go("/shortcuts?saved=1")


def _page(
    request: Request, keys: Mapping[str, str], off: bool, *, wrong: str = "", saved: bool = False, status: int = 200
) -> Response:
    return page(
        request, "shortcuts.html", status, groups=GROUPS, keys=keys, off=off, wrong=wrong, saved=saved, named=NAMED_KEYS
    )
