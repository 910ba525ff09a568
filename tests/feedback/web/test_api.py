"""The JSON API, as programs use it: claim, answer, replay, undo, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tether.feedback.accounts import Accounts
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store

Make = Callable[..., Any]


def add_items(store: Store, project: int, texts: list[list[str]], **more: Any) -> list[int]:
    """Items of the project, each of these responses to a prompt of its own."""
    added = store.add_prompts(NewPrompt(f"question about {' '.join(of_item)}") for of_item in texts)
    ids = []
    for prompt, of_item in zip(added, texts, strict=True):
        responses = store.add_responses(NewResponse(prompt, text, checkpoint=f"m{n}") for n, text in enumerate(of_item))
        ids += store.add_items([NewItem(responses, project=project, **more)])
    return ids


def of_kind(store: Store, kind: str, texts: list[list[str]], **settings: Any) -> int:
    project = store.add_project(f"a {kind} project", kind, Settings(**settings))  # type: ignore[arg-type]
    add_items(store, project, texts, kind=kind)
    return project


def claimed(browser: Any, project: int, limit: int = 1) -> list[dict[str, Any]]:
    answer = browser.post(f"/api/projects/{project}/claim", json={"limit": limit})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["tasks"])


@pytest.fixture
def program(person: Make, store: Store) -> Make:
    """A member of a project, with a token in the header and no cookies."""

    def make(name: str, project: int) -> Any:
        browser = person(name, project=project)
        browser.cookies.clear()
        browser.headers["authorization"] = f"Bearer {Accounts(store).token_for(browser.user)}"
        return browser

    return make


def say(browser: Any, task: dict[str, Any], key: str = "k", **said: Any) -> Any:
    body = {"submit_key": key, "guideline_version": task["guideline_version"], **said}
    return browser.post(f"/api/assignments/{task['assignment']}/answer", json=body)


def test_a_program_signs_in_reads_the_guideline_and_labels_a_pair(store: Store, person: Make) -> None:
    project = of_kind(store, "pair", [["left", "right"]])
    guideline = store.add_guideline("Prefer the **kinder**.", project)
    browser = person("ann", project=project)
    browser.cookies.clear()
    signed = browser.post("/api/sign-in", json={"name": "ann", "password": "a few unrelated words"})
    browser.headers["authorization"] = f"Bearer {signed.json()['token']}"

    assert browser.get("/api/me").json() == {"name": "ann", "admin": False}
    (listed,) = browser.get("/api/projects").json()
    assert listed == {"id": project, "name": "a pair project", "kind": "pair", "guideline_version": 1} | {
        "acknowledged": False
    }
    read = browser.get(f"/api/projects/{project}/guideline").json()
    assert (read["version"], read["text"]) == (1, "Prefer the **kinder**.")
    assert "<strong>kinder</strong>" in read["html"]
    assert browser.post(f"/api/projects/{project}/claim", json={}).status_code == 409
    assert browser.post(f"/api/projects/{project}/acknowledge", json={"version": 2}).status_code == 409
    assert browser.post(f"/api/projects/{project}/acknowledge", json={"version": 1}).json()["acknowledged"]

    (task,) = claimed(browser, project)
    assert sorted(task["responses"]) == ["left", "right"]
    assert 0 < task["lease_seconds"] <= 1800
    best = task["responses"].index("left")
    said = {"ranking": [0, 1] if best == 0 else [1, 0], "strength": 2, "rationale": "kinder", "seconds": 3.5}
    assert say(browser, task, **said).json() == {"assignment": 1, "revision": 0, "action": "rank"}
    (stored,) = store.judgements()
    texts = dict(zip(stored.shown, task["responses"], strict=True))
    assert {texts[r]: rank for r, rank in (stored.ranking or {}).items()} == {"left": 0, "right": 1}
    assert (stored.strength, stored.rationale, stored.seconds, stored.guideline) == (2.0, "kinder", 3.5, guideline)
    assert claimed(browser, project) == []


def fields_in(sent: Any) -> set[str]:
    """Every key of a JSON value, at any depth."""
    inner = sent.values() if isinstance(sent, dict) else sent if isinstance(sent, list) else ()
    return set(sent if isinstance(sent, dict) else ()).union(*map(fields_in, inner))


def test_every_field_that_is_sent_is_documented(store: Store, program: Make) -> None:
    project = store.add_project("p", "pair", Settings(attributes=(Attribute(name="good"),)))
    store.add_guideline("Be kind.", project)
    said = [{"role": "user", "content": "hi"}]
    (prompt,) = store.add_prompts([NewPrompt("hi", said)])
    store.add_items([NewItem(store.add_responses([NewResponse(prompt, text) for text in "ab"]), project=project)])
    browser = program("ann", project)
    sent = [browser.get(path).json() for path in ("/api/me", "/api/projects", f"/api/projects/{project}/guideline")]
    sent += [browser.post(f"/api/projects/{project}/acknowledge", json={"version": 1}).json()]
    (task,) = claimed(browser, project)
    sent += [{"tasks": [task]}, browser.post("/api/assignments/1/heartbeat", json={}).json()]
    sent += [say(browser, task, ranking=[0, 1]).json(), browser.get(f"/api/projects/{project}/history").json()]
    sent += [browser.post("/api/assignments/1/undo", json={"submit_key": "u"}).json()]
    found = fields_in(sent)
    assert {"assignment", "low", "content", "revision", "lease_seconds", "created"} <= found
    page = (Path(__file__).parents[3] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert {name for name in found if f"`{name}`" not in page} == set()


def test_without_a_session_or_with_a_wrong_password_nothing_is_told(store: Store, visitor: Any, person: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"]])
    person("ann", project=project)
    for method, path in [
        ("GET", "/api/me"),
        ("GET", "/api/projects"),
        ("GET", f"/api/projects/{project}/guideline"),
        ("POST", f"/api/projects/{project}/claim"),
        ("POST", "/api/assignments/1/heartbeat"),
        ("POST", "/api/assignments/1/answer"),
        ("POST", "/api/assignments/1/undo"),
    ]:
        answer = visitor.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()) == (401, {"error": "sign in first"}), path
    wrong = visitor.post("/api/sign-in", json={"name": "ann", "password": "something else"})
    assert (wrong.status_code, wrong.json()) == (401, {"error": "name or password is wrong"})


def test_a_cookie_alone_changes_nothing(store: Store, person: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"]])
    browser = person("ann", project=project)
    assert browser.post(f"/api/projects/{project}/claim", json={}).status_code == 403
    assert browser.get("/api/me").status_code == 200


def test_a_ranking_comes_back_as_given(store: Store, program: Make) -> None:
    project = of_kind(store, "ranking", [["p", "q", "r", "s"]])
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    assert say(browser, task, ranking=[2, None, 0, 2]).status_code == 200
    (stored,) = store.judgements()
    texts = dict(zip(stored.shown, task["responses"], strict=True))
    said = dict(zip(task["responses"], [2, None, 0, 2], strict=True))
    assert {texts[r]: rank for r, rank in (stored.ranking or {}).items()} == {
        text: rank for text, rank in said.items() if rank is not None
    }


def test_ratings_and_edits_are_stored_by_response(store: Store, program: Make) -> None:
    quality = Attribute(name="quality")
    project = of_kind(store, "rating", [["p", "q"]], attributes=(quality,))
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    assert say(browser, task, ratings=[{"quality": 2}, {"quality": 7}]).json()["action"] == "rate"
    (stored,) = store.judgements()
    assert [(stored.ratings or {})[r]["quality"] for r in stored.shown] == [2, 7]

    edits = store.add_project("edits", "edit")
    add_items(store, edits, [["teh cat"]], kind="edit")
    store.add_member(edits, browser.user)
    (task,) = claimed(browser, edits)
    assert say(browser, task, "k2", correction="the cat").json() == {
        "assignment": 2,
        "revision": 0,
        "action": "edit",
    }
    assert store.judgements()[-1].correction == "the cat"


def test_a_replayed_answer_returns_the_first_and_a_second_one_is_refused(store: Store, program: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"]])
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    first = say(browser, task, ranking=[0, 1])
    assert say(browser, task, ranking=[1, 0]).json() == first.json()
    assert say(browser, task, "other", ranking=[1, 0]).status_code == 409
    (stored,) = store.judgements()
    assert [stored.ranking[r] for r in stored.shown] == [0, 1]  # type: ignore[index]


def test_undo_reopens_once_and_its_replay_says_the_same(store: Store, program: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"]])
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    undo = f"/api/assignments/{task['assignment']}/undo"
    assert browser.post(undo, json={"submit_key": "u"}).status_code == 409
    say(browser, task, ranking=[0, 1])
    back = browser.post(undo, json={"submit_key": "u"})
    assert back.json() == {"assignment": 1, "revision": 1, "action": "undo"}
    assert browser.post(undo, json={"submit_key": "u"}).json() == back.json()
    assert browser.post(undo, json={"submit_key": "u2"}).status_code == 409
    assert claimed(browser, project)[0]["assignment"] == 1
    assert say(browser, task, "again", ranking=[1, 0]).json()["revision"] == 2


@pytest.mark.parametrize("state", ["paused", "closed"])
def test_answers_stay_once_a_project_hands_out_nothing(store: Store, program: Make, state: Any) -> None:
    """Taken back, their tasks would not be found again."""
    project = of_kind(store, "pair", [["a", "b"], ["c", "d"]])
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    say(browser, task, ranking=[0, 1])
    undo = "/api/assignments/1/undo"
    assert browser.post(undo, json={"submit_key": "u"}).json()["action"] == "undo"
    say(browser, task, "again", ranking=[1, 0])
    assert ">Change</button>" in browser.get(f"/projects/{project}/history").text
    store.change_project(project, state=state)
    refused = browser.post(undo, json={"submit_key": "u2"})
    assert (refused.status_code, refused.json()["error"]) == (
        409,
        f"task 1: its project is {state}, so its answer stays as it is",
    )
    assert browser.post(undo, json={"submit_key": "u"}).json()["action"] == "undo"  # what was done before
    page = browser.get(f"/projects/{project}/history").text
    assert f"The project is {state}, so answers stay as they are." in page
    assert ">Change</button>" not in page


def test_a_lost_lease_is_a_conflict_only_when_others_took_the_place(store: Store, clock: Any, program: Make) -> None:
    project = store.add_project("one each", settings=Settings(overlap=1, lease=60))
    add_items(store, project, [["a", "b"]], overlap=1)
    ann, bob = program("ann", project), program("bob", project)
    (task,) = claimed(ann, project)
    assert ann.post("/api/assignments/1/heartbeat").json() == {"lease_seconds": 60.0}
    clock.forward(61)
    assert ann.post("/api/assignments/1/heartbeat").json() == {"lease_seconds": 60.0}
    clock.forward(61)
    (theirs,) = claimed(bob, project)
    late = say(ann, task, ranking=[0, 1])
    assert late.status_code == 409
    assert late.json()["error"].startswith("task 1: its time ran out")
    assert ann.post("/api/assignments/1/heartbeat").status_code == 409
    assert say(bob, theirs, ranking=[0, 1]).status_code == 200  # the same key as ann's: keys are each sender's own


def test_nobody_reaches_what_is_anothers(store: Store, program: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"], ["c", "d"]], overlap=1)
    ann = program("ann", project)
    other = store.add_project("another")
    eve = program("eve", other)
    (task,) = claimed(ann, project)
    say(ann, task, ranking=[0, 1])
    for answer in (
        say(eve, task, "x", ranking=[1, 0]),
        eve.post("/api/assignments/1/undo", json={"submit_key": "x"}),
        eve.post("/api/assignments/1/heartbeat"),
        eve.post(f"/api/projects/{project}/claim", json={}),
        eve.get(f"/api/projects/{project}/guideline"),
        eve.post(f"/api/projects/{project}/acknowledge", json={"version": 1}),
    ):
        assert answer.status_code == 404
    store.remove_member(project, ann.user)
    assert ann.post(f"/api/projects/{project}/claim", json={}).status_code == 404


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "give either an answer"),
    ({"ranking": [0]}, "shows 2 responses, and the ranking has 1"),
    ({"ranking": [0, None]}, "rank two or more"),
    ({"ranking": [0, 0]}, "takes no ties"),
    ({"ranking": [0, 1], "skip": "I would rather not read this"}, "not both"),
    ({"skip": "no"}, "none of the project's"),
    ({"ranking": [0, 1], "strength": 1}, "leave strength out"),
    ({"all_bad": True}, "leave all_bad out"),
    ({"ranking": [0, 1], "correction": "x"}, "leave correction out"),
    ({"ranking": [0, 1], "ratings": [{"q": 1}, {"q": 1}]}, "does not ask for ratings"),
    ({"ranking": [0, 1], "rationale": "\0"}, "NUL"),
    ({"ranking": [0, 1], "rationale": " "}, "say why"),
    ({"ranking": [0, 1], "rationale": "x", "flag": "ugly"}, "none of the project's reasons"),
    ({"ranking": [0, 1], "rationale": "x", "guideline_version": 3}, "no guideline of version 3"),
    ({"ranking": [0, 1.5]}, "ranking"),
    ({"ranking": [True, False]}, "ranking"),
    ({"ranking": [0, -1]}, "ranking"),
    ({"ranking": [0, 1], "seconds": -1}, "seconds"),
    ({"ranking": [0, 1], "submit_key": ""}, "submit_key"),
    ({"ranking": [0, 1], "item": 5}, "item"),
]


def test_what_the_task_does_not_ask_is_refused_in_a_sentence(store: Store, program: Make) -> None:
    asked = {"ties": False, "all_bad": False, "strength": False, "rationale": "required"}
    project = of_kind(store, "pair", [["a", "b"]], **asked)
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    for said, says in REFUSED:
        needed = {"rationale": "because"} if "rationale" not in said and "skip" not in said else {}
        refused = say(browser, task, **{**needed, **said})
        assert refused.status_code == 422, said
        assert says in refused.json()["error"], said
    assert store.judgements() == []


def test_wrong_ratings_are_named_by_letter(store: Store, program: Make) -> None:
    project = of_kind(store, "rating", [["p", "q"]], attributes=(Attribute(name="quality"),))
    browser = program("ann", project)
    (task,) = claimed(browser, project)
    wrong: list[tuple[list[Any], str]] = [
        ([{"quality": 1}], "shows 2 responses, and 1 are rated"),
        ([{"quality": 1}, {}], "rate response B by quality"),
        ([{"quality": 1}, {"quality": 8}], "quality of response B is 8, not a number 1 to 7"),
        ([{"quality": 1}, {"quality": "2"}], "ratings"),
    ]
    for ratings, says in wrong:
        refused = say(browser, task, ratings=ratings)
        assert refused.status_code == 422
        assert says in refused.json()["error"]


def test_skip_flag_and_all_bad(store: Store, program: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"], ["c", "d"]])
    browser = program("ann", project)
    one, two = claimed(browser, project, 2)
    reason = one["options"]["skip_reasons"][0]
    assert say(browser, one, "1", skip=reason, flag="Other: cut off").json()["action"] == "skip"
    assert say(browser, two, "2", all_bad=True).status_code == 200
    skipped, bad = store.judgements()
    assert (skipped.skip, skipped.flag, skipped.ranking) == (reason, "Other: cut off", None)
    assert bad.all_bad
    assert list((bad.ranking or {}).values()) == [0, 0]


def test_bodies_and_numbers_that_are_none_are_refused(store: Store, program: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"]])
    browser = program("ann", project)
    kind = {"content-type": "application/json"}
    for body in ('{"limit": 6}', '{"limit": 0}', '{"limit": "1"}', "[]", "nonsense", '{"\\ud800": 1}'):
        refused = browser.post(f"/api/projects/{project}/claim", content=body, headers=kind)
        assert refused.status_code == 422, body
    for number in ("0", "-1", "2147483648", "99999999999999999999", "x", "1.5"):
        assert browser.post(f"/api/assignments/{number}/heartbeat").status_code == 422, number
        assert browser.post(f"/api/projects/{number}/claim", json={}).status_code == 422, number


def test_half_a_character_is_refused_wherever_it_is_written(store: Store, program: Make) -> None:
    project = of_kind(store, "pair", [["a", "b"]])
    browser = program("ann", project)
    claimed(browser, project)
    for field in ("submit_key", "rationale", "skip", "flag", "correction"):
        body = json.dumps({"submit_key": "k", "guideline_version": 0, "ranking": [0, 1], field: "\ud800"})
        refused = browser.post("/api/assignments/1/answer", content=body, headers={"content-type": "application/json"})
        assert refused.status_code == 422, field
