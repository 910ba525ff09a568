"""The annotators' pages when something comes between: other stores, other people, lost connections, hasty hands."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from tests.feedback.web.hands import at_task, fetched, keys, saved

from tether.feedback.accounts import Accounts
from tether.feedback.projects import Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store

pytestmark = pytest.mark.slow
Make = Callable[..., Any]


class Clock:
    """The time, or what a computer that slept takes for it."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def with_clock(page: Any, path: str) -> Any:
    """At its first task, with a clock that `pass_time` puts forward."""
    page.clock.install()
    page.goto(path)
    at_task(page, 1)
    return page


def pass_time(page: Any, clock: Clock, seconds: float) -> None:
    """For the server and the page."""
    clock.ahead += seconds
    page.clock.fast_forward(round(1000 * seconds))


def sign_in(page: Any, store: Store, user: int) -> None:
    """As in another tab of the same browser."""
    token = Accounts(store).token_for(user)
    page.context.add_cookies([{"name": "tether_session", "value": token, "url": page.evaluate("location.origin")}])


def test_a_draft_is_not_filled_into_the_task_of_another_store(
    store: Store, app: FastAPI, ann: int, project: Make, visit: Make, migrated_file: Path, tmp_path: Path
) -> None:
    made = project("pair", 1)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    keys(page, "b", "r")
    page.keyboard.type("of the first store")
    with Store.open(shutil.copy(migrated_file, tmp_path / "other.sqlite"), clock=time.time) as other:
        again = other.add_user("ann")
        assert other.add_project("Another", "pair", Settings()) == made
        other.add_member(made, again)
        (prompt,) = other.add_prompts([NewPrompt("Another question")])
        other.add_items([NewItem(other.add_responses([NewResponse(prompt, t) for t in "xy"]), 1, "pair", made)])
        app.state.store, app.state.accounts = other, Accounts(other)
        sign_in(page, other, again)
        page.reload()
        at_task(page, 1)
        assert "Another question" in page.inner_text(".prompt")
        assert page.locator("[name=choice]:checked").count() == 0
        assert page.input_value("[name=rationale]") == ""
        page.close()


def test_a_page_of_one_annotator_never_goes_on_with_the_tasks_of_another(
    store: Store, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 9)
    bob = store.add_user("bob")
    store.add_member(made, bob)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    fetched(page, 1)
    keys(page, "a", "Enter")
    at_task(page, 2)
    saved(page)
    sign_in(page, store, bob)
    keys(page, "b", "Enter")  # Ann's answer, by a session that is Bob's
    page.get_by_role("heading", name="Task 1 ").wait_for()  # Bob's first
    at_task(page, 1)
    keys(page, "a", "Enter")
    at_task(page, 2)
    saved(page)
    assert [j.user for j in store.judgements()] == [ann, bob]
    sign_in(page, store, ann)
    page.goto(f"/projects/{made}/task")
    saved(page)
    assert [(j.user, [(j.ranking or {})[r] for r in j.shown]) for j in store.judgements()] == [
        (ann, [0, 1]),
        (bob, [0, 1]),
        (ann, [1, 0]),
    ]


def test_what_cannot_be_taken_back_is_said_for_all_to_see(store: Store, ann: int, project: Make, visit: Make) -> None:
    made = project("pair", 3)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    keys(page, "u")
    page.wait_for_selector("#told >> text=There is no answer to take back.")
    keys(page, "a", "Enter")
    at_task(page, 2)
    page.wait_for_selector("#told", state="hidden")
    saved(page)
    page.reload()
    at_task(page, 2)
    page.context.set_offline(True)
    keys(page, "u")
    page.wait_for_selector("#told >> text=Taking back needs a connection.")
    page.context.set_offline(False)
    keys(page, "u", "u")  # once
    at_task(page, 1)
    assert page.locator("#told").is_hidden()
    assert [j.action for j in store.history(1)] == ["rank", "undo"]


