"""A store, the app over it, and browsers (test clients) of an admin and of annotators who are signed in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the web extra is not installed")

from argon2 import PasswordHasher
from fastapi import FastAPI
from httpx2 import Response
from starlette.testclient import TestClient

import tether.feedback.accounts as accounts_room
from tether.feedback.accounts import Accounts
from tether.feedback.store import Store
from tether.feedback.web.app import create_app

PASSWORD = "a few unrelated words"
BASE = "http://localhost:8400"


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


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
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(tmp_path / "preferences.sqlite", clock=clock) as opened:
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
