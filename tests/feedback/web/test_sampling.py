"""Live samples: what is drawn, how far it is, and what becomes of it when something goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.feedback.web.conftest import BASE, PASSWORD, Browser
from tests.feedback.web.test_admin import PLAIN, post_files

from tether.errors import InputError
from tether.feedback.intake import Written
from tether.feedback.schema import responses
from tether.feedback.web.app import create_app


class Parrot:
    """A sampler that answers in the words of its checkpoint; it can be made to wait, or to fail."""

    def __init__(self) -> None:
        self.wrong: Exception | None = None
        self.loaded: list[str] = []
        self.at_work = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, checkpoint: str, asked: Sequence[Any], how: Any) -> Any:
        self.loaded.append(checkpoint)
        if checkpoint == "gone":
            raise InputError("gone: is no model")
        for said in asked:
            self.at_work.set()
            assert self.may_go_on.wait(120)
            if self.wrong is not None:
                raise self.wrong
            name = checkpoint.rpartition("/")[2]
            yield [Written(f"{name} {n} on {said}"[: how.max_new_tokens]) for n in range(how.per_checkpoint)]


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def sampling_admin(store, parrot, tmp_path, admin) -> Browser:
    (tmp_path / "mine").mkdir()
    app = create_app(store, sampler=parrot, files=tmp_path)
    browser = Browser(app, base_url=BASE)
    browser.send_form("/sign-in", name="root", password=PASSWORD)
    return browser


def sampled(browser: Browser, project: int) -> dict[str, Any]:
    """The job once it has ended."""
    for _ in range(3000):
        job = browser.get(f"/admin/projects/{project}/sampling").json()["job"]
        if job["state"] not in ("waiting", "running"):
            return dict(job)
        time.sleep(0.02)
    raise AssertionError(f"still {job}")


def test_checkpoints_are_sampled_live_and_compared(sampling_admin, store, parrot, tmp_path):
    form = {**PLAIN, "name": "live", "kind": "ranking", "shown": 4, "lines": "one\ntwo\none"}
    form |= {"checkpoints": "base\nmine", "per_checkpoint": 2}
    assert post_files(sampling_admin, "/admin/projects", **form).status_code == 200
    job = sampled(sampling_admin, 2)
    assert (job["state"], job["done"], job["total"]) == ("done", 4, 4)
    assert job["added"] == {"prompts": 2, "items": 2, "identical": 0, "left_over": 0}
    assert parrot.loaded == [str(tmp_path / "mine"), "base", str(tmp_path / "mine")]  # first, whether it loads
    with store.reading() as db:
        written = {(row.text, row.checkpoint) for row in db.execute(responses.select())}
    assert written == {(f"{c} {n} on {p}", c) for c in ("base", "mine") for n in (0, 1) for p in ("one", "two")}
    assert "Done: 2 items" in sampling_admin.get("/admin/projects/2/prompts").text
    again = {k: form[k] for k in ("lines", "checkpoints", "per_checkpoint")}
    post_files(sampling_admin, "/admin/projects/2/prompts", **again)
    assert sampled(sampling_admin, 2)["added"]["items"] == 2
    assert store.progress(2).items == 2


def test_the_same_words_of_two_checkpoints_are_counted_not_asked(sampling_admin, store):
    form = {**PLAIN, "name": "live", "kind": "pair", "lines": "one", "checkpoints": "base\nbeta", "max_new_tokens": 1}
    post_files(sampling_admin, "/admin/projects", **form)
    assert sampled(sampling_admin, 2)["added"] == {"prompts": 1, "items": 0, "identical": 1, "left_over": 1}


def test_one_response_to_each_prompt_is_no_pair_and_is_not_sampled(sampling_admin, store, parrot):
    form = {**PLAIN, "name": "live", "kind": "pair", "lines": "one", "checkpoints": "base"}
    answer = post_files(sampling_admin, "/admin/projects", **form)
    assert (answer.status_code, "leaves nothing to compare" in answer.text) == (422, True)
    assert (store.projects(), parrot.loaded) == ([], [])


def test_a_ranking_of_a_files_responses_is_not_taken_for_one_of_those_drawn(sampling_admin, store):
    row = '{"prompt": "one", "chosen": "yes", "rejected": "no", "gold": true}'
    form = {**PLAIN, "name": "live", "kind": "pair", "lines": row, "checkpoints": "base\nbeta"}
    post_files(sampling_admin, "/admin/projects", **form)
    assert sampled(sampling_admin, 2)["added"]["items"] == 1
    assert store.gold(2) == {}


def test_a_checkpoint_that_is_none_is_told_before_another_draws(sampling_admin, parrot):
    parrot.may_go_on.clear()  # nothing can be drawn
    form = {**PLAIN, "name": "live", "kind": "pair", "lines": "one", "checkpoints": "base\ngone"}
    post_files(sampling_admin, "/admin/projects", **form)
    assert sampled(sampling_admin, 2)["sentence"] == "gone: is no model"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("prompt 3 is too long"), "prompt 3 is too long"),
        (RuntimeError("secret"), "It broke off: RuntimeError"),
    ],
)
def test_sampling_that_fails_says_why(sampling_admin, store, parrot, error, says):
    parrot.wrong = error
    form = {"name": "live", "kind": "pair", "lines": "one", "checkpoints": "base", "per_checkpoint": 2}
    post_files(sampling_admin, "/admin/projects", **PLAIN, **form)
    job = sampled(sampling_admin, 2)
    assert (job["state"], says in job["sentence"], "secret" in job["sentence"]) == ("failed", True, False)
    assert says in sampling_admin.get("/admin/projects/2/prompts").text
    assert store.progress(2).items == 0


def test_one_drawing_at_a_time_for_a_project(sampling_admin, store, parrot):
    parrot.may_go_on.clear()
    form = {"lines": "one\ntwo", "checkpoints": "base\nbeta"}
    post_files(sampling_admin, "/admin/projects", **PLAIN, name="live", kind="pair", **form)
    assert parrot.at_work.wait(120)
    again = post_files(sampling_admin, "/admin/projects/2/prompts", **form)
    assert (again.status_code, "drawing responses already" in again.text) == (422, True)
    assert "prompts_added" not in [event.action for event in store.audit()]
    assert 'data-state="running"' in sampling_admin.get("/admin/projects/2/prompts").text
    parrot.may_go_on.set()
    assert sampled(sampling_admin, 2)["added"]["items"] == 2


def test_a_server_that_stops_ends_its_drawings_and_stores_no_half(sampling_admin, store, parrot):
    parrot.may_go_on.clear()
    form = {"lines": "one\ntwo", "checkpoints": "base\nbeta"}
    post_files(sampling_admin, "/admin/projects", **PLAIN, name="live", kind="pair", **form)
    assert parrot.at_work.wait(120)
    jobs = sampling_admin.app.state.jobs
    jobs.stop(patience=0)  # it is in the midst of a response, and ends after that
    parrot.may_go_on.set()
    jobs.stop()
    assert sampled(sampling_admin, 2)["state"] == "stopped"
    assert store.progress(2).items == 0
