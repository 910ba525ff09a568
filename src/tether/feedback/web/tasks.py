"""What annotators see: their projects, the guideline, the task page, their own answers.

A task is one form, rendered here. Without scripts it is posted and leads to the next task. With scripts, task.js sends
the same form to `/api/tasks/{number}` and shows the next task, which it has fetched from `/api/projects/{id}/task`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from markupsafe import Markup

from tether.errors import InputError
from tether.feedback.accounts import User
from tether.feedback.projects import Project
from tether.feedback.records import Conflict, Missing
from tether.feedback.schema import LARGEST
from tether.feedback.store import Store
from tether.feedback.web import turns
from tether.feedback.web.answers import LETTERS, by_position, give, order_said, own_key
from tether.feedback.web.api import conversation, read_guideline, receipt
from tether.feedback.web.forms import fields_of, said_in
from tether.feedback.web.render import rendered
from tether.feedback.web.security import csrf_token
from tether.feedback.web.session import (
    Form,
    Id,
    Known,
    SignedIn,
    Stored,
    form_fields,
    go,
    page,
    text,
)
from tether.feedback.web.shortcuts import GROUPS, keys_of
from tether.feedback.web.turns import MOST_HELD, Turn

router = APIRouter()
Number = Annotated[int | None, Query(ge=1, le=LARGEST)]
_FIELDS = ("choice", "strength", "rationale", "correction", "flag", "flag_note", "skip", "seconds", "submit_key")
_QUESTIONS = {
    "pair": "Which answer is better?",
    "ranking": "Order the answers from best to worst.",
    "rating": "Rate each answer.",
    "edit": "Make this answer better.",
}
_ROLES = {"user": "Person", "assistant": "Assistant", "system": "Instruction", "tool": "Tool"}
STRENGTHS = ("Hardly", "Slightly", "Clearly", "Much")
_PER_PAGE = 20


@router.get("/")
def my_projects(request: Request, store: Stored, user: SignedIn) -> Response:
    """What there is to work on."""
    with store.reading() as db:
        done = turns.done_by_project(db, user.id)
    return page(request, "projects.html", done=done)


@router.get("/projects/{project}/guideline")
def guideline_page(request: Request, store: Stored, user: SignedIn, project: Id) -> Response:
    """The guideline in force, to be acknowledged before work."""
    with store.reading() as db:
        found = turns.project_for(db, user.id, project)
    return page(
        request,
        "guideline.html",
        project=found,
        html=_guideline(found),
        acknowledged=store.has_acknowledged(user.id, project),
    )


@router.post("/projects/{project}/guideline", openapi_extra=form_fields("version"))
def acknowledge(store: Stored, user: SignedIn, project: Id, form: Form) -> Response:
    """Notes that the guideline was read, and goes on to the tasks."""
    version = text(form, "version")
    read_guideline(store, user.id, project, int(version) if version.isdecimal() and len(version) < 10 else 0)
    return go(f"/projects/{project}/task")


@router.get("/projects/{project}/task")
def task_page(request: Request, store: Stored, user: SignedIn, project: Id, task: Number = None) -> Response:
    """The task in hand, or that of number `task`, as long as the user has not answered it."""
    with store.reading() as db:
        turns.project_for(db, user.id, project)
    if not store.has_acknowledged(user.id, project):
        return go(f"/projects/{project}/guideline")
    if task is not None:
        try:
            turns.held(store, user.id, task)
        except Conflict:  # answered since: the page was loaded again, or come back to
            return go(f"/projects/{project}/task")
        turns.renew(store, user.id, task)
        turn: Turn | None = turns.held(store, user.id, task)
    else:
        turn = next(iter(turns.take(store, user.id, project, 1)), None)
    return _task_page(request, store, user, turn.project if turn else store.project(project), turn)


@router.post("/projects/{project}/task", openapi_extra=form_fields("assignment", "guideline_version", *_FIELDS))
def answer_by_form(request: Request, store: Stored, user: SignedIn, project: Id, form: Form) -> Response:
    """Stores the answer and goes on to the next task; shows the task again with what was wrong."""
    number = _number(text(form, "assignment"))
    try:
        give(store, user.id, number, text(form, "submit_key"), partial(said_in, form))
    except (Missing, Conflict):
        raise
    except InputError as error:
        filled = {name: value for name, value in form.items() if isinstance(value, str)}
        turn = turns.held(store, user.id, number)
        return _task_page(request, store, user, turn.project, turn, filled=filled, wrong=str(error), status=422)
    return go(f"/projects/{project}/task")


@router.post("/projects/{project}/undo", openapi_extra=form_fields("assignment", "submit_key"))
def undo_by_form(store: Stored, user: SignedIn, project: Id, form: Form) -> Response:
    """Takes an own answer back and shows its task again."""
    number = _number(text(form, "assignment"))
    turns.take_back(store, user.id, number, own_key(user.id, text(form, "submit_key")[:80]))
    return go(f"/projects/{project}/task?task={number}")


@router.post("/projects/{project}/view", openapi_extra=form_fields("raw", "assignment"))
def change_view(store: Stored, user: SignedIn, project: Id, form: Form) -> Response:
    """Texts formatted, or as they were written; kept with the account."""
    store.change_user(user.id, settings={**user.settings, "raw": text(form, "raw") == "1"})
    number = text(form, "assignment")
    return go(f"/projects/{project}/task" + (f"?task={_number(number)}" if number else ""))


@router.get("/projects/{project}/history")
def history_page(request: Request, store: Stored, user: SignedIn, project: Id, before: Number = None) -> Response:
    """One's own answers, the newest first."""
    found = turns.past(store, user.id, project, _PER_PAGE + 1, before)
    of = store.project(project)
    shown = [
        {
            "number": one.number,
            "asked": one.past.messages[-1].get("content", "") if one.past.messages else one.past.prompt,
            "said": (said := by_position(one.past.judgement)),
            "created": one.past.judgement.created,
            "summary": _summary(said, of.kind),
            "submit_key": secrets.token_urlsafe(12),
        }
        for one in found[:_PER_PAGE]
    ]
    more = found[_PER_PAGE - 1].number if len(found) > _PER_PAGE else None
    return page(request, "history.html", project=of, answers=shown, more=more, before=before)


