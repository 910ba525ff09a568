"""A judge behind an OpenAI-compatible server, asked over an unreliable line.

Time-outs, lost connections, HTTP 429 and 5xx are sent again after a growing wait; an answer that is not what was asked
for, a few times; a refusal of the question (HTTP 400, 413, 422) makes it one without an answer; any other is the user's
to mend. The answer's JSON schema goes with the request, or without where the server refuses it; it is checked here in
any case. Left out: streaming, and a server's log-probs.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from tether.config.judge import JudgeConfig
from tether.errors import InputError
from tether.rewards.judge import Choice

_MALFORMED = 3  # readings of a question whose answers cannot be read: at temperature 0 more would say the same
_LONGEST_BACKOFF = 30.0
_LONGEST_WAIT = 600.0  # a server that asks for more has run out of its quota
_AGAIN = (408, 409, 425, 429)
_REFUSED = (400, 413, 422)
_OBJECT = re.compile(r"\{[^{}]*\}")


class Pace:
    """Spreads the starts of requests: at most so many in a minute, none while the server wants quiet."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until the next request may start."""
        with self._lock:
            start = max(self._clock(), self._next)
            self._next = start + self._gap
        if (left := start - self._clock()) > 0:
            self._sleep(left)

    def hold(self, seconds: float) -> None:
        """Nothing starts for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def retry_after(value: str | None) -> float:
    """Seconds a Retry-After header asks for, given as a number or as a date; 0 when it says nothing.

    >>> retry_after("2"), retry_after(None), retry_after("soon"), retry_after("Sat, 21 Nov 2020 10:00:00 GMT")
    (2.0, 0.0, 0.0, 0.0)
    """
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


class _Message(BaseModel):
    content: str


class _Option(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    """What we read of a server's answer."""

    choices: list[_Option]
    usage: _Usage | None = None


