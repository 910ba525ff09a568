"""A store, the app over it, and browsers of an admin and of annotators who are signed in.

Most tests use a test client; those named after Chromium use the real browser, over a real server.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the web extra is not installed")

from argon2 import PasswordHasher
from fastapi import FastAPI
from httpx2 import Response
from starlette.testclient import TestClient
from tests.feedback.conftest import Clock

import tether.feedback.accounts as accounts_room
from tether.feedback.accounts import Accounts
from tether.feedback.projects import Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store
from tether.feedback.web.app import create_app

PASSWORD = "a few unrelated words"
BASE = "http://localhost:8400"


class Browser(TestClient):
    """A client that keeps cookies and sends the token of the page it looked at last, as a browser's forms do."""

    user: int = 0

    def send_form(self, path: str, /, page: str | None = None, **fields: Any) -> Response:
        """Posts a form as from `page` (any page of ours), so with its hidden token."""
        found = re.search(r'name="csrf" (?:content|value)="(\w+)"', self.get(page or "/password").text)
        return self.post(path, data={**fields, "csrf": found[1] if found else ""}, follow_redirects=False)


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed as always, only with the least of work."""
    monkeypatch.setattr(accounts_room, "_hasher", lambda: PasswordHasher(1, 8, 1))


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def store(migrated_file: Path, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(shutil.copy(migrated_file, tmp_path / "preferences.sqlite"), clock=clock) as opened:
        yield opened


@pytest.fixture
def app(store: Store) -> FastAPI:
    return create_app(store)


@pytest.fixture
def visitor(app: FastAPI) -> Browser:
    """Nobody is signed in."""
    return Browser(app, base_url=BASE)


@pytest.fixture
def person(app: FastAPI, store: Store) -> Callable[..., Browser]:
    """Makes an account and signs it in: `person("ann")`, `person("root", admin=True)`, `person("bob", project=2)`."""

    def make(name: str, **invited: Any) -> Browser:
        accounts = Accounts(store)
        user = accounts.accept(accounts.invite(**invited), name, PASSWORD)
        browser = Browser(app, base_url=BASE)
        answer = browser.send_form("/sign-in", name=name, password=PASSWORD)
        assert answer.status_code == 303, answer.text
        browser.user = user
        return browser

    return make


@pytest.fixture
def admin(person: Callable[..., Browser]) -> Browser:
    return person("root", admin=True)


@pytest.fixture
def annotator(person: Callable[..., Browser]) -> Browser:
    return person("ann")


@pytest.fixture
def ann(store: Store) -> int:
    return store.add_user("ann")


@pytest.fixture
def project(store: Store, ann: int) -> Callable[..., int]:
    """Makes a project of ann's with `num` items of k responses: `project("pair", 5)`."""

    def make(kind: str, num: int, k: int = 2, name: str = "", **settings: Any) -> int:
        made = store.add_project(name or f"Project of {kind}", kind, Settings(**settings))  # type: ignore[arg-type]
        prompts = store.add_prompts(NewPrompt(f"{name}{kind} question {n}") for n in range(num))
        for n, prompt in enumerate(prompts):
            texts = store.add_responses(NewResponse(prompt, f"text {n}-{i}") for i in range(k))
            store.add_items([NewItem(texts, settings.get("overlap", 3), kind, made)])  # type: ignore[arg-type]
        store.add_member(made, ann)
        return made

    return make


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """Where the app is served, on a free port."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def visit(chromium: Any, address: str, store: Store) -> Iterator[Callable[..., Any]]:
    """Opens Chromium as a user: `visit(user, "/projects/2/task", viewport={…})` gives the page."""
    contexts: list[Any] = []

    def open_as(user: int | None, path: str = "/", **about: Any) -> Any:
        context = chromium.new_context(base_url=address, **{"viewport": {"width": 1280, "height": 900}, **about})
        contexts.append(context)
        if user is not None:
            token = Accounts(store).token_for(user)
            context.add_cookies([{"name": "tether_session", "value": token, "url": address}])
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(path)
        return page

    yield open_as
    for context in contexts:
        context.close()
