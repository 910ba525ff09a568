"""What every request and answer goes through: known hosts only, bounded bodies, and headers that leave nothing open.

What models, annotators and files say is hostile input: it is escaped where it is shown, and the content security policy
below makes sure that a mistake there runs nothing and loads nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_BODY = 1 << 20
"""Bytes of a request, but for files that an admin sends."""
MAX_UPLOAD = 64 << 20
"""Bytes of a request to a page of the admins."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect")),
        "img-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not "no-referrer": under it browsers send `Origin: null` with our own forms, and `from_elsewhere` needs it.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""On every answer."""


class Guard:
    """ASGI middleware: refuses unknown hosts and oversize bodies, and sets `HEADERS`."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], secure: bool) -> None:
        """`hosts` are the names the app is known by, without ports; `secure`: it is reached by TLS only."""
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(protection(scope["path"], self.secure))
            await send(message)

        headers, limit = Headers(scope=scope), _limit(scope["path"])
        if _host(headers.get("host", "")) not in self.hosts:
            refused = PlainTextResponse(
                "This server is not known by that name; it is told others by --allowed-host.\n", 400
            )
            await refused(scope, receive, send_guarded)
            return
        if not _fits(headers.get("content-length", "0"), limit):
            refused = PlainTextResponse(_too_large(limit) + "\n", 413, {"connection": "close"})
            await refused(scope, receive, send_guarded)
            return
        await self.app(scope, _bounded(receive, limit), send_guarded)


def protection(path: str, secure: bool) -> dict[str, str]:
    """The headers of an answer. Only what is the same for everybody may be kept by a browser."""
    kept = {"cache-control": "no-cache" if path.startswith("/static/") else "no-store"}
    return HEADERS | kept | ({"strict-transport-security": "max-age=31536000"} if secure else {})


def csrf_token(session: str) -> str:
    """The secret that our own forms send and other sites cannot know, made from a session's token."""
    return hmac.new(session.encode(), b"tether csrf", hashlib.sha256).hexdigest()


def same_token(given: str, session: str) -> bool:
    """Whether a form or header brought `csrf_token(session)`."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token(session).encode())


def from_elsewhere(request: Request) -> bool:
    """Whether a browser says that another site's page made this request."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        return True
    return origin is not None and not is_own(request, origin)


def is_own(request: Request, address: str) -> bool:
    """Whether an address is on the host that was asked."""
    return urlsplit(address).netloc.lower() == request.headers.get("host", "").lower()


def own_path(path: str) -> str:
    """A path of this app, for a redirect; "/" for anything that could lead elsewhere.

    >>> own_path("/projects/1/task?a=b"), own_path("//evil.example"), own_path("https://evil.example")
    ('/projects/1/task?a=b', '/', '/')
    """
    leads_away = not path.startswith("/") or path.startswith("//") or "\\" in path
    return "/" if leads_away or any(ord(letter) <= 32 or ord(letter) == 127 for letter in path) else path


def _limit(path: str) -> int:
    return MAX_UPLOAD if path.startswith("/admin/") else MAX_BODY


def _too_large(limit: int) -> str:
    return f"A request may have {limit >> 20} MiB here."


def _fits(length: str, limit: int) -> bool:
    return length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= limit


def _host(header: str) -> str:
    """A Host header without its port; IPv6 without brackets; "" when it is no host."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _bounded(receive: Receive, limit: int) -> Receive:
    """`receive` that fails once more than `limit` bytes came: a chunked body has no length to check beforehand."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return bounded
