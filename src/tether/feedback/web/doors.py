"""Coming in and going out: sign-in, sign-out, invitations, new passwords, the colours of the pages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from tether.errors import InputError
from tether.feedback.accounts import SESSION, Accounts, TooMany
from tether.feedback.records import Missing
from tether.feedback.web.security import own_path
from tether.feedback.web.session import (
    COOKIE,
    THEME_COOKIE,
    THEMES,
    Accounted,
    Form,
    Known,
    SignedIn,
    Visitor,
    address_of,
    form_fields,
    go,
    page,
    text,
)

router = APIRouter()
_YEAR = 365 * 86_400
Next = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
def sign_in_page(request: Request, known: Known, next: Next = "/") -> Response:
    """The form; whoever is signed in already goes on."""
    return go(next) if known.user else page(request, "sign-in.html", next=own_path(next), name="", wrong="")


@router.post("/sign-in", openapi_extra=form_fields("name", "password", "next"))
def sign_in(request: Request, known: Known, accounts: Accounted, form: Form) -> Response:
    """A new session, whatever session there was before."""
    name, wanted = text(form, "name"), own_path(text(form, "next", "/"))
    try:
        token = accounts.sign_in(name, text(form, "password"), address_of(request))
    except TooMany:
        raise
    except InputError as error:
        wrong = f"The {error}."
        return page(request, "sign-in.html", 422, next=wanted, name=name, wrong=wrong)
    return _came_in(request, known, accounts, token, wanted)


@router.post("/sign-out")
def sign_out(known: Known, accounts: Accounted) -> Response:
    """Ends the session."""
    if known.token:
        accounts.sign_out(known.token)
    answer = go("/sign-in")
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/invite/{token}")
def invitation(request: Request, token: str, accounts: Accounted) -> Response:
    """The form in which an invited person chooses a name and a password; 404 for an invite that is not good."""
    accounts.check_invite(token)
    return page(request, "invite.html", token=token, name="", wrong="")


@router.post("/invite/{token}", openapi_extra=form_fields("name", "password"))
def accept(request: Request, token: str, known: Known, accounts: Accounted, form: Form) -> Response:
    """Makes the account and signs in."""
    accounts.check_invite(token)  # before the costly hashing of a password
    name, password = text(form, "name").strip(), text(form, "password")
    try:
        user = accounts.accept(token, name, password)
    except InputError as error:
        return page(request, "invite.html", 422, token=token, name=name, wrong=f"{error}.")
    return _came_in(request, known, accounts, accounts.token_for(user, SESSION))


@router.get("/new-password/{token}")
def new_password_page(request: Request, token: str, accounts: Accounted) -> Response:
    """The form in which somebody who forgot theirs chooses another; 404 for a link that is not good."""
    name = accounts.check_password_link(token)
    return page(request, "new-password.html", token=token, name=name, wrong="")


@router.post("/new-password/{token}", openapi_extra=form_fields("password"))
def renew_password(request: Request, token: str, known: Known, accounts: Accounted, form: Form) -> Response:
    """Sets the new password, ends all sessions of that person and signs them in."""
    name = accounts.check_password_link(token)  # before the costly hashing of a password
    try:
        user = accounts.renew_password(token, text(form, "password"))
    except Missing:
        raise
    except InputError as error:
        return page(request, "new-password.html", 422, token=token, name=name, wrong=f"{error}.")
    return _came_in(request, known, accounts, accounts.token_for(user, SESSION))


@router.get("/password")
def password_page(request: Request, user: SignedIn) -> Response:
    """The form of a new password."""
    return page(request, "password.html", wrong="", done=False)


@router.post("/password", openapi_extra=form_fields("old", "new"))
def change_password(request: Request, user: SignedIn, known: Known, accounts: Accounted, form: Form) -> Response:
    """Sets a new password and ends the user's other sessions."""
    try:
        accounts.change_password(user.id, text(form, "old"), text(form, "new"), keep=known.token)
    except InputError as error:
        return page(request, "password.html", 422, wrong=f"{error}.", done=False)
    return page(request, "password.html", wrong="", done=True)


@router.post("/theme", openapi_extra=form_fields("theme", "next"))
def choose_theme(request: Request, form: Form) -> Response:
    """Light, dark, or what the system says; kept in this browser."""
    theme, answer = text(form, "theme"), go(text(form, "next", "/"))
    if theme not in THEMES:
        raise InputError(f"theme {theme[:20]!r} is none of {', '.join(THEMES)}")
    answer.set_cookie(THEME_COOKIE, theme, max_age=_YEAR, **_cookie(request))
    return answer


def _came_in(request: Request, known: Visitor, accounts: Accounts, token: str, wanted: str = "/") -> RedirectResponse:
    """On to `wanted` with the session of `token`, in place of the one there was."""
    if known.token:
        accounts.sign_out(known.token)
    answer = go(wanted)
    answer.set_cookie(COOKIE, token, max_age=int(SESSION), **_cookie(request))
    return answer


def _cookie(request: Request) -> dict[str, Any]:
    return {"httponly": True, "samesite": "lax", "secure": bool(request.app.state.secure)}
