"""The annotators' pages in a real browser: by keyboard alone, offline, away, without scripts, for eyes and ears."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.feedback.web.hands import at_task, fetched, keys, ranks, saved, shown, texts_of

from tether.feedback.projects import Attribute
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store

pytestmark = pytest.mark.slow
Make = Callable[..., Any]

RICH = """# A plan

1. *Boil* at $100\\,^\\circ C$
2. Wait

```python
minutes = 8
```

| size | minutes |
|-|-:|
| L | 8 |

$$E = \\frac{1}{2} m v^2$$

[more](https://example.org)"""


@pytest.fixture
def clock() -> Callable[[], float]:
    return time.time


def test_pairs_by_keyboard_alone_and_the_next_is_there_at_once(
    store: Store, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 14)
    page = visit(ann, f"/projects/{made}/task")
    wanted = []
    for number in range(1, 15):
        at_task(page, number)
        fetched(page, number)
        first, second = shown(page)
        key, places = [("a", (0, 1)), ("b", (1, 0)), ("t", (0, 0)), ("n", (0, 0))][number % 4]
        wanted.append(dict(zip((first, second), places, strict=True)))
        keys(page, key, str(number % 4), "Enter")
    page.wait_for_selector("text=Nothing to do for now")
    saved(page)
    assert ranks(store) == wanted
    stored = store.judgements()
    assert [j.strength for j in stored] == [n % 4 for n in range(1, 15)]
    assert [j.all_bad for j in stored] == [n % 4 == 3 for n in range(1, 15)]
    assert all(j.seconds is not None for j in stored)
    took = page.evaluate("performance.getEntriesByName('next-task').map(entry => entry.duration)")
    print(f"next task after {statistics.median(took):.0f} ms (median), {max(took):.0f} ms at most, of {len(took)}")
    assert len(took) == 13
    assert page.evaluate("Object.keys(localStorage)") == []  # drafts and outbox are empty again


def test_four_are_ranked_by_letters_with_ties_and_left_out_ones(
    store: Store, ann: int, project: Make, visit: Make
) -> None:
    made = project("ranking", 3, 4)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    a, b, c, d = shown(page)
    keys(page, "c", "a", "Backspace", "b", "=", "d", "a")
    assert page.inner_text(".order") == "C > B = D > A"
    keys(page, "Enter")
    at_task(page, 2)
    a2, b2, _, d2 = shown(page)
    keys(page, "Enter")
    assert "Rank two or more" in page.inner_text(".wrong")
    keys(page, "d", "a", "b")
    page.click("[aria-label='Response B one place up']")
    page.click("[aria-label='Response D one place down']")
    assert page.inner_text(".order") == "B > D > A · not ranked: C"
    page.locator("h1").focus()
    keys(page, "Enter")
    at_task(page, 3)
    page.select_option("[name=rank_A]", "2")
    page.select_option("[name=rank_C]", "1")
    page.locator("h1").focus()
    a3, _, c3, _ = shown(page)
    keys(page, "Enter")
    page.wait_for_selector("text=Nothing to do for now")
    saved(page)
    assert ranks(store) == [{c: 0, b: 1, d: 1, a: 2}, {b2: 0, d2: 1, a2: 2}, {c3: 0, a3: 1}]


def test_ratings_edits_skips_and_reports_by_keyboard(store: Store, ann: int, project: Make, visit: Make) -> None:
    rated = project("rating", 1, attributes=(Attribute(name="Helpful"), Attribute(name="Safe", low=0, high=2)))
    page = visit(ann, f"/projects/{rated}/task")
    at_task(page, 1)
    keys(page, "7", "0", "3", "Enter")
    assert "Rate response B by “Safe” too." in page.inner_text(".wrong")
    keys(page, "2", "a", "6", "Enter")
    page.wait_for_selector("text=Nothing to do for now")
    (rating,) = store.judgements()
    assert [(rating.ratings or {})[r] for r in rating.shown] == [{"Helpful": 6, "Safe": 0}, {"Helpful": 3, "Safe": 2}]

    edited = project("edit", 2, 1)
    page.goto(f"/projects/{edited}/task")
    at_task(page, 2)
    keys(page, "w", "Control+End")
    page.keyboard.type(" sand")
    assert page.inner_text(".diff ins").strip() == "sand"
    keys(page, "Control+Enter")
    at_task(page, 3)
    keys(page, "p", "2", "Tab")
    page.keyboard.type("a name")
    keys(page, "Escape", "s", "3")
    page.wait_for_selector("text=Nothing to do for now")
    saved(page)
    _, edit, skip = store.judgements()
    assert edit.correction == f"{texts_of(store)[edit.shown[0]]} sand"
    assert (skip.skip, skip.flag) == ("I would rather not read this", "Personal data: a name")


def test_the_last_answer_is_taken_back_by_key(store: Store, ann: int, project: Make, visit: Make) -> None:
    made = project("pair", 3)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    keys(page, "b", "r")
    page.keyboard.type("since u ask")  # letters in a field are letters
    keys(page, "Control+Enter")
    at_task(page, 2)
    saved(page)
    keys(page, "u")
    at_task(page, 1)
    assert page.input_value("[name=rationale]") == "since u ask"
    assert page.is_checked("[name=choice][value=B]")
    keys(page, "a", "Enter")
    at_task(page, 2)
    saved(page)
    (judgement,) = store.judgements()
    assert (judgement.revision, [judgement.ranking[r] for r in judgement.shown]) == (2, [0, 1])  # type: ignore[index]


def test_drafts_survive_a_reload_and_go_when_the_answer_is_stored(
    store: Store, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 2, correction=True)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    keys(page, "b", "3", "r")
    page.keyboard.type("half a thou")
    page.fill("[name=correction]", "better\nwords")
    page.reload()
    at_task(page, 1)
    assert page.is_checked("[name=choice][value=B]")
    assert page.is_checked("[name=strength][value='3']")
    assert page.input_value("[name=rationale]") == "half a thou"
    assert page.input_value("[name=correction]") == "better\nwords"
    keys(page, "Enter")
    at_task(page, 2)
    saved(page)
    assert store.judgements()[0].correction == "better\nwords"
    assert page.evaluate("Object.keys(localStorage)") == []


def test_answers_wait_for_the_connection_and_survive_the_page(
    store: Store, ann: int, project: Make, visit: Make
) -> None:
    made = project("pair", 5)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    fetched(page, 1)
    page.context.set_offline(True)
    keys(page, "a", "Enter")
    at_task(page, 2)
    keys(page, "b", "Enter")
    page.wait_for_selector("text=Waiting to send (2)")
    page.wait_for_selector("text=The next task comes as soon as there is a connection.")
    assert store.judgements() == []
    keys(page, "u")  # what never left is taken back without the server
    at_task(page, 2)
    keys(page, "a", "Enter")
    page.wait_for_selector("text=Waiting to send (2)")
    context = page.context
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(f"/projects/{made}/task")
    at_task(page, 3)
    saved(page)
    assert [[j.ranking[r] for r in j.shown] for j in store.judgements()] == [[0, 1], [0, 1]]  # type: ignore[index]


def test_what_the_server_refuses_is_shown_and_kept_to_copy(store: Store, ann: int, project: Make, visit: Make) -> None:
    made = project("pair", 3)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    fetched(page, 1)
    first = store.claim(ann, made)
    assert first is not None
    store.submit(first.id, {r.id: 0 for r in first.responses}, "elsewhere", guideline=store.add_guideline(""))
    keys(page, "a", "r")
    page.keyboard.type("my long thoughts")
    keys(page, "Control+Enter")
    at_task(page, 2)
    page.wait_for_selector("#refused >> text=task 1: is answered already")
    assert page.input_value("#refused textarea") == "my long thoughts"
    page.click("text=Put away")
    assert page.locator("#refused textarea").count() == 0
    assert len(store.judgements()) == 1


def test_keys_can_be_changed_and_turned_off(store: Store, ann: int, project: Make, visit: Make) -> None:
    made = project("pair", 3)
    page = visit(ann, "/shortcuts")
    page.focus("[name=key_tie]")
    keys(page, "x")
    page.focus("[name=key_A]")
    keys(page, "x")
    page.click("text=Save")
    assert page.evaluate("document.querySelector('#shortcuts').checkValidity()") is False
    page.focus("[name=key_A]")
    keys(page, "j")
    page.click("text=Save")
    page.wait_for_selector("text=Saved.")
    page.goto(f"/projects/{made}/task")
    at_task(page, 1)
    keys(page, "a", "t", "Enter")
    assert page.inner_text(".wrong") == "Choose an answer first."
    keys(page, "?")
    assert page.locator("#help dt", has_text="j").count() > 0
    keys(page, "Escape", "j", "Enter")
    at_task(page, 2)
    page.goto("/shortcuts")
    page.check("[name=off]")
    page.click("text=Save")
    page.goto(f"/projects/{made}/task")
    at_task(page, 2)
    keys(page, "j")
    assert page.locator("[name=choice]:checked").count() == 0
    page.focus("[name=choice][value=B]")
    keys(page, "Space", "Enter")  # the browser's own keys: not the first reason to skip
    at_task(page, 3)
    saved(page)
    assert [j.action for j in store.judgements()] == ["rank", "rank"]


def test_pairs_without_scripts(store: Store, ann: int, project: Make, visit: Make) -> None:
    made = project("pair", 2)
    page = visit(ann, f"/projects/{made}/task", java_script_enabled=False)
    for number in (1, 2):
        assert page.inner_text("h1").startswith(f"Task {number}")
        page.check("[name=choice][value=B]", force=True)
        page.fill("[name=rationale]", "so")
        page.click("text=Submit >> visible=true")
    assert "Nothing to do for now" in page.inner_text("main")
    assert [[j.ranking[r] for r in j.shown] for j in store.judgements()] == [[1, 0], [1, 0]]  # type: ignore[index]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    store: Store, ann: int, project: Make, visit: Make, scheme: str, width: int
) -> None:
    sync_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
    scales = (Attribute(name="Helpful"), Attribute(name="Safe", low=0, high=2))
    kinds = [("pair", 2, {"attributes": scales, "correction": True}), ("ranking", 9, {}), ("edit", 1, {})]
    made = [project(kind, 2, k, name=f"The {kind} ", **more) for kind, k, more in kinds]
    made += [project("rating", 1, 3, attributes=scales)]
    (prompt,) = store.add_prompts(
        [NewPrompt("", [{"role": "system", "content": RICH}, {"role": "user", "content": RICH}])]
    )
    wide = store.add_responses([NewResponse(prompt, RICH), NewResponse(prompt, "word" * 100 + "\n\n" + RICH)])
    first = store.add_project("Formatted", "pair")
    store.add_items([NewItem(wide, project=first)])
    store.add_member(first, ann)
    store.add_guideline(RICH, first)
    paths = ["/", "/shortcuts", "/password", f"/projects/{first}/guideline"]
    page = visit(ann, "/", color_scheme=scheme, viewport={"width": width, "height": 800})
    axe = sync_playwright.Axe()

    def check(what: str) -> None:
        found = axe.run(page).response["violations"]
        assert [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found] == [], what
        assert page.evaluate("document.documentElement.scrollWidth") <= width, what

    for path in paths:
        page.goto(path)
        check(path)
    store.acknowledge(ann, first, store.guidelines(first)[-1].id)
    for one in [first, *made]:
        page.goto(f"/projects/{one}/task")
        page.wait_for_selector("[data-do=undo]:not([hidden])")
        check(f"task {one}")
    keys(page, "s")
    page.wait_for_selector("details.skipping[open] button")  # in sight
    check("skipping")
    keys(page, "1")
    page.wait_for_selector("text=Nothing to do for now")
    check("nothing to do")
    page.goto(f"/projects/{made[-1]}/history")
    check("history")
    assert page.locator(".history button").bounding_box()["height"] < 50  # in one line
    page.goto(f"/projects/{first}/task")
    page.wait_for_selector("[data-do=undo]:not([hidden])")
    for key, dialog in (("?", "#help"), ("l", "#guideline")):
        keys(page, key)
        page.wait_for_selector(f"{dialog}[open]")
        check(dialog)
        keys(page, "Escape")


