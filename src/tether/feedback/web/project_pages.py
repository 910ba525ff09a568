"""Admins: a project's settings, guideline, members and gold items."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from tether.errors import InputError
from tether.feedback.accounts import Accounts, record
from tether.feedback.asked import items_of
from tether.feedback.gold import make_gold, unasked
from tether.feedback.invitations import invite_name
from tether.feedback.records import Missing, ProjectState
from tether.feedback.store import Store
from tether.feedback.web.manage import link_to
from tether.feedback.web.render import rendered
from tether.feedback.web.session import (
    Accounted,
    Admin,
    Form,
    Id,
    InviteName,
    Stored,
    form_fields,
    go,
    page,
    text,
)
from tether.feedback.web.settings_form import FIELDS, said_fields, settings_fields, settings_from

router = APIRouter(prefix="/admin/projects/{project}")
_CANDIDATES = 20


@router.get("/settings")
def settings(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """The form of the settings."""
    found = store.project(project)
    return page(request, "admin-settings.html", project=found, fields=settings_fields(found.settings), wrong="")


@router.post("/settings", openapi_extra=form_fields(*FIELDS))
def change_settings(request: Request, user: Admin, store: Stored, form: Form, project: Id) -> Response:
    """New settings, from the next item on."""
    found = store.project(project)
    try:
        new = settings_from(form)
        store.change_project(project, settings=new)
    except InputError as error:
        fields, wrong = said_fields(form), str(error)
        return page(request, "admin-settings.html", 422, project=found, fields=fields, wrong=wrong)
    before, after = (known.model_dump(mode="json") for known in (found.settings, new))
    changed = {name: value for name, value in after.items() if before[name] != value}
    if changed:
        store.record(user.id, "settings_changed", project=project, changed=changed)
    return go(f"/admin/projects/{project}")


@router.post("/state", openapi_extra=form_fields("state"))
def change_state(request: Request, user: Admin, store: Stored, form: Form, project: Id) -> Response:
    """Opens, pauses or closes the project; paused and closed ones hand out nothing."""
    state = text(form, "state")
    store.change_project(project, state=cast("ProjectState", state))
    store.record(user.id, "state_changed", project=project, state=state)
    return go(f"/admin/projects/{project}")


@router.get("/guideline")
def guideline(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """Every version of the guideline, the newest to be edited into the next."""
    found, versions = store.project(project), store.guidelines(project)
    before = ["", *(version.text for version in versions)]
    changes = [(version, changed_lines(old, version.text)) for old, version in zip(before, versions, strict=False)]
    return page(request, "admin-guideline.html", project=found, versions=changes[::-1])


@router.post("/guideline", openapi_extra=form_fields("text"))
def new_guideline(request: Request, user: Admin, store: Stored, form: Form, project: Id) -> Response:
    """Puts a new version in force: everybody reads it before going on."""
    said = text(form, "text").strip()
    before = store.project(project).guideline
    if not said:
        raise InputError("guideline: is empty; say what annotators should look for")
    store.add_guideline(said, project)
    now = store.guidelines(project)[-1]
    if now != before:
        store.record(user.id, "guideline_changed", project=project, version=now.version)
    return go(f"/admin/projects/{project}/guideline")


@router.get("/members")
def members(request: Request, user: Admin, store: Stored, accounts: Accounted, project: Id) -> Response:
    """Who works on the project, who else could, and who is invited."""
    return _members(request, store, accounts, project)


@router.post("/members", openapi_extra=form_fields("person", "change"))
def change_members(request: Request, user: Admin, store: Stored, form: Form, project: Id) -> Response:
    """Adds a person or takes one off."""
    said = text(form, "person")
    person = store.user(int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 0).id
    store.project(project)
    removed = text(form, "change") == "remove"
    (store.remove_member if removed else store.add_member)(project, person)
    store.record(user.id, "member_removed" if removed else "member_added", project=project, person=person)
    return go(f"/admin/projects/{project}/members")


@router.post("/invite")
def invite(request: Request, user: Admin, store: Stored, accounts: Accounted, project: Id) -> Response:
    """A link by which one person makes an account and is a member of the project; shown once."""
    store.project(project)
    token = accounts.invite(project=project)
    store.record(user.id, "invited", project=project, invite=invite_name(token))
    return _members(request, store, accounts, project, link_to(request, "invite", token))


@router.post("/invites/{invite}/revoke")
def revoke(user: Admin, accounts: Accounted, project: Id, invite: InviteName) -> Response:
    """Ends an invitation to this project that nobody used yet."""
    accounts.revoke(invite, user.id, project)
    return go(f"/admin/projects/{project}/members")


@router.get("/gold")
def gold(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """The gold items there are, and items nobody was asked yet that could be gold."""
    return _gold(request, store, project)


@router.post("/gold/{item}", openapi_extra=form_fields("rank_1", "rank_2"))
def add_gold(request: Request, user: Admin, store: Stored, form: Form, project: Id, item: Id) -> Response:
    """Makes an item gold with the ranks given."""
    try:
        with store.writing() as db:
            make_gold(db, project, item, ranks_from(form))
            record(db, user.id, "gold_added", store.now(), project=project, item=item)
    except Missing:
        raise
    except InputError as error:
        return _gold(request, store, project, str(error))
    return go(f"/admin/projects/{project}/gold")


def ranks_from(form: FormData) -> dict[int, int]:
    """Response → rank from fields `rank_ID` with places 1, 2 …; an empty field leaves a response out.

    InputError for anything else.
    """
    ranks = {}
    for name, value in form.multi_items():
        start, _, response = name.partition("_")
        if start != "rank" or not isinstance(value, str) or not value:
            continue
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (response, value)) or value == "0":
            raise InputError(f"place {value[:20]!r}: must be 1 for the best, 2, 3 … or nothing")
        ranks[int(response)] = int(value) - 1
    if len(ranks) < 2:
        raise InputError("give at least two responses a place")
    return ranks


def changed_lines(old: str, new: str) -> list[tuple[str, str]]:
    """The lines of two texts, each with what became of it: "ins", "del" or "" (it stayed).

    >>> changed_lines("a\\nb", "a\\nc")
    [('', 'a'), ('del', 'b'), ('ins', 'c')]
    """
    marks = {"+": "ins", "-": "del", " ": ""}
    compared = difflib.ndiff(old.splitlines(), new.splitlines())
    return [(marks[line[0]], line[2:]) for line in compared if line[0] in marks]


def shown_items(store: Store, wanted: list[int], how: str) -> list[dict[str, Any]]:
    """Items with prompt and responses as safe HTML; nothing says who wrote what."""
    with store.reading() as db:
        found = list(items_of(db, sorted(wanted)))
    return [
        {
            "id": item.id,
            "prompt": turns(item.text, item.messages or (), how),
            "responses": [{"id": r.id, "html": rendered(r.text, how)} for r in its],
        }
        for item, its in found
    ]


def turns(prompt: str, messages: Any, how: str) -> list[Mapping[str, Any]]:
    """A prompt as the turns of a conversation."""
    said = messages or ({"role": "user", "content": prompt},)
    return [{"role": m["role"], "html": rendered(m["content"], how)} for m in said]


def _members(request: Request, store: Store, accounts: Accounts, project: int, link: str = "") -> Response:
    members = store.members(project)
    inside = {member.id for member in members}
    others = [user for user in store.users() if user.active and user.id not in inside]
    shown = {"members": members, "others": others, "link": link, "invites": accounts.invites(project)}
    return page(request, "admin-members.html", project=store.project(project), **shown)


def _gold(request: Request, store: Store, project: int, wrong: str = "") -> Response:
    found, ranks = store.project(project), store.gold(project)
    with store.reading() as db:
        could = unasked(db, project, _CANDIDATES)
    how = found.settings.rendering
    known = [item | {"ranks": ranks[item["id"]]} for item in shown_items(store, list(ranks), how)]
    context = {"gold": known, "candidates": shown_items(store, could, how)[::-1], "wrong": wrong}
    return page(request, "admin-gold.html", 422 if wrong else 200, project=found, **context)