@router.get("/api/projects/{project}/task")
def next_task(
    request: Request,
    store: Stored,
    user: SignedIn,
    known: Known,
    project: Id,
    task: Number = None,
    beside: Annotated[list[int] | None, Query(max_length=MOST_HELD)] = None,
) -> dict[str, Any]:
    """A task as a piece of the page: that of number `task`, or the first one that is not among `beside`."""
    if task is not None:
        turns.renew(store, user.id, task)
        turn: Turn | None = turns.held(store, user.id, task)
    else:
        others = set(beside or ())
        taken = turns.take(store, user.id, project, min(MOST_HELD, len(others) + 1))
        turn = next((one for one in taken if one.number not in others), None)
    context = _context(store, user, turn, store.project(project) if turn is None else turn.project)
    env = request.app.state.templates
    name = "_none.html" if turn is None else "_task.html"
    return {
        "assignment": turn.number if turn else None,
        "lease_seconds": turn.lease_seconds if turn else None,
        "html": env.get_template(name).render(context | {"csrf": csrf_token(known.token), "user": user}),
    }


@router.post("/api/tasks/{number}", openapi_extra=form_fields("guideline_version", *_FIELDS))
def answer_by_script(store: Stored, user: SignedIn, number: Id, form: Form) -> dict[str, Any]:
    """Stores the answer that a task's form gives. The same submit key again returns what was stored first."""
    return receipt(number, give(store, user.id, number, text(form, "submit_key"), partial(said_in, form)))


def _task_page(
    request: Request,
    store: Store,
    user: User,
    project: Project,
    turn: Turn | None,
    filled: Mapping[str, str] | None = None,
    wrong: str = "",
    status: int = 200,
) -> Response:
    about = {"html": _guideline(project), "groups": GROUPS, "all_keys": keys_of(user.settings)}
    return page(request, "task.html", status, **about, **_context(store, user, turn, project, filled, wrong))


def _context(
    store: Store,
    user: User,
    turn: Turn | None,
    project: Project,
    filled: Mapping[str, str] | None = None,
    wrong: str = "",
) -> dict[str, Any]:
    """What the templates of a task want."""
    raw = bool(user.settings.get("raw"))
    context = {"project": project, "turn": turn, "raw": raw, "keys": keys_of(user.settings), "wrong": wrong}
    if turn is None:
        return context
    how = "plain" if raw else project.settings.rendering
    assignment = turn.assignment
    said = conversation(assignment.messages) or [{"role": "user", "content": assignment.prompt}]
    return context | {
        "question": _QUESTIONS[assignment.kind],
        "messages": [(_ROLES.get(m["role"], m["role"]), rendered(m["content"], how)) for m in said],
        "responses": [
            (letter, rendered(response.text, how))
            for letter, response in zip(LETTERS, assignment.responses, strict=False)
        ],
        "original": assignment.responses[0].text,
        "filled": _taken_back(store, turn) if filled is None else filled,
        "strengths": STRENGTHS,
        "submit_key": secrets.token_urlsafe(12),
        "guideline_version": project.guideline_version,
    }


def _taken_back(store: Store, turn: Turn) -> dict[str, str]:
    """The fields of the answer that was taken back to be changed; nothing for a new task."""
    history = store.history(turn.assignment.id)
    before = next((j for j in history if history[-1].action == "undo" and j.id == history[-1].supersedes), None)
    return fields_of(by_position(before), turn.assignment.kind, turn.project.settings) if before else {}


def _guideline(project: Project) -> Markup | None:
    return rendered(project.guideline.text, "markdown") if project.guideline else None


def _number(given: str) -> int:
    """A task's number from a form; 0, which no task has, for anything else."""
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 11 else 0


def _summary(said: Mapping[str, Any], kind: str) -> str:
    """An answer in a few words."""
    if said["skip"] is not None:
        return f"Skipped: {said['skip']}"
    if said["ratings"] is not None and kind == "rating":
        rated = zip(LETTERS, said["ratings"], strict=False)
        return " · ".join(f"{letter}: {', '.join(f'{n} {v}' for n, v in of.items())}" for letter, of in rated)
    if said["ranking"] is None:
        return "Rewritten"
    if said["all_bad"] and len({*said["ranking"]}) == 1:
        return "None is acceptable"
    clear = "" if said["strength"] is None else f" ({STRENGTHS[round(said['strength'])].lower()})"
    return f"{order_said(said['ranking'])}{clear}{', none acceptable' if said['all_bad'] else ''}"
