"""What tests do at the task page in Chromium, and how they look at what was stored."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select

from tether.feedback.schema import responses
from tether.feedback.store import Store


def texts_of(store: Store) -> dict[int, str]:
    with store.reading() as db:
        return {row.id: row.text for row in db.execute(select(responses.c.id, responses.c.text))}


def ranks(store: Store) -> list[dict[str, int]]:
    """What was stored, by the texts."""
    texts = texts_of(store)
    return [{texts[r]: rank for r, rank in (j.ranking or {}).items()} for j in store.judgements()]


def shown(page: Any) -> list[str]:
    return [said.inner_text().strip() for said in page.locator(".response .said").all()]


def until(page: Any, expression: str) -> None:
    """Waits for it; Playwright's own way of waiting is `eval`, which the pages forbid."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} has not come true"
        time.sleep(0.01)


def at_task(page: Any, number: int) -> None:
    until(page, f"document.activeElement.textContent.startsWith('Task {number} ')")


def saved(page: Any) -> None:
    page.wait_for_selector("#saved[data-state=idle]", state="attached")


def keys(page: Any, *pressed: str) -> None:
    for key in pressed:
        page.keyboard.press(key)


def fetched(page: Any, times: int) -> None:
    """Until the page has fetched tasks so often: the next one is there, as it is for anybody who reads a task first."""
    asked = "performance.getEntriesByType('resource').filter(entry => /[/]task([?]|$)/.test(entry.name))"
    until(page, f"{asked}.length >= {times}")
