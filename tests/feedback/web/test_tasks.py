"""The annotators' pages without scripts: every kind of task by its form, the guideline, history, shortcuts."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from sqlalchemy import select

from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.schema import responses
from tether.feedback.store import Store
from tether.feedback.web.shortcuts import ACTIONS, checked_keys

Make = Callable[..., Any]


class Fields(HTMLParser):
    """The task's form as a browser would send it untouched, and the headings of the responses in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self.inside = False
        self.area = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.inside = about.get("class", "").startswith("task")
        if not self.inside or "name" not in about:
            return
        ticked = about.get("type") not in ("radio", "checkbox") or "checked" in about
        if tag == "input" and ticked:
            self.sent[about["name"]] = about.get("value", "on")
        self.area = about["name"] if tag == "textarea" else self.area

    def handle_endtag(self, tag: str) -> None:
        self.area = "" if tag == "textarea" else self.area

    def handle_data(self, data: str) -> None:
        if self.area:
            self.sent[self.area] = self.sent.get(self.area, "") + data.removeprefix("\n")


@pytest.fixture
def project(store: Store) -> Make:
    """Makes a project with items of these responses: `project("pair", [["a", "b"]], ties=False)`."""

    def make(kind: str, texts: list[list[str]], name: str = "A project", **settings: Any) -> int:
        made = store.add_project(name, kind, Settings(**settings))  # type: ignore[arg-type]
        for at, of_item in enumerate(texts):
            (prompt,) = store.add_prompts([NewPrompt(f"Question {at}")])
            store.add_items([NewItem(store.add_responses(NewResponse(prompt, t) for t in of_item), 3, kind, made)])  # type: ignore[arg-type]
        return made

    return make


def open_task(browser: Any, project: int, query: str = "") -> dict[str, str]:
    page = browser.get(f"/projects/{project}/task{query}")
    assert page.status_code == 200, page.text
    return Fields(page.text).sent


def post(browser: Any, project: int, fields: dict[str, str], **changed: str) -> Any:
    return browser.post(f"/projects/{project}/task", data={**fields, **changed}, follow_redirects=False)


def by_text(store: Store, judgement: Any) -> list[tuple[str, int | None]]:
    """The texts as they were shown, each with its rank."""
    with store.reading() as db:
        texts = {row.id: row.text for row in db.execute(select(responses.c.id, responses.c.text))}
    return [(texts[response], judgement.ranking.get(response)) for response in judgement.shown]


def test_pairs_are_answered_by_a_plain_form(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["left", "right"], ["up", "down"], ["in", "out"]])
    browser = person("ann", project=made)
    first = open_task(browser, made)
    done = post(browser, made, first, choice="B", strength="2", rationale=" clearer\r\n ", seconds="4.5")
    assert (done.status_code, done.headers["location"]) == (303, f"/projects/{made}/task")
    assert post(browser, made, first, choice="A").status_code == 303  # sent twice: stored once
    post(browser, made, open_task(browser, made), choice="tie")
    post(browser, made, open_task(browser, made), choice="bad", flag="Other", flag_note="cut off")
    assert "Nothing to do for now" in browser.get(f"/projects/{made}/task").text

    better, tie, bad = store.judgements()
    assert [better.ranking[r] for r in better.shown] == [1, 0]  # type: ignore[index]
    assert (better.strength, better.rationale, better.seconds) == (2.0, "clearer", 4.5)
    assert (set((tie.ranking or {}).values()), tie.all_bad) == ({0}, False)
    assert (set((bad.ranking or {}).values()), bad.all_bad, bad.flag) == ({0}, True, "Other: cut off")


def test_a_form_that_says_too_little_comes_back_with_what_was_said(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["a", "b"]], rationale="required")
    browser = person("ann", project=made)
    fields = open_task(browser, made)
    nothing = post(browser, made, fields, rationale="because", strength="1")
    assert nothing.status_code == 422
    assert "Choose an answer first." in nothing.text
    again = Fields(nothing.text).sent
    assert (again["rationale"], again["strength"], "choice" in again) == ("because", "1", False)
    unsaid = post(browser, made, again, choice="A", rationale=" ")
    assert (unsaid.status_code, "say why" in unsaid.text) == (422, True)
    assert Fields(unsaid.text).sent["choice"] == "A"
    assert store.judgements() == []