@pytest.mark.parametrize("width", [1280, 360])
def test_what_has_the_focus_is_not_behind_the_bar_of_answers(
    store: Store, ann: int, project: Make, visit: Make, width: int
) -> None:
    made = project("ranking", 1, 9, correction=True)
    page = visit(ann, f"/projects/{made}/task", viewport={"width": width, "height": 700})
    at_task(page, 1)
    behind = """() => {
        const field = document.activeElement.getBoundingClientRect();
        const bar = document.querySelector(".answer");
        return !bar.contains(document.activeElement) && field.bottom > bar.getBoundingClientRect().top;
    }"""
    for _ in range(32):
        keys(page, "Tab")
        assert not page.evaluate(behind), page.evaluate("document.activeElement.outerHTML")


def test_code_is_read_from_left_to_right_in_any_text(store: Store, ann: int, visit: Make) -> None:
    made = store.add_project("Right to left", "pair")
    (prompt,) = store.add_prompts([NewPrompt("?")])
    texts = ["\u0645\u0631\u062d\u0628\u0627 `f(x);` $x=1$\n\n```\nf(x);\n```", "other"]
    store.add_items([NewItem(store.add_responses(NewResponse(prompt, text) for text in texts), project=made)])
    store.add_member(made, ann)
    page = visit(ann, f"/projects/{made}/task")
    said = page.locator(".response .said", has=page.locator("pre"))
    direction = "node => getComputedStyle(node).direction"
    assert said.evaluate(direction) == "rtl"
    for inside in ("p code", "pre", "math"):
        assert said.locator(inside).evaluate(direction) == "ltr", inside


def test_what_is_missing_is_said_where_one_is_reading(store: Store, ann: int, visit: Make) -> None:
    made = store.add_project("Long", "pair")
    (prompt,) = store.add_prompts([NewPrompt("?")])
    texts = store.add_responses(NewResponse(prompt, f"{n}" + "line\n\n" * 200) for n in range(2))
    store.add_items([NewItem(texts, project=made)])
    store.add_member(made, ann)
    page = visit(ann, f"/projects/{made}/task")
    at_task(page, 1)
    page.evaluate("scrollTo(0, 3000)")
    keys(page, "Enter")
    page.wait_for_selector(".wrong >> text=Choose an answer first.")
    assert abs(page.evaluate("scrollY") - 3000) < 100
    assert 0 <= page.locator(".wrong").bounding_box()["y"] < 100
