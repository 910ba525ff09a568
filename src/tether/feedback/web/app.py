"""The annotation app, put together: routes, security, error pages, static files.

Its parts: `security` (hosts, sizes, headers), `session` (who asks, what they may, pages), `doors` (coming in and going
out), `tasks` with `render` (what annotators see), `api` (what programs see); `manage`, `new_project`, `project_pages`
and `dashboard` (what admins see), `sampling` and `figures` (what these show).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from tether.config.problems import first_problem
from tether.errors import InputError, Unavailable
from tether.feedback.accounts import WINDOW, Accounts, TooMany
from tether.feedback.records import Conflict, Missing
from tether.feedback.store import Store
from tether.feedback.web import api, dashboard, doors, manage, new_project, project_pages, shortcuts, tasks
from tether.feedback.web.figures import Board
from tether.feedback.web.sampling import Jobs, Sampler
from tether.feedback.web.security import LOOPBACK, Guard, protection
from tether.feedback.web.session import NotSignedIn, SignedIn, checked, page, templates, to_sign_in

log = logging.getLogger(__name__)
_STATIC = Path(__file__).parent / "static"
_STATUS: tuple[tuple[type[InputError], int], ...] = ((Missing, 404), (Conflict, 409), (TooMany, 429), (InputError, 422))
_SENTENCES = {404: "There is nothing at this address.", 405: "This address does not take such a request."}


def create_app(
    store: Store,
    *,
    sampler: Sampler | None = None,
    files: Path = Path(),
    hosts: Collection[str] = LOOPBACK,
    secure: bool = False,
) -> FastAPI:
    """The app over a store.

    `sampler` draws responses of checkpoints, where the app can. Admins may name files and checkpoints in the folder
    `files`. `hosts` are the names it answers to; with `secure` it is reached by TLS, and cookies travel by TLS only.
    """
    app = FastAPI(
        title="Tether",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(checked)],
        middleware=[Middleware(Guard, hosts=hosts, secure=secure)],
        lifespan=_lifespan,
    )
    app.state.store, app.state.accounts, app.state.secure = store, Accounts(store), secure
    app.state.jobs, app.state.board, app.state.files = Jobs(store, sampler), Board(store), files
    app.state.templates = templates()
    for router in (
        doors.router,
        api.router,
        tasks.router,
        shortcuts.router,
        manage.router,
        new_project.router,
        project_pages.router,
        dashboard.router,
    ):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    _add_error_pages(app)

    @app.get("/api/openapi.json", include_in_schema=False)
    def openapi(user: SignedIn) -> JSONResponse:
        return JSONResponse(app.openapi())

    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(app.state.jobs.stop)


def failed(request: Request, status: int, sentence: str) -> Response:
    """An error as the visitor reads it: JSON under /api, a page elsewhere."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": sentence}, status)
    return page(request, "error.html", status, title=HTTPStatus(status).phrase, sentence=sentence)


def _add_error_pages(app: FastAPI) -> None:
    @app.exception_handler(NotSignedIn)
    def not_signed_in(request: Request, error: NotSignedIn) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": "sign in first"}, 401, {"www-authenticate": "Bearer"})
        return to_sign_in(request)

    @app.exception_handler(InputError)
    def wrong_input(request: Request, error: InputError) -> Response:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        answer = failed(request, status, str(error))
        if status == 429:
            answer.headers["retry-after"] = f"{WINDOW:.0f}"
        return answer

    @app.exception_handler(Unavailable)
    def unavailable(request: Request, error: Unavailable) -> Response:
        log.error("%s", error)  # a line, where many requests fail of one cause
        return failed(request, 503, "The server cannot reach its store just now; what you sent may not be stored.")

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        plain = _SENTENCES.get(error.status_code, str(error.detail))
        unsaid = error.detail == HTTPStatus(error.status_code).phrase
        answer = failed(request, error.status_code, plain if unsaid else str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    def wrong_form(request: Request, error: RequestValidationError) -> Response:
        return failed(request, 422, first_problem(error.errors()))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        answer = failed(request, 500, "Something went wrong here. It was logged; what you sent may not be stored.")
        # This answer does not pass the middleware.
        answer.headers.update(protection(request.url.path, request.app.state.secure))
        return answer
