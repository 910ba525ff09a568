"""A client of `tether annotate` for programs: what an annotator does in the browser, over the JSON API.

Every call may be sent again: reading and claiming by nature (who holds tasks gets the same ones first), answering and
taking back by the submit key. So a lost connection, HTTP 429 and 5xx are tried again after a growing wait, until the
server has been away for `patience` seconds. Errors are the store's own: `Missing`, `Conflict`, otherwise InputError.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from tether.errors import InputError
from tether.feedback.records import Conflict, ItemKind, Missing

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
_ERRORS: Mapping[int, type[InputError]] = {404: Missing, 409: Conflict}


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to judge, as the server shows it: nothing tells which model wrote what."""

    assignment: int
    project: int
    kind: ItemKind
    prompt: str
    messages: tuple[Mapping[str, str], ...]
    """The conversation so far; empty when the prompt is plain text."""
    responses: tuple[str, ...]
    """In the order shown to this annotator."""
    lease_seconds: float
    """How long it stays theirs."""
    guideline_version: int
    """To be sent back with the answer."""
    options: Mapping[str, Any]
    """What the project asks: `ties`, `strength`, `attributes`, `rationale`, `correction`, `skip_reasons` and so on."""


class Client:
    """One annotator's connection, kept open. For one thread at a time."""

    def __init__(
        self, url: str, token: str | None = None, *, patience: float = 60.0, timeout: float = 30.0, seed: int = 0
    ) -> None:
        """`token` is what `sign_in` returned or an admin made. InputError when the address is not one of HTTP."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r}: is not the address of a server; give http://HOST:PORT or https://HOST")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._line = kind(parts.hostname, parts.port, timeout=timeout)
        self._url, self._path = url.rstrip("/"), parts.path.rstrip("/")
        self._token, self._patience = token, patience
        self._chance = random.Random(seed)
        self.retries = 0
        """How often a request had to be sent again, over all calls."""

    def close(self) -> None:
        """Close the connection."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def sign_in(self, name: str, password: str) -> str:
        """Opens a session, used from then on, and returns its token."""
        self._token = str(self._post("/api/sign-in", {"name": name, "password": password})["token"])
        return self._token

    def me(self) -> dict[str, Any]:
        """Who is signed in: `name`, `admin`."""
        return dict(self._ask("GET", "/api/me"))

    def projects(self) -> list[dict[str, Any]]:
        """What there is to work on, each with `id`, `name`, `kind`, `guideline_version`, `acknowledged`."""
        return list(self._ask("GET", "/api/projects"))

    def guideline(self, project: int) -> dict[str, Any]:
        """The guideline in force: `version`, `text`, `acknowledged`."""
        return dict(self._ask("GET", f"/api/projects/{project}/guideline"))

    def acknowledge(self, project: int, version: int) -> None:
        """Says that this version of the guideline was read."""
        self._post(f"/api/projects/{project}/acknowledge", {"version": version})

    def claim(self, project: int, limit: int = 1) -> list[Task]:
        """Up to `limit` (1 to 5) tasks: those held already first. Empty when there is nothing to do."""
        return [_task(row) for row in self._post(f"/api/projects/{project}/claim", {"limit": limit})["tasks"]]

    def heartbeat(self, task: Task) -> float:
        """Keeps a task; returns the seconds it stays. Conflict: it was answered, or others took the place."""
        return float(self._post(f"/api/assignments/{task.assignment}/heartbeat", {})["lease_seconds"])

    def answer(
        self, task: Task, submit_key: str, *, ranking: Sequence[int | None] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Stores an answer and returns `assignment`, `revision` and `action`; the same key again returns the same.

        `ranking` is the rank of each response as shown, 0 the best, None for one left out. `more` are the other fields
        of the API: `ratings`, `correction`, `skip`, `strength`, `all_bad`, `rationale`, `flag`, `seconds`.
        Conflict: the time ran out and others have answered since.
        """
        said = {name: value for name, value in {"ranking": ranking, **more}.items() if value is not None}
        key = {"submit_key": submit_key, "guideline_version": task.guideline_version}
        return dict(self._post(f"/api/assignments/{task.assignment}/answer", key | said))

    def undo(self, assignment: int, submit_key: str) -> dict[str, Any]:
        """Takes one's own answer back; the task is open again."""
        return dict(self._post(f"/api/assignments/{assignment}/undo", {"submit_key": submit_key}))

    def history(self, project: int, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
        """One's own answers in force, the newest first; `before` is the `assignment` to go on from."""
        asked = {"limit": limit} | ({} if before is None else {"before": before})
        return list(self._ask("GET", f"/api/projects/{project}/history?{urlencode(asked)}")["answers"])

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer's JSON. InputError when the server refuses, or stays away longer than `patience`."""
        began, wait = time.monotonic(), _FIRST_WAIT
        while True:
            status, reply, asked_to_wait = self._send(method, path, body)
            if status is not None and status != 429 and status < 500:
                break
            if time.monotonic() + wait - began > self._patience:
                raise InputError(f"{self._url}: has not answered for {self._patience:g} s ({reply})")
            self.retries += 1
            # Not all at the same moment: a server that has just come back would be gone again.
            time.sleep(max(asked_to_wait, wait * self._chance.uniform(0.5, 1.0)))
            wait = min(2 * wait, _LONGEST_WAIT)
        if status >= 300:
            said = reply.get("error") if isinstance(reply, dict) else reply
            raise _ERRORS.get(status, InputError)(f"{self._url}: {said} (HTTP {status})")
        return reply

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int | None, Any, float]:
        """Status, JSON and seconds the server asks to wait; without a whole answer None and what went wrong."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            self._line.request(method, self._path + path, body, headers)
            answer = self._line.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._line.close()  # the next request opens it anew
            return None, f"{type(error).__name__}: {error}", 0.0
        after = answer.getheader("Retry-After", "")
        try:
            return answer.status, json.loads(said), float(after) if after.isdigit() else 0.0
        except ValueError:
            return answer.status, answer.reason, 0.0


def _task(row: Mapping[str, Any]) -> Task:
    return Task(
        assignment=row["assignment"],
        project=row["project"],
        kind=row["kind"],
        prompt=row["prompt"],
        messages=tuple(row["messages"]),
        responses=tuple(row["responses"]),
        lease_seconds=row["lease_seconds"],
        guideline_version=row["guideline_version"],
        options=row["options"],
    )