def test_working_keeps_the_place_and_being_away_gives_it_up(
    store: Store, clock: Clock, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 1, overlap=1, lease=1200.0)
    bob = store.add_user("bob")
    page = with_clock(visit(ann), f"/projects/{made}/task")
    for _ in range(9):  # three leases long
        page.keyboard.press("b")
        with page.expect_response("**/heartbeat") as renewed:
            pass_time(page, clock, 400)
        renewed.value.finished()  # and the page has set its timers anew
    assert page.locator("#away").is_hidden()
    assert store.claim(bob, made) is None
    pass_time(page, clock, 1201)
    page.wait_for_selector("#away >> text=the time for this task ran out")
    keys(page, "Enter")
    page.wait_for_selector("#away", state="hidden")
    assert page.is_checked("[name=choice][value=B]")
    pass_time(page, clock, 1201)
    page.wait_for_selector("#away >> text=the time for this task ran out")
    assert store.claim(bob, made) is not None
    keys(page, "Enter")
    page.wait_for_selector("#refused >> text=its time ran out and others have answered")
    assert store.judgements() == []


def test_without_a_connection_the_end_of_the_lease_is_explained(
    store: Store, clock: Clock, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 2, lease=1200.0)
    page = visit(ann)
    with page.expect_response("**/api/projects/*/task*") as second:
        with_clock(page, f"/projects/{made}/task")
    second.value.finished()
    keys(page, "b")
    page.context.set_offline(True)
    pass_time(page, clock, 1201)
    page.wait_for_selector("#away >> text=or without a connection")
    keys(page, "Enter")
    page.wait_for_selector("#away >> text=There is no connection yet.")
    page.context.set_offline(False)
    page.wait_for_selector("#away", state="hidden")
    keys(page, "Enter")
    saved(page)
    assert len(store.judgements()) == 1


def test_waiting_for_a_task_leaves_focus_alone_and_outlasts_a_failing_server(
    store: Store, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 3)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    fetched(page, 1)
    page.route("**/api/projects/*/task*", lambda route: route.fulfill(status=500, json={"error": "It went wrong."}))
    keys(page, "a", "Enter")
    at_task(page, 2)
    keys(page, "a", "Enter")
    page.wait_for_selector("text=The next task comes as soon as")
    keys(page, "?")
    fetched(page, 5)  # asked for once more
    assert page.locator("#help[open]").count() == 1
    page.unroute("**/api/projects/*/task*")
    at_task(page, 3)


def test_a_double_click_answers_one_task(store: Store, ann: int, project: Make, visit: Make) -> None:
    made = project("edit", 4, 1)
    page = visit(ann, f"/projects/{made}/task")
    hand = page.context.new_cdp_session(page)

    def click(at: float) -> None:
        """On the button where it is then, at a time of the hand's own: the page may be late to hear of it."""
        box = page.locator("text=Submit >> visible=true").bounding_box()
        where = {"x": box["x"] + 9, "y": box["y"] + 9, "button": "left", "clickCount": 1, "timestamp": at}
        for kind in ("mousePressed", "mouseReleased"):
            hand.send("Input.dispatchMouseEvent", {"type": kind, **where})

    def strike(at: float) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2, "timestamp": at}
        for kind in ("rawKeyDown", "keyUp"):
            hand.send("Input.dispatchKeyEvent", {"type": kind, **key})

    began = time.time()
    for number, press in ((1, click), (2, strike), (3, click)):
        fetched(page, number)
        press(began + number)
        at_task(page, number + 1)
        press(began + number + 0.4)
        saved(page)
        assert len(store.judgements()) == number


def test_a_task_that_others_took_in_its_sleep_is_told_at_once(
    store: Store, clock: Clock, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 1, overlap=1, lease=1200.0)
    bob = store.add_user("bob")
    page = with_clock(visit(ann), f"/projects/{made}/task")
    clock.ahead = 6000.0  # for the page no time has passed: its clock slept too
    assert store.claim(bob, made) is not None
    keys(page, "b", "r")
    page.keyboard.type("words")
    page.clock.fast_forward(400_000)  # a third of what the page takes for its time
    page.wait_for_selector("#away >> text=the time for this task ran out")
    page.click("#away button")
    page.wait_for_selector("#refused >> text=its time ran out and others have answered")
    assert page.input_value("#refused textarea") == "words"
    page.reload()  # until it is put away
    assert page.input_value("#refused textarea") == "words"
    page.click("text=Put away")
    assert page.evaluate("Object.keys(localStorage)") == []