class _Answer(BaseModel):
    """What we asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)
    answer: str


class _Reply(NamedTuple):
    """What came of one request."""

    picked: int | None = None
    """Index of the option."""
    problem: str = ""
    kind: Literal["answered", "malformed", "refused", "again"] = "answered"
    tokens_in: int = 0
    tokens_out: int = 0
    wait: float = 0.0


class ServerJudge:
    """Answers questions by asking the server of `config`, several at a time.

    InputError: the key's variable is not set, httpx2 is not installed, or, while choosing, the server refuses us or
    has stayed away through all retries. What was answered until then has been handed out.
    """

    def __init__(self, config: JudgeConfig) -> None:
        try:
            import httpx2
        except ModuleNotFoundError:
            raise InputError(
                "a judge behind a server needs the package httpx2: pip install 'tether-rlhf[judge]'"
            ) from None
        if config.url is None:
            raise InputError(f"judge {config.model}: a judge behind a server needs its url")
        key = os.environ.get(config.key_env) if config.key_env else None
        if config.key_env and not key:
            raise InputError(f"judge {config.model}: the environment variable {config.key_env} is not set")
        self.config = config
        self.name = f"{config.url} {config.model}"
        self._http = httpx2
        self._url = f"{config.url.rstrip('/')}/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(timeout=config.timeout, headers=headers)
        self._schema = True
        self._stop = threading.Event()
        self._pace = Pace(config.requests_per_minute, sleep=self._stop.wait)

    def choose(self, questions: Sequence[str], options: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """As the answers come. After a failure what is under way is still handed out, then the failure is raised.

        A question is sent when there are fewer than `concurrency` whose answers the caller does not hold yet: a caller
        that is killed loses no more than those.
        """
        self._stop.clear()
        left = enumerate(questions)
        asked: dict[Future[Choice], int] = {}
        failed: InputError | None = None
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                while True:
                    if failed is None:
                        for i, question in islice(left, self.config.concurrency - len(asked)):
                            asked[pool.submit(self._ask, question, tuple(options))] = i
                    if not asked:
                        break
                    for future in wait(asked, return_when=FIRST_COMPLETED).done:
                        try:
                            yield asked.pop(future), future.result()
                        except CancelledError:
                            pass
                        except InputError as error:
                            failed = failed or error
                            self._stop.set()
            finally:
                self._stop.set()
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _ask(self, question: str, options: tuple[str, ...]) -> Choice:
        """One question, with as many requests as it takes."""
        tokens_in = tokens_out = failures = malformed = tries = 0
        while True:
            self._pace.wait()
            if self._stop.is_set():
                raise CancelledError
            reply = self._request(question, options)
            tries += 1
            tokens_in, tokens_out = tokens_in + reply.tokens_in, tokens_out + reply.tokens_out
            if reply.picked is not None:
                probs = tuple(float(i == reply.picked) for i in range(len(options)))
                return Choice(probs, None, tokens_in, tokens_out, tries)
            malformed += reply.kind == "malformed"
            failures += reply.kind == "again"
            if reply.kind == "refused" or malformed >= _MALFORMED:
                return Choice(None, reply.problem, tokens_in, tokens_out, tries)
            if failures > self.config.retries or reply.wait > _LONGEST_WAIT:
                raise InputError(
                    f"judge {self.config.model} at {self.config.url}: no answer in {tries} requests, the last: "
                    f"{reply.problem}; what was answered is kept, so run again when the server is back"
                )
            if reply.wait:
                self._pace.hold(reply.wait)
            longest = min(_LONGEST_BACKOFF, self.config.backoff * 2 ** (failures + malformed - 1))
            self._stop.wait(max(reply.wait, longest * random.uniform(0.5, 1.0)))

    def _request(self, question: str, options: tuple[str, ...]) -> _Reply:
        """Sends the question once; a server that refuses the schema is asked without, then and ever after."""
        for schema in (True, False) if self._schema else (False,):
            try:
                response = self._client.post(self._url, json=self._body(question, options, schema))
            except self._http.RequestError as error:
                return _Reply(problem=f"{type(error).__name__} {error}".strip(), kind="again")
            if response.status_code not in (400, 422):
                self._schema = self._schema and (schema or not response.is_success)
                break
        status = response.status_code
        if status in _AGAIN or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            return _Reply(problem=f"HTTP {status}" + f", retry after {wait:g} s" * bool(wait), kind="again", wait=wait)
        said = " ".join(response.text.split())[:200]
        if status in _REFUSED:
            return _Reply(problem=f"HTTP {status}: {said}", kind="refused")
        if not response.is_success:
            raise InputError(f"judge {self.config.model} at {self.config.url}: HTTP {status}: {said}")
        return _read(response.content, options)

    def _body(self, question: str, options: tuple[str, ...], schema: bool) -> dict[str, Any]:
        listed = " or ".join(f'{{"answer": "{option}"}}' for option in options)
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": f"{question}\nReply with JSON alone: {listed}."}],
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
        }
        if schema:
            shape = _Answer.model_json_schema()
            shape["properties"]["answer"]["enum"] = list(options)
            wanted = {"name": "answer", "strict": True, "schema": shape}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return body


def _read(content: bytes, options: tuple[str, ...]) -> _Reply:
    """The option picked: the last JSON object of the text must be exactly one of the answers there are."""
    try:
        completion = _Completion.model_validate_json(content)
    except ValidationError:
        return _Reply(problem=f"not a chat completion: {content[:60]!r}", kind="malformed")
    usage = completion.usage or _Usage()
    text = completion.choices[0].message.content if completion.choices else ""
    try:
        answer = _Answer.model_validate_json((_OBJECT.findall(text) or [""])[-1]).answer
        picked, problem = options.index(answer), ""
    except ValueError:  # pydantic's is one too
        picked, problem = None, f"cannot be read: {text[:60]!r}"
    return _Reply(picked, problem, "malformed" if problem else "answered", usage.prompt_tokens, usage.completion_tokens)
