"""The parts of a task that open: reporting a problem and skipping, by key and by Tab."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.feedback.web.hands import at_task, keys, saved, until

from tether.feedback.store import Store

pytestmark = pytest.mark.slow


def test_enter_submits_after_a_problem_was_reported_by_keys(
    store: Store, ann: int, project: Callable[..., int], visit: Callable[..., Any]
) -> None:
    page = visit(ann, f"/projects/{project('pair', 2)}/task")
    at_task(page, 1)
    keys(page, "a", "p", "1", "Escape", "Enter")
    at_task(page, 2)
    saved(page)
    assert [j.flag for j in store.judgements()] == ["Harmful"]


def test_escape_goes_back_to_the_summary_it_was_opened_at(
    ann: int, project: Callable[..., int], visit: Callable[..., Any]
) -> None:
    page = visit(ann, f"/projects/{project('pair', 1)}/task")
    at_task(page, 1)
    page.locator(".flag summary").focus()
    keys(page, "Enter", "Escape")
    until(page, "document.activeElement === document.querySelector('.flag:not([open]) summary')")
