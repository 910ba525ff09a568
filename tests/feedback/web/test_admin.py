"""What admins do: make projects, ask people, look at the numbers, decide, take the data home."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.feedback.web.conftest import BASE, PASSWORD, Browser

from tether.feedback.accounts import Accounts
from tether.feedback.projects import Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.schema import exports, responses
from tether.feedback.store import Store
from tether.feedback.web.app import create_app
from tether.feedback.web.settings_form import settings_fields

PLAIN = {k: v for k, v in settings_fields(Settings()).items() if v is not False}
"""The fields of the settings form as a browser sends them when nothing was changed."""
ROWS = [{"prompt": f"What is {i}?", "responses": [f"It is {i}.", f"No idea about {i}."]} for i in range(6)]


def jsonl(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def post_files(browser: Browser, path: str, content: bytes = b"", /, **fields: Any) -> Any:
    token = re.search(r'name="csrf" content="(\w+)"', browser.get("/password").text)[1]
    files = {"file": ("rows.jsonl", content)} if content else {"file": ("", b"")}
    return browser.post(path, data={**fields, "csrf": token}, files=files)


def alert(answer: Any) -> str:
    return re.search(r'role="alert">(.*?)</p>', answer.text, re.S)[1]


@pytest.fixture
def project(store) -> int:
    """A project of six pairs with a guideline."""
    made = store.add_project("animals")
    store.add_guideline("Prefer the kinder answer.", made)
    asked = store.add_prompts(NewPrompt(f"prompt {i}") for i in range(6))
    said = store.add_responses(NewResponse(p, text, checkpoint="secret-model") for p in asked for text in ("aa", "b c"))
    store.add_items(NewItem(said[at : at + 2], project=made) for at in range(0, 12, 2))
    return made


@pytest.fixture
def vote(store, project) -> Callable[..., Any]:
    """Lets a simulated annotator say of the next item which response, by its place in the item, is the better."""

    def cast(name: str, best: int, **more: Any) -> Any:
        user = store.add_user(name, "simulated")
        turn = store.claim(user, project)
        ids = sorted(r.id for r in turn.responses)
        ranking = {r: int(at != best) for at, r in enumerate(ids)}
        guideline = store.project(project).guideline.id
        return store.submit(turn.id, ranking, f"{name}-{turn.id}", guideline=guideline, **more)

    return cast


def test_a_project_is_made_from_a_file(admin, store):
    answer = post_files(admin, "/admin/projects", jsonl(ROWS), **PLAIN, name="sums", kind="pair", guideline="Be right.")
    assert "6 items from 6 prompts." in answer.text
    made = store.projects()[0]
    assert (made.name, made.kind, made.settings, made.guideline.text) == ("sums", "pair", Settings(), "Be right.")
    assert store.progress(made.id).items == 6
    assert "sums" in admin.get("/admin").text
    again = post_files(admin, f"/admin/projects/{made.id}/prompts", jsonl([*ROWS, {**ROWS[0], "prompt": "new"}]))
    assert "7 items from 7 prompts, of which 1 are new." in again.text
    assert store.progress(made.id).items == 7


def test_more_answers_are_asked_of_rows_added_again(admin, store):
    post_files(admin, "/admin/projects", jsonl(ROWS), **PLAIN, name="sums", kind="pair", guideline="Be right.")
    made = store.projects()[0].id
    admin.send_form(f"/admin/projects/{made}/settings", **{**PLAIN, "overlap": "5"})
    assert store.progress(made).wanted == 18
    post_files(admin, f"/admin/projects/{made}/prompts", jsonl(ROWS[:2]))
    assert store.progress(made).wanted == 22
    admin.send_form(f"/admin/projects/{made}/settings", **{**PLAIN, "overlap": "1"})
    post_files(admin, f"/admin/projects/{made}/prompts", jsonl(ROWS))
    assert store.progress(made).wanted == 22


@pytest.mark.parametrize("number", ["²", "9" * 5000])
def test_counts_in_an_address_that_are_none_are_not_shown(admin, project, number):
    counts = {"prompts": number, "items": "1", "identical": "1", "left_over": "1"}
    answer = admin.get(f"/admin/projects/{project}/prompts", params=counts)
    assert (answer.status_code, "items from" in answer.text) == (200, False)


def test_every_setting_goes_through_the_form(admin, store, project):
    changed = {
        "overlap": 5,
        "shown": 4,
        "rationale": "required",
        "rendering": "plain",
        "quota": 12,
        "correction": "yes",
    }
    changed |= {
        "attributes": "helpful\nvery kind -3 3",
        "lease_minutes": "0.5",
        "gold_percent": "25",
        "repeat_percent": "5",
    }
    changed |= {"skip_reasons": "too long\n\n bad words ", "flag_reasons": "rude"}
    form = {k: v for k, v in PLAIN.items() if k not in ("ties", "strength", "all_bad")} | changed
    assert admin.send_form(f"/admin/projects/{project}/settings", **form).status_code == 303
    found = store.project(project).settings
    assert found.model_dump() == {
        **{"overlap": 5, "shown": 4, "rationale": "required", "rendering": "plain", "quota": 12, "correction": True},
        **{"ties": False, "all_bad": False, "strength": False, "lease": 30.0, "gold_share": 0.25, "repeat_share": 0.05},
        "attributes": ({"name": "helpful", "low": 1, "high": 7}, {"name": "very kind", "low": -3, "high": 3}),
        "skip_reasons": ("too long", "bad words"),
        "flag_reasons": ("rude",),
    }
    shown = admin.get(f"/admin/projects/{project}/settings").text
    assert "very kind -3 3" in shown
    assert 'value="0.5"' in shown


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("overlap", "0", "overlap: Input should be greater than or equal to 1"),
        ("gold_percent", "80", "gold_share"),
        ("repeat_percent", "30", "repeat_share"),
        ("lease_minutes", "inf", "minutes for an item"),
        ("lease_minutes", "soon", "is not a number"),
        ("attributes", "x 5 1", "must be below high"),
        ("skip_reasons", "", "skip_reasons"),
        ("rationale", "maybe", "rationale"),
    ],
)
def test_bad_settings_are_told_and_what_was_typed_stays(admin, store, project, field, value, says):
    answer = admin.send_form(f"/admin/projects/{project}/settings", **{**PLAIN, field: value, "flag_reasons": "kept"})
    assert answer.status_code == 422
    assert says in alert(answer)
    assert ">kept<" in answer.text
    assert store.project(project).settings == Settings()


@pytest.mark.parametrize(
    ("fields", "content", "says"),
    [
        ({}, jsonl([*ROWS, {"prompt": "p", "responses": 7}]), "rows.jsonl, row 7, column &#39;responses&#39;"),
        ({"name": " "}, jsonl(ROWS), "must have 1 to 200 characters"),
        ({"kind": "quiz"}, jsonl(ROWS), "none of pair, ranking, rating, edit"),
        ({"kind": "rating"}, jsonl(ROWS), "one or more attributes"),
        ({"lines": "also lines"}, jsonl(ROWS), "in one way"),
        ({"checkpoints": "base"}, jsonl(ROWS), "cannot sample"),
        ({"checkpoints": "base"}, b"", "no prompts for them"),
        ({"temperature": "hot"}, jsonl(ROWS), "temperature"),
        ({"overlap": "many"}, jsonl(ROWS), "overlap"),
        ({"lines": "prompts alone\nand more"}, b"", "none of the 2 comes with as many responses"),
    ],
)
def test_a_project_that_cannot_be_made_leaves_nothing(admin, store, fields, content, says):
    form = {**PLAIN, "name": "sums", "kind": "pair", "guideline": "kept as typed"} | fields
    answer = post_files(admin, "/admin/projects", content, **form)
    assert answer.status_code == 422
    assert says in alert(answer)
    assert "kept as typed" in answer.text
    assert store.projects() == []
    with store.reading() as db:
        assert db.execute(responses.select()).all() == []


def test_an_admin_without_projects_is_led_to_making_one(admin, person):
    assert '<a href="/admin/projects/new">' in admin.get("/").text
    assert "/admin" not in person("somebody").get("/").text


def test_a_name_is_taken_whatever_its_letters(admin, store, project):
    answer = post_files(admin, "/admin/projects", jsonl(ROWS), **PLAIN, name="Animals", kind="pair")
    assert "is taken" in alert(answer)
    assert store.progress(project).items == 6


def test_states_guidelines_and_members(admin, store, project, annotator):
    base = f"/admin/projects/{project}"
    assert admin.send_form(f"{base}/state", state="paused").status_code == 303
    assert store.project(project).state == "paused"
    assert admin.send_form(f"{base}/state", state="gone").status_code == 422
    admin.send_form(f"{base}/guideline", text="Prefer the truer answer.")
    admin.send_form(f"{base}/guideline", text="Prefer the truer answer.")  # nothing new
    assert [g.version for g in store.guidelines(project)] == [1, 2]
    assert [event.action for event in store.audit(5)].count("guideline_changed") == 1
    page = admin.get(f"{base}/guideline").text
    assert re.search(r"<del>.*Prefer the kinder answer\.</del>", page)
    assert re.search(r"<ins>.*Prefer the truer answer\.</ins>", page)
    assert admin.send_form(f"{base}/guideline", text="  ").status_code == 422
    admin.send_form(f"{base}/members", person=annotator.user, change="add")
    assert [user.name for user in store.members(project)] == ["ann"]
    admin.send_form(f"{base}/members", person=annotator.user, change="remove")
    assert store.members(project) == []
    assert admin.send_form(f"{base}/members", person="x", change="add").status_code == 404


def test_an_invited_annotator_is_a_member(admin, app, store, project):
    page = admin.send_form(f"/admin/projects/{project}/invite").text
    link = re.search(rf'value="{BASE}(/invite/[\w-]+)"', page)[1]
    person = Browser(app, base_url=BASE)
    person.post(link, data={"name": "bob", "password": "a few unrelated words"})
    assert [(user.name, user.admin) for user in store.members(project)] == [("bob", False)]


def test_people_are_shut_out_let_in_and_forgotten(admin, annotator, store):
    person = f"/admin/people/{annotator.user}"
    assert annotator.get("/password").status_code == 200
    admin.send_form(f"{person}/active", active="no")
    assert annotator.get("/password", follow_redirects=False).status_code == 303
    admin.send_form(f"{person}/active", active="yes")
    assert store.user(annotator.user).active
    admin.send_form(f"{person}/forget")
    assert store.user(annotator.user).name == f"deleted-{annotator.user}"
    assert (store.audit()[0].action, store.audit()[0].user) == ("user_forgotten", admin.user)
    assert admin.send_form(f"/admin/people/{admin.user}/forget").status_code == 422
    assert admin.send_form(f"/admin/people/{admin.user}/active", active="no").status_code == 422
    assert admin.send_form("/admin/people/999/forget").status_code == 404


def test_what_somebody_reported_is_shown_no_more_once_they_are_forgotten(admin, store, project, vote):
    reported = vote("x", 0, flag="Other: it names my sister")
    flags = f"/admin/projects/{project}/flags"
    assert "my sister" in admin.get(flags).text
    admin.send_form(f"/admin/people/{reported.user}/forget")
    assert "my sister" not in admin.get(flags).text


def test_programs_get_tokens(admin, app, store, project):
    page = admin.send_form("/admin/people/program", name="judge", kind="ai").text
    token = re.search(r'value="([\w-]{43})"', page)[1]
    program = Browser(app, base_url=BASE, headers={"authorization": f"Bearer {token}"})
    assert program.get("/api/me").json() == {"name": "judge", "admin": False}
    assert token not in admin.get("/admin/people").text
    assert admin.send_form("/admin/people/program", name="Judge", kind="ai").status_code == 422
    assert admin.send_form("/admin/people/program", name="x", kind="human").status_code == 422
    assert admin.send_form(f"/admin/people/{admin.user}/token").status_code == 422  # a person has a password


def test_an_invited_admin_is_one(admin, app):
    link = re.search(rf'value="{BASE}(/invite/[\w-]+)"', admin.send_form("/admin/people/invite").text)[1]
    second = Browser(app, base_url=BASE)
    second.post(link, data={"name": "second", "password": "a few unrelated words"})
    assert second.get("/admin").status_code == 200


def test_gold_items_are_those_nobody_was_asked(admin, store, project, vote):
    asked = vote("x", 0).item
    other = asked + 1
    page = admin.get(f"/admin/projects/{project}/gold").text
    assert f"/gold/{asked}" not in page
    first, second = re.findall(r'name="rank_(\d+)"', page.partition(f"/gold/{other}")[2])[:2]
    base, ranks = f"/admin/projects/{project}/gold", {f"rank_{first}": "2", f"rank_{second}": "1"}
    assert admin.send_form(f"{base}/{other}", **ranks).status_code == 303
    assert store.gold(project) == {other: {int(first): 1, int(second): 0}}
    assert "1 gold items" in admin.get(base).text
    for item in (asked, other):
        assert "was asked already" in alert(admin.send_form(f"{base}/{item}", **ranks))
    for item in (999, other + 1):  # the latter shows other responses
        assert admin.send_form(f"{base}/{item}", **ranks).status_code == 404
    for form in ({f"rank_{first}": "1"}, {**ranks, f"rank_{first}": "first"}, {**ranks, f"rank_{first}": "0"}):
        assert admin.send_form(f"{base}/{other + 1}", **form).status_code == 422


def test_the_overview_counts_what_was_said(admin, store, project, vote):
    for name, best in (("x", 0), ("y", 0), ("z", 1)):
        vote(name, best, seconds=8.0)
        vote(name, 0, seconds=12.0, flag="Harmful" if name == "z" else None)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", admin.get(f"/admin/projects/{project}").text))
    assert "Items done 2 of 6" in text
    assert "Answers 6 of 18 wanted" in text
    assert "Two annotators say the same 66.7 %" in text  # of six pairs of annotators, two times two disagree
    assert "z 2 0 10 s" in text
    assert "Flags 1" in text
    flags = admin.get(f"/admin/projects/{project}/flags").text
    assert "Harmful" in flags
    assert "secret-model" not in flags


def test_a_dispute_is_decided_blind_and_the_export_follows(admin, store, project, vote):
    judged = [vote(name, best, rationale="because") for name, best in (("x", 0), ("y", 0), ("z", 1))]
    item, base = judged[0].item, f"/admin/projects/{project}"
    assert f"/disputes/{item}" in admin.get(f"{base}/disputes").text
    page = admin.get(f"{base}/disputes/{item}")
    assert "because" in page.text
    assert "secret-model" not in page.text
    first, second = sorted(judged[0].ranking)
    decided = admin.send_form(f"{base}/disputes/{item}", **{f"rank_{first}": "2", f"rank_{second}": "1"})
    assert (decided.status_code, decided.headers["location"]) == (303, f"{base}/disputes")
    assert store.adjudications()[item].ranking == {first: 1, second: 0}
    assert "settled" in admin.get(f"{base}/disputes").text
    (row,) = (json.loads(line) for line in admin.send_form(f"{base}/export", shape="preferences").text.splitlines())
    assert (row["chosen"], row["rejected"]) == ("b c", "aa")
    assert admin.get(f"{base}/disputes/{item + 1}").status_code == 404
    assert admin.send_form(f"{base}/disputes/{item}", **{f"rank_{first}": "x"}).status_code == 422


def test_an_export_is_remembered_with_its_hash(admin, store, project, vote):
    vote("x", 0)
    base = f"/admin/projects/{project}/export"
    answer = admin.send_form(base, shape="judgements", kind=".jsonl")
    assert re.fullmatch(
        r'attachment; filename="animals-judgements-[\d-]+\.jsonl"', answer.headers["content-disposition"]
    )
    assert "x" not in [json.loads(line)["annotator"] for line in answer.text.splitlines()]
    with store.reading() as db:
        row = db.execute(exports.select().order_by(exports.c.id.desc())).first()
    assert (row.sha256, row.user_id) == (hashlib.sha256(answer.content).hexdigest(), admin.user)
    assert row.sha256[:16] in admin.get(base).text
    assert "no judgement" in alert(admin.send_form(base, shape="preferences", people_only="yes"))
    for wrong in ({"kind": ".exe"}, {"shape": "secrets"}, {"min_votes": "-1"}, {"min_votes": "0"}):
        assert admin.send_form(base, **{"shape": "preferences", **wrong}).status_code == 422


def test_a_spreadsheet_runs_nothing_of_an_export(admin, store, project, vote):
    vote("x", 0, rationale='=HYPERLINK("http://evil.example")', flag="@SUM(1)", correction="+1")
    said = admin.send_form(f"/admin/projects/{project}/export", shape="judgements", kind=".csv")
    cells = [cell for row in csv.reader(io.StringIO(said.content.decode("utf-8-sig"))) for cell in row]
    assert '\'=HYPERLINK("http://evil.example")' in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_the_audit_log_says_who_did_what(admin, store, project):
    admin.send_form(f"/admin/projects/{project}/state", state="paused")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", admin.get("/admin/audit").text))
    assert f"root state changed project {project} state paused" in text
    for _ in range(101):
        store.record(None, "made_up")
    older = re.search(r"/admin/audit\?before=\d+", admin.get("/admin/audit").text)[0]
    assert "state changed" in admin.get(older).text


def test_the_pages_are_the_same_on_both_databases(database):
    with Store.open(database) as store:
        accounts, admin = Accounts(store), Browser(create_app(store), base_url=BASE)
        accounts.accept(accounts.invite(admin=True), "root", PASSWORD)
        admin.send_form("/sign-in", name="root", password=PASSWORD)
        rows = [{**row, "ranking": [0, 1], "gold": number == 0} for number, row in enumerate(ROWS)]
        post_files(admin, "/admin/projects", jsonl(rows), **PLAIN, name="sums", kind="pair", guideline="Be right.")
        project, guideline = store.projects()[0].id, store.projects()[0].guideline.id
        for name in ("x", "y"):
            user = store.add_user(name, "simulated")
            for turn in store.claim_many(user, 3, project=project):
                ranking = {r.id: int(("No" in r.text) == (name == "x")) for r in turn.responses}
                store.submit(turn.id, ranking, f"{name}{turn.id}", guideline=guideline, flag="Other", seconds=5.0)
        base = f"/admin/projects/{project}"
        endings = ["prompts", "guideline", "members", "gold", "disputes", "flags", "export", "settings"]
        for ending in ("", *(f"/{name}" for name in endings)):
            assert admin.get(base + ending).status_code == 200, ending
        dispute = store.disputed(project)[0]
        ranks = {f"rank_{r.id}": str(place) for place, r in enumerate(dispute.responses, 1)}
        assert admin.send_form(f"{base}/disputes/{dispute.item}", **ranks).status_code == 303
        assert len(admin.send_form(f"{base}/export", shape="preferences").text.splitlines()) == 1
        assert admin.get("/admin/audit").status_code == admin.get("/admin").status_code == 200
