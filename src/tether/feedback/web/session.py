"""Who makes a request, what they may do, and the page they get back.

`checked` is a dependency of every route: nobody reaches a page under /admin who is no admin, and nothing is changed
through a browser's cookie without the token of our own forms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.datastructures import FormData

from tether.feedback.accounts import Accounts, User
from tether.feedback.schema import LARGEST
from tether.feedback.store import Store
from tether.feedback.web.security import csrf_token, from_elsewhere, is_own, own_path, same_token

COOKIE = "tether_session"
THEME_COOKIE = "tether_theme"
THEMES = ("auto", "light", "dark")
_SAFE = ("GET", "HEAD", "OPTIONS")
_TEMPLATES = FilePath(__file__).parent / "templates"


class NotSignedIn(Exception):
    """Nobody is signed in: pages lead to the sign-in, the API answers 401."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes a request."""

    user: User | None
    """None: nobody is signed in."""
    token: str
    """The session's token; "" when there is none."""
    by_cookie: bool
    """Whether a browser sent it by itself, so that other sites could make it do so."""


def store_of(request: Request) -> Store:
    """The app's store."""
    store: Store = request.app.state.store
    return store


def address_of(request: Request) -> str:
    """Where the request comes from; "" when the server does not know."""
    return request.client.host if request.client else ""


async def _store(request: Request) -> Store:
    return store_of(request)  # a dependency that is no coroutine costs a trip to another thread


async def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


Stored = Annotated[Store, Depends(_store)]
Accounted = Annotated[Accounts, Depends(_accounts)]


async def visitor(request: Request, accounts: Accounted) -> Visitor:
    """Who the request's bearer token, or else its cookie, belongs to.

    One short read, which waits for no writer: handing it to another thread took longer than the read itself.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    by_cookie = not scheme
    token = request.cookies.get(COOKIE, "") if by_cookie else given.strip() if scheme.lower() == "bearer" else ""
    user = accounts.who(token) if token else None
    found = Visitor(user, token if user else "", by_cookie)
    request.state.visitor = found
    return found


Known = Annotated[Visitor, Depends(visitor)]


async def checked(request: Request, known: Known) -> AsyncIterator[None]:
    """Refuses what the visitor may not do, before anything of the request's body is used; closes files they sent.

    NotSignedIn or 403 under /admin; 403 for a change that another site's page could have made.
    """
    try:
        await _check(request, known)
        yield
    finally:
        await request.close()


async def _check(request: Request, known: Visitor) -> None:
    if request.url.path == "/admin" or request.url.path.startswith("/admin/"):
        await admin_only(known)
    if request.method in _SAFE or not known.by_cookie:
        return
    if from_elsewhere(request):
        raise HTTPException(403, "This request came from another site's page.")
    if known.user is not None:
        sent = request.headers.get("x-csrf-token")
        if sent is None:
            sent = str((await form_of(request)).get("csrf", ""))
        if not same_token(sent, known.token):
            raise HTTPException(403, "This form is out of date: go back, load the page again and repeat.")


async def signed_in(known: Known) -> User:
    """The user; raises NotSignedIn."""
    if known.user is None:
        raise NotSignedIn
    return known.user


async def admin_only(known: Known) -> User:
    """The admin; raises NotSignedIn, or 403 for others."""
    if known.user is None:
        raise NotSignedIn
    if not known.user.admin:
        raise HTTPException(403, "Only admins may see this.")
    return known.user


async def form_of(request: Request) -> FormData:
    """The form a request brought; empty for any other body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return FormData()
    return await request.form(max_files=20, max_fields=500, max_part_size=16 << 20)


SignedIn = Annotated[User, Depends(signed_in)]
Admin = Annotated[User, Depends(admin_only)]
Id = Annotated[int, Path(ge=1, le=LARGEST)]
"""A number in a path that may be an id in a database."""
InviteName = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]
"""What an invite is called in a path."""
Form = Annotated[FormData, Depends(form_of)]


def text(form: FormData, name: str, default: str = "") -> str:
    """A text field of a form, its line ends as everywhere else."""
    value = form.get(name, default)
    return value.replace("\r\n", "\n") if isinstance(value, str) else default


def form_fields(*names: str, files: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a route that reads `Form` takes, for the OpenAPI description."""
    fields: dict[str, Any] = {name: {"type": "string"} for name in names}
    fields |= {name: {"type": "string", "format": "binary"} for name in files}
    kind = "multipart/form-data" if files else "application/x-www-form-urlencoded"
    return {"requestBody": {"content": {kind: {"schema": {"type": "object", "properties": fields}}}}}


def templates() -> Environment:
    """The templates; everything put into them is escaped."""
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"when": when, "percent": percent, "took": took, "figure": figure, "p_value": p_value}
    return env


def page(request: Request, name: str, status: int = 200, /, **context: Any) -> HTMLResponse:
    """A template as a page; it has `user`, `csrf`, their `projects`, `theme`, `path`, `here` besides `context`.

    `here` is where to come back to: the page's address, or of a page that a form made, that of the form.
    """
    known: Visitor | None = getattr(request.state, "visitor", None)
    user = known.user if known else None
    theme = request.cookies.get(THEME_COOKIE)
    about = {
        "user": user,
        "csrf": csrf_token(known.token) if known and user else "",
        "projects": store_of(request).projects_of(user.id) if user else [],
        "theme": theme if theme in THEMES else "auto",
        "path": request.url.path,
        "here": _here(request),
    }
    env: Environment = request.app.state.templates
    return HTMLResponse(env.get_template(name).render(about | context), status)


def _here(request: Request) -> str:
    address = str(request.url) if request.method == "GET" else request.headers.get("referer", "")
    if not is_own(request, address):
        return "/"
    at = urlsplit(address)
    return f"{at.path}?{at.query}" if at.query else at.path


def go(path: str) -> RedirectResponse:
    """A redirect to one of our own pages after something was done."""
    return RedirectResponse(own_path(path), 303)


def to_sign_in(request: Request) -> RedirectResponse:
    """A redirect to the sign-in, which leads back to where the visitor wanted to go."""
    query = f"?{request.url.query}" if request.url.query else ""
    wanted = request.url.path + query if request.method == "GET" else "/"
    return RedirectResponse("/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted)}", 303)


def when(moment: float) -> Markup:
    """A time; app.js turns it into the reader's own time zone."""
    utc = datetime.fromtimestamp(moment, UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="seconds"), utc.strftime("%Y-%m-%d %H:%M")
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share as people read it.

    >>> percent(0.7264), percent(None)
    ('72.6 %', '–')
    """
    return "–" if share is None or share != share else f"{100 * share:.{digits}f} %"


def figure(value: float | None) -> str:
    """A number to two digits.

    >>> figure(0.456), figure(-0.1), figure(float("nan"))
    ('0.46', '−0.10', '–')
    """
    return "–" if value is None or value != value else f"{value:.2f}".replace("-", "\u2212")


def p_value(p: float) -> str:
    """A probability as statistics are reported.

    >>> p_value(0.0321), p_value(0.00001)
    ('= 0.032', '< 0.001')
    """
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def took(seconds: float | None) -> str:
    """A length of time.

    >>> took(7.4), took(85), took(None)
    ('7 s', '1 min 25 s', '–')
    """
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