def test_rankings_by_place(store: Store, project: Make, person: Make) -> None:
    made = project("ranking", [list("pqrs"), list("tuvw"), list("xyz")])
    browser = person("ann", project=made)
    seen = re.findall(r"<p>(\w)</p>", browser.get(f"/projects/{made}/task").text)
    post(browser, made, open_task(browser, made), rank_A="3", rank_B="1", rank_C="3", rank_D="")
    post(browser, made, open_task(browser, made), all_bad="on")
    assert post(browser, made, open_task(browser, made), rank_A="1").status_code == 422
    assert post(browser, made, open_task(browser, made), rank_A="0", rank_B="1").status_code == 422
    given, bad = store.judgements()
    assert by_text(store, given) == list(zip(seen, [2, 0, 2, None], strict=True))
    assert (bad.all_bad, set((bad.ranking or {}).values())) == (True, {0})


def test_ratings_edits_and_skips(store: Store, project: Make, person: Make) -> None:
    scales = (Attribute(name="Helpful"), Attribute(name="Safe", low=0, high=1))
    rated = project("rating", [["a", "b"]], "Rated", attributes=scales)
    edited = project("edit", [["  teh\r\ncat"], ["dgo"]], "Edited", skip_reasons=("no", "never"))
    browser = person("ann", project=rated)
    store.add_member(edited, browser.user)

    fields = open_task(browser, rated)
    some = post(browser, rated, fields, rate_A_0="7", rate_A_1="0", rate_B_0="1")
    assert (some.status_code, "Rate response B by “Safe” too." in some.text) == (422, True)
    assert post(browser, rated, Fields(some.text).sent, rate_B_1="1").status_code == 303
    (judgement,) = store.judgements()
    values = [(judgement.ratings or {})[r] for r in judgement.shown]
    assert values == [{"Helpful": 7, "Safe": 0}, {"Helpful": 1, "Safe": 1}]

    fields = open_task(browser, edited)
    assert fields["correction"].replace("\r\n", "\n") == "  teh\ncat"
    post(browser, edited, fields, correction="the\r\ncat")
    post(browser, edited, open_task(browser, edited), skip="never", correction="ignored")
    _, edit, skip = store.judgements()
    assert (edit.correction, skip.skip, skip.correction) == ("the\ncat", "never", None)


def test_an_answer_is_changed_from_the_history(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["a", "b"], ["c", "d"]])
    browser = person("ann", project=made)
    post(browser, made, open_task(browser, made), choice="B", strength="3", rationale="so")
    open_task(browser, made)  # the second task is in hand
    page = browser.get(f"/projects/{made}/history")
    assert "B &gt; A (much)" in page.text
    back = browser.send_form(f"/projects/{made}/undo", assignment="1", submit_key="u")
    assert (back.status_code, back.headers["location"]) == (303, f"/projects/{made}/task?task=1")
    fields = open_task(browser, made, "?task=1")
    assert [fields[name] for name in ("assignment", "choice", "strength", "rationale")] == ["1", "B", "3", "so"]
    post(browser, made, fields, choice="A")
    (judgement,) = store.judgements()
    assert (judgement.revision, [judgement.ranking[r] for r in judgement.shown]) == (2, [0, 1])  # type: ignore[index]
    assert open_task(browser, made, "?task=1")["assignment"] == "2"  # loaded again: it goes on


def test_the_history_goes_on_page_by_page(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [[f"a{n}", f"b{n}"] for n in range(23)])
    browser = person("ann", project=made)
    for _ in range(23):
        post(browser, made, open_task(browser, made), choice="A")
    newest = browser.get(f"/projects/{made}/history").text
    assert newest.count('class="card"') == 20
    assert f"/projects/{made}/history?before=4" in newest
    assert browser.get(f"/projects/{made}/history?before=4").text.count('class="card"') == 3
    told = browser.get(f"/api/projects/{made}/history?limit=2&before=4").json()["answers"]
    assert [one["assignment"] for one in told] == [3, 2]


