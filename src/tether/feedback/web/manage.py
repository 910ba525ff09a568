"""Admins: all projects, all people and programs, the audit log."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tether.errors import InputError
from tether.feedback.accounts import Accounts, User
from tether.feedback.invitations import invite_name
from tether.feedback.records import UserKind
from tether.feedback.schema import LARGEST
from tether.feedback.store import Store
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

router = APIRouter(prefix="/admin")
_EVENTS = 100


@router.get("")
def overview(request: Request, user: Admin, store: Stored) -> Response:
    """Every project and how far it is."""
    rows = [(project, store.progress(project.id)) for project in store.projects()]
    return page(request, "admin.html", rows=rows)


@router.get("/people")
def people(request: Request, user: Admin, store: Stored, accounts: Accounted) -> Response:
    """Every account, with what can be done about it, and every invitation that is open."""
    return _people(request, store, accounts)


@router.post("/people/invite")
def invite_admin(request: Request, user: Admin, store: Stored, accounts: Accounted) -> Response:
    """A link that makes one more admin; shown once, for only its hash is kept."""
    token = accounts.invite(admin=True)
    store.record(user.id, "invited", admin=True, invite=invite_name(token))
    return _people(request, store, accounts, link=link_to(request, "invite", token))


@router.post("/people/invites/{invite}/revoke")
def revoke(user: Admin, accounts: Accounted, invite: InviteName) -> Response:
    """Ends an invitation, or a link for a new password, that nobody used yet."""
    accounts.revoke(invite, user.id)
    return go("/admin/people")


@router.post("/people/{person}/password")
def new_password(request: Request, user: Admin, store: Stored, accounts: Accounted, person: Id) -> Response:
    """A link by which somebody who forgot their password chooses another; shown once."""
    _not_yourself(user, person)
    token = accounts.password_link(person, user.id)
    link = link_to(request, "new-password", token)
    return _people(request, store, accounts, link=link, forgetful=store.user(person).name)


@router.post("/people/program", openapi_extra=form_fields("name", "kind"))
def add_program(request: Request, user: Admin, store: Stored, accounts: Accounted, form: Form) -> Response:
    """An account for a program and its token; shown once."""
    name, kind = text(form, "name").strip(), text(form, "kind")
    try:
        if kind not in ("ai", "simulated"):
            raise InputError(f"kind {kind[:20]!r} is neither ai nor simulated")
        if any(name.lower() == other.name.lower() for other in store.users()):
            raise InputError(f"user {name!r}: the name is taken; choose another")
        program = store.add_user(name, cast("UserKind", kind))
    except InputError as error:
        return _people(request, store, accounts, wrong=str(error), status=422)
    return _token(request, user, store, accounts, program)


@router.post("/people/{person}/token")
def new_token(request: Request, user: Admin, store: Stored, accounts: Accounted, person: Id) -> Response:
    """One more token for a program."""
    return _token(request, user, store, accounts, person)


@router.post("/people/{person}/active", openapi_extra=form_fields("active"))
def set_active(request: Request, user: Admin, store: Stored, form: Form, person: Id) -> Response:
    """Lets somebody in again, or not any more, which ends their sessions and tokens."""
    active = text(form, "active") == "yes"
    _not_yourself(user, person)
    store.change_user(person, active=active)
    store.record(user.id, "let_in" if active else "shut_out", person=person)
    return go("/admin/people")


@router.post("/people/{person}/forget")
def forget(request: Request, user: Admin, store: Stored, person: Id) -> Response:
    """Removes a person's name, password and own words for good; their choices stay."""
    _not_yourself(user, person)
    store.forget_user(person, by=user.id)
    request.app.state.board.clear()  # it shows what they wrote in flags
    return go("/admin/people")


@router.get("/audit")
def audit(
    request: Request, user: Admin, store: Stored, before: Annotated[int | None, Query(ge=1, le=LARGEST)] = None
) -> Response:
    """The audit log, the newest first."""
    events = store.audit(_EVENTS + 1, before)
    names = {person.id: person.name for person in store.users()}
    more = events[_EVENTS - 1].id if len(events) > _EVENTS else None
    return page(request, "admin-audit.html", events=events[:_EVENTS], names=names, more=more)


def link_to(request: Request, door: str, token: str) -> str:
    """The address of an invitation or the like, by the name this request reached the server by."""
    return f"{request.url.scheme}://{request.headers['host']}/{door}/{token}"


def _not_yourself(user: User, person: int) -> None:
    if person == user.id:
        raise InputError("you cannot do this to your own account; ask another admin")


def _token(request: Request, user: User, store: Store, accounts: Accounts, person: int) -> Response:
    program = store.user(person)
    if program.kind == "human":
        raise InputError(f"{program.name} is a person, and signs in with a password")
    token = accounts.token_for(person)
    store.record(user.id, "token_made", person=person)
    return _people(request, store, accounts, secret=token, program=program.name)


def _people(
    request: Request,
    store: Store,
    accounts: Accounts,
    *,
    link: str = "",
    forgetful: str = "",
    secret: str = "",
    program: str = "",
    wrong: str = "",
    status: int = 200,
) -> Response:
    shown = {"link": link, "forgetful": forgetful, "secret": secret, "program": program, "wrong": wrong}
    return page(request, "admin-people.html", status, users=store.users(), invites=accounts.invites(), **shown)
