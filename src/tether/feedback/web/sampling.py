"""Live samples: responses of checkpoints to a project's prompts, drawn in the background while the app serves.

What samples is handed in (`Sampler`): this room knows no models. One job runs at a time; the same job again draws the
same responses and so adds nothing, which is also how to go on after the server was stopped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from tether.data.formats import Said
from tether.errors import InputError
from tether.feedback.intake import Added, Question, Written, across, add_questions, gathered
from tether.feedback.projects import one_project
from tether.feedback.store import Store

log = logging.getLogger(__name__)


class Drawing(BaseModel):
    """How responses are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_checkpoint: int = Field(default=1, ge=1, le=64)
    """Responses of each checkpoint to each prompt."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    max_new_tokens: int = Field(default=256, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**31)


Drawn: TypeAlias = Sequence[Written]
"""One prompt's responses."""
Sampler: TypeAlias = Callable[[str, Sequence[Said], Drawing], Iterable[Drawn]]
"""(what to load, prompts, how) → the responses to each prompt, as they come. InputError: what it cannot use."""


@dataclass(frozen=True)
class Job:
    """One drawing for one project, as far as it is."""

    project: int
    checkpoints: Mapping[str, str]
    """Name → what the sampler loads."""
    total: int
    """Prompts times checkpoints."""
    done: int = 0
    state: Literal["waiting", "running", "done", "failed", "stopped"] = "waiting"
    sentence: str = ""
    """Why it failed."""
    added: Added | None = None
    """What it came to."""

    def as_dict(self) -> Mapping[str, object]:
        """For JSON."""
        return asdict(self) | {"checkpoints": list(self.checkpoints), "added": self.added and self.added._asdict()}


class Stopped(Exception):
    """The server is being stopped."""


class Jobs:
    """The drawings since the server started. Safe to use from several threads."""

    def __init__(self, store: Store, sampler: Sampler | None) -> None:
        self._store = store
        self._sampler = sampler
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def can_sample(self) -> bool:
        """Whether this server has a sampler."""
        return self._sampler is not None

    def of(self, project: int) -> Job | None:
        """The project's latest job."""
        with self._lock:
            return self._jobs.get(project)

    def start(self, project: int, checkpoints: Mapping[str, str], asked: Sequence[Question], how: Drawing) -> None:
        """Begins to draw, where `can_sample`; InputError when the project is drawing already."""
        asked = gathered([replace(question, responses=(), gold=None) for question in asked])
        with self._lock:
            before = self._jobs.get(project)
            if before is not None and before.state in ("waiting", "running"):
                raise InputError("this project is drawing responses already; wait until it is done")
            self._jobs[project] = Job(project, checkpoints, len(asked) * len(checkpoints))
        thread = threading.Thread(target=self._run, args=(project, asked, how), daemon=True, name=f"sampling-{project}")
        self._threads.append(thread)
        thread.start()

    def stop(self, patience: float = 30.0) -> None:
        """Ends all jobs after the responses they are at."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(patience)

    def _run(self, project: int, asked: Sequence[Question], how: Drawing) -> None:
        try:
            with self._turn:
                self._change(project, state="running")
                added = self._draw(project, asked, how)
            self._change(project, state="done", added=added)
        except Stopped:
            self._change(project, state="stopped")
        except InputError as error:
            self._change(project, state="failed", sentence=str(error))
        except Exception as error:
            log.exception("sampling for project %d failed", project)
            self._change(project, state="failed", sentence=f"It broke off: {type(error).__name__}. The log says more.")

    def _draw(self, project: int, asked: Sequence[Question], how: Drawing) -> Added:
        assert self._sampler is not None
        job = self._jobs[project]
        for loaded in list(job.checkpoints.values())[1:]:
            list(self._sampler(loaded, [], how))  # what cannot be loaded is told before another has drawn for hours
        columns: list[list[Drawn]] = []
        for nth, (name, loaded) in enumerate(job.checkpoints.items()):
            columns.append([])
            # With one seed for all, checkpoints that differ little would often say the very same.
            own = how.model_copy(update={"seed": (how.seed + nth) % 2**31})
            for drawn in self._sampler(loaded, [question.said for question in asked], own):
                if self._stopping.is_set():
                    raise Stopped
                columns[-1].append([replace(response, checkpoint=name) for response in drawn])
                self._change(project, done=sum(map(len, columns)))
        answered = [
            replace(question, responses=across(by_checkpoint))
            for question, *by_checkpoint in zip(asked, *columns, strict=True)
        ]
        with self._store.writing() as db:
            return add_questions(db, one_project(db, project), answered)

    def _change(self, project: int, **new: Any) -> None:
        with self._lock:
            self._jobs[project] = replace(self._jobs[project], **new)
