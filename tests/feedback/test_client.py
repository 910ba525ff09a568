"""The client against a real server on a socket that hangs up, is busy, breaks or refuses, as told beforehand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tether.errors import InputError
from tether.feedback.client import Client, Task
from tether.feedback.records import Conflict, Missing

TASK = {
    "assignment": 7,
    "project": 2,
    "kind": "pair",
    "prompt": "p",
    "messages": [],
    "responses": ["a", "b"],
    "lease_seconds": 60.0,
    "guideline_version": 3,
    "options": {"ties": True},
}


class Script(ThreadingHTTPServer):
    """Answers requests with what it is told to, in order: a status with JSON, or None to hang up."""

    daemon_threads = True

    def __init__(self, replies: list[tuple[int, Any] | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = replies
        self.heard: list[tuple[str, str, Any, str | None]] = []
        self.lines: set[tuple[str, int]] = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Script = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.heard.append(
            (self.command, self.path, json.loads(body) if body else None, self.headers.get("Authorization"))
        )
        server.lines.add(self.client_address)
        reply = server.replies.pop(0)
        if reply is None:
            self.close_connection = True
            return
        said = json.dumps(reply[1]).encode()
        self.send_response(reply[0])
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Any]:
    running = []

    def start(*replies: tuple[int, Any] | None) -> tuple[Script, str]:
        server = Script(list(replies))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return server, f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def test_one_connection_serves_many_calls(script: Any) -> None:
    server, url = script((200, {"token": "t"}), (200, {"tasks": [TASK]}), (200, {"assignment": 7, "revision": 0}))
    with Client(url) as client:
        assert client.sign_in("me", "secret") == "t"
        (task,) = client.claim(2, limit=4)
        assert client.answer(task, "k", ranking=(1, 0), strength=2.0, skip=None) == {"assignment": 7, "revision": 0}
    assert task == Task(**{**TASK, "messages": (), "responses": ("a", "b")})
    said = {"submit_key": "k", "guideline_version": 3, "ranking": [1, 0], "strength": 2.0}
    assert server.heard == [
        ("POST", "/api/sign-in", {"name": "me", "password": "secret"}, None),
        ("POST", "/api/projects/2/claim", {"limit": 4}, "Bearer t"),
        ("POST", "/api/assignments/7/answer", said, "Bearer t"),
    ]
    assert len(server.lines) == 1


def test_it_sends_again_what_got_no_answer(script: Any) -> None:
    server, url = script(None, (503, {}), (429, {}), (200, {"tasks": []}))
    with Client(url, "t") as client:
        assert client.claim(2) == []
        assert client.retries == 3
    assert [path for _, path, _, _ in server.heard] == ["/api/projects/2/claim"] * 4


def test_it_gives_up_on_a_server_that_stays_away() -> None:
    with socket.socket() as taken:  # so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        with (
            Client(f"http://127.0.0.1:{taken.getsockname()[1]}", "t", patience=0.3) as client,
            pytest.raises(InputError, match=r"has not answered for 0\.3 s \(ConnectionRefusedError"),
        ):
            client.me()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, Missing), (409, Conflict), (401, InputError), (403, InputError), (422, InputError)]
)
def test_a_refusal_is_the_stores_own_error_and_final(script: Any, status: int, kind: type[InputError]) -> None:
    server, url = script((status, {"error": "no such task"}))
    with Client(url, "t") as client, pytest.raises(InputError, match=rf"no such task \(HTTP {status}\)") as caught:
        client.undo(7, "k")
    assert type(caught.value) is kind
    assert len(server.heard) == 1


@pytest.mark.parametrize("url", ["localhost:8400", "ftp://x", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match="is not the address of a server; give http://HOST:PORT or https://HOST"):
        Client(url)
