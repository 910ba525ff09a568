"""The JSON API: what an annotator does, for programs. Simulated annotators and AI judges come in here.

Tasks are named by their number among the annotator's own (see turns.py), responses by position. Nothing tells which
model wrote a response, which items are gold, or what others said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tether.errors import InputError
from tether.feedback.accounts import TooMany
from tether.feedback.records import Conflict, Judgement
from tether.feedback.schema import LARGEST
from tether.feedback.store import Store
from tether.feedback.web import turns
from tether.feedback.web.answers import Said, by_position, give, options, own_key
from tether.feedback.web.render import rendered
from tether.feedback.web.session import Accounted, Id, SignedIn, Stored, address_of
from tether.feedback.web.turns import MOST_HELD, Answered, Turn

router = APIRouter(prefix="/api")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Credentials(_Body):
    """Name and password."""

    name: str = Field(max_length=200)
    """As it was chosen with the invitation."""
    password: str = Field(max_length=1000)
    """A person's; programs have a token instead."""


class Wanted(_Body):
    """How many tasks to hold."""

    limit: int = Field(default=1, strict=True, ge=1, le=MOST_HELD)
    """The most to hold, with those held already."""


class Version(_Body):
    """A version of a project's guideline."""

    version: int = Field(strict=True, ge=1, le=LARGEST)
    """The one that was read."""


class Key(_Body):
    """The sender's own key of a change."""

    submit_key: str = Field(min_length=1, max_length=80)
    """The same key again returns what was stored the first time."""


@router.post("/sign-in")
def sign_in(request: Request, accounts: Accounted, given: Credentials) -> dict[str, str]:
    """A `token` to send as `Authorization: Bearer …`."""
    try:
        return {"token": accounts.sign_in(given.name, given.password, address_of(request))}
    except TooMany:
        raise
    except InputError as error:
        raise HTTPException(401, str(error)) from None


@router.get("/me")
def me(user: SignedIn) -> dict[str, Any]:
    """Who is signed in: `name`, `admin`."""
    return {"name": user.name, "admin": user.admin}


@router.get("/projects")
def my_projects(store: Stored, user: SignedIn) -> list[dict[str, Any]]:
    """What there is to work on, a list of `id`, `name`, `kind`, `guideline_version`, `acknowledged`."""
    return [
        {
            "id": project.id,
            "name": project.name,
            "kind": project.kind,
            "guideline_version": project.guideline_version,
            "acknowledged": store.has_acknowledged(user.id, project.id),
        }
        for project in store.projects_of(user.id)
        if project.state == "open"
    ]


@router.get("/projects/{project}/guideline")
def guideline(store: Stored, user: SignedIn, project: Id) -> dict[str, Any]:
    """The guideline in force: `version` (0 where there is none), `text`, `html`, and whether it is `acknowledged`."""
    with store.reading() as db:
        found = turns.project_for(db, user.id, project)
    text = found.guideline.text if found.guideline else ""
    return {
        "version": found.guideline_version,
        "text": text,
        "html": rendered(text, "markdown"),
        "acknowledged": store.has_acknowledged(user.id, project),
    }


@router.post("/projects/{project}/acknowledge")
def acknowledge(store: Stored, user: SignedIn, project: Id, given: Version) -> dict[str, Any]:
    """Notes that a version was read, the one in force: `version`, `acknowledged`."""
    read_guideline(store, user.id, project, given.version)
    return {"version": given.version, "acknowledged": True}


@router.post("/projects/{project}/claim")
def claim(store: Stored, user: SignedIn, project: Id, given: Wanted) -> JSONResponse:
    """Up to `limit` `tasks`, those held first; none when there is nothing to do.

    A task is its number (`assignment`), `project`, `kind`, `prompt` (of a conversation all `messages`, each `role` and
    `content`), `responses`, `lease_seconds` it is held for, `guideline_version`, and in `options` how to answer it:
    `ties`, `all_bad`, `strength`, `attributes` (`name`, `low`, `high`), `rationale`, `correction`, `skip_reasons`,
    `flag_reasons`.
    """
    # A ready response: FastAPI checks and writes other values in a thread of their own.
    return JSONResponse({"tasks": [_task(turn) for turn in turns.take(store, user.id, project, given.limit)]})


@router.post("/assignments/{number}/heartbeat")
def heartbeat(store: Stored, user: SignedIn, number: Id) -> dict[str, float]:
    """Keeps a task: the `lease_seconds` it stays."""
    return {"lease_seconds": round(turns.renew(store, user.id, number), 3)}


@router.post("/assignments/{number}/answer")
def answer(store: Stored, user: SignedIn, number: Id, said: Said) -> JSONResponse:
    """Stores an answer: its task (`assignment`), `revision` (0, then one more each time) and `action`."""
    return JSONResponse(receipt(number, give(store, user.id, number, said.submit_key, lambda turn: said)))


@router.post("/assignments/{number}/undo")
def undo(store: Stored, user: SignedIn, number: Id, given: Key) -> dict[str, Any]:
    """Takes one's own answer back, so that the task is open again: `assignment`, `revision`, `action`."""
    return receipt(number, turns.take_back(store, user.id, number, own_key(user.id, given.submit_key)))


@router.get("/projects/{project}/history")
def history(
    store: Stored,
    user: SignedIn,
    project: Id,
    limit: Annotated[int, Query(ge=1, le=200, description="The most to list.")] = 50,
    before: Annotated[int | None, Query(ge=1, le=LARGEST, description="The `assignment` to go on from.")] = None,
) -> dict[str, Any]:
    """One's own `answers` in force, the newest first.

    Each is `prompt`, `messages` and `responses` as they were shown, the fields it was given with, `assignment`,
    `revision`, `action`, and `created` (seconds since 1970).
    """
    found = turns.past(store, user.id, project, limit, before)
    return {"answers": [_answered(one) for one in found]}


def read_guideline(store: Store, user: int, project: int, version: int) -> None:
    """Notes that the user read it. Missing: not their project; Conflict: another version is in force."""
    with store.reading() as db:
        found = turns.project_for(db, user, project).guideline
    if found is None or found.version != version:
        raise Conflict(f"guideline version {version} is not in force; read the newest")
    store.acknowledge(user, project, found.id)


def receipt(number: int, judgement: Judgement) -> dict[str, Any]:
    """What is said of a stored answer."""
    return {"assignment": number, "revision": judgement.revision, "action": judgement.action}


def _answered(one: Answered) -> dict[str, Any]:
    judgement, past = one.past.judgement, one.past
    shown = {
        "prompt": past.prompt,
        "messages": conversation(past.messages),
        "responses": [response.text for response in past.responses],
    }
    return receipt(one.number, judgement) | shown | by_position(judgement) | {"created": judgement.created}


def conversation(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Who said what; whatever else came with a message may tell where it is from."""
    return [{"role": str(m.get("role", "")), "content": str(m.get("content", ""))} for m in messages]


def _task(turn: Turn) -> dict[str, Any]:
    return {
        "assignment": turn.number,
        "project": turn.project.id,
        "kind": turn.assignment.kind,
        "prompt": turn.assignment.prompt,
        "messages": conversation(turn.assignment.messages),
        "responses": [response.text for response in turn.assignment.responses],
        "lease_seconds": turn.lease_seconds,
        "guideline_version": turn.project.guideline_version,
        "options": options(turn.project.settings),
    }