def test_the_guideline_is_read_before_work_and_again_when_it_changes(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["a", "b"]])
    store.add_guideline("Be **kind**.", made)
    browser = person("ann", project=made)
    sent = browser.get(f"/projects/{made}/task", follow_redirects=False)
    assert sent.headers["location"] == f"/projects/{made}/guideline"
    assert "<strong>kind</strong>" in browser.get(f"/projects/{made}/guideline").text
    assert browser.send_form(f"/projects/{made}/guideline", version="7").status_code == 409
    assert browser.send_form(f"/projects/{made}/guideline", version="1").status_code == 303
    fields = open_task(browser, made)
    store.add_guideline("Be kinder.", made)
    assert browser.get(f"/api/projects/{made}/task").status_code == 409
    assert post(browser, made, fields, choice="A").status_code == 303  # as it was asked
    assert store.judgements()[0].guideline == store.guidelines(made)[0].id


def test_scripts_fetch_tasks_beside_those_they_have(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["a", "b"], ["c", "d"]])
    browser = person("ann", project=made)

    def fetch(query: str = "") -> Any:
        return browser.get(f"/api/projects/{made}/task{query}").json()

    assert fetch()["assignment"] == 1
    second = fetch("?beside=1")
    assert (second["assignment"], Fields(second["html"]).sent["assignment"]) == (2, "2")
    assert second["html"].count("<form") == 1
    none = fetch("?beside=1&beside=2")
    assert none["assignment"] is None
    assert "Nothing to do" in none["html"]
    assert fetch("?task=2")["assignment"] == 2
    assert browser.get(f"/api/projects/{made}/task?task=3").status_code == 404

    fields = {**Fields(second["html"]).sent, "choice": "A"}
    token = {"x-csrf-token": fields.pop("csrf")}
    receipt = browser.post("/api/tasks/2", data=fields, headers=token).json()
    assert receipt == {"assignment": 2, "revision": 0, "action": "rank"}
    assert browser.post("/api/tasks/2", data=fields, headers=token).json() == receipt
    other = browser.post("/api/tasks/2", data={**fields, "submit_key": "another"}, headers=token)
    assert (other.status_code, other.json()["error"]) == (409, "task 2: is answered already; undo that answer first")


def test_texts_are_shown_as_written_on_demand(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["**a**", "b"]])
    browser = person("ann", project=made)
    assert "<strong>a</strong>" in browser.get(f"/projects/{made}/task").text
    browser.send_form(f"/projects/{made}/view", raw="1", assignment="1")
    assert '<div class="plain">**a**</div>' in browser.get(f"/projects/{made}/task").text


def test_what_is_anothers_is_not_there(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["a", "b"]])
    elsewhere = project("pair", [], "Elsewhere")
    ann, eve = person("ann", project=made), person("eve", project=elsewhere)
    fields = open_task(ann, made)
    for page in ("task", "history", "guideline"):
        assert eve.get(f"/projects/{made}/{page}").status_code == 404
    del fields["csrf"]
    assert eve.send_form(f"/projects/{made}/task", **fields, choice="A").status_code == 404
    assert eve.send_form(f"/projects/{made}/undo", assignment="1", submit_key="u").status_code == 404
    assert store.judgements() == []


def test_shortcuts_are_kept_and_shown_and_two_on_one_key_refused(store: Store, project: Make, person: Make) -> None:
    made = project("pair", [["a", "b"]])
    browser = person("ann", project=made)
    keys = {f"key_{name}": action.key for name, action in ACTIONS.items()}
    twice = browser.send_form("/shortcuts", **{**keys, "key_tie": "x", "key_skip": "X"})
    assert twice.status_code == 422
    assert "both want the key x" in twice.text
    assert browser.send_form("/shortcuts", **{**keys, "key_tie": "Tab"}).status_code == 422
    assert store.user(browser.user).settings == {}
    assert browser.send_form("/shortcuts", **{**keys, "key_tie": "e", "key_E": "t"}).status_code == 303
    assert store.user(browser.user).settings["keys"] == {"tie": "e", "E": "t"}
    assert '<kbd aria-hidden="true">e</kbd>' in browser.get(f"/projects/{made}/task").text
    browser.send_form("/shortcuts", **keys, off="1")
    assert 'data-keys="{}"' in browser.get(f"/projects/{made}/task").text
    browser.send_form("/shortcuts", reset="1")
    assert store.user(browser.user).settings["keys"] == {}


def test_every_action_has_a_key_of_its_own_at_first() -> None:
    assert checked_keys({}) == {name: action.key for name, action in ACTIONS.items()}
