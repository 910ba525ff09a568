"""Blinding: nothing the server sends an annotator tells gold items, checkpoints, or what others do and say.

Ann and Bob work on one project in turn. Some items are gold, added after the others, and two checkpoints wrote the
responses. The test knows from the store which of Ann's tasks are gold, and compares everything she was sent.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from tether.feedback.accounts import Accounts
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.schema import assignments, items, judgements, prompts, responses
from tether.feedback.store import Store
from tether.feedback.web.app import create_app
from tether.feedback.web.security import csrf_token

SECRETS = (
    "sft-of-may",
    "ppo-of-june",
    "bob",
    "what bob thinks",
    "uncertain-arm",
    "0.7125",
    "gold",
    "overlap",
    "checkpoint",
)
SETTINGS = Settings(
    gold_share=0.4, repeat_share=0.2, overlap=2, attributes=(Attribute(name="Helpful"),), correction=True
)
NUM = 24


def words(chance: random.Random) -> str:
    return " ".join("".join(chance.choices("abcdefghij", k=6)) for _ in range(8))


def add_pairs(store: Store) -> int:
    """A project of ordinary pairs, then half as many gold ones, of texts drawn alike."""
    chance = random.Random(5)
    # Another project comes first: the ids of items, responses and prompts do not start at 1.
    (before,) = store.add_prompts([NewPrompt("before")])
    store.add_items([NewItem(store.add_responses(NewResponse(before, f"before {n}") for n in range(7)))])
    made = store.add_project("Which is better", settings=SETTINGS)
    for n in range(NUM + NUM // 2):
        (prompt,) = store.add_prompts([NewPrompt(words(chance), meta={"split": "uncertain-arm"})])
        pair = store.add_responses(
            NewResponse(prompt, words(chance), checkpoint=name, sampling={"temperature": 0.7125})
            for name in ("sft-of-may", "ppo-of-june")
        )
        about: dict[str, Any] = {"selection": {"arm": "uncertain-arm"}}
        if n >= NUM:
            about = {"gold": {pair[0]: 0, pair[1]: 1}}
        store.add_items([NewItem(pair, 2, "pair", made, **about)])
    store.add_guideline("Prefer the better one.", made)
    return made


@dataclass
class Work:
    """Everything the server sent Ann, and what she must not know."""

    store: Store
    tasks: list[dict[str, str]] = field(default_factory=list)
    """Per task: what was sent, by the kind of request, headers included."""
    other: list[str] = field(default_factory=list)
    gold: list[bool] = field(default_factory=list)
    """Whether each task is gold."""

    def everything(self) -> Iterator[str]:
        for task in self.tasks:
            yield from task.values()
        yield from self.other


def whole(answer: Any) -> str:
    return "\n".join(f"{name}: {value}" for name, value in answer.headers.items()) + "\n\n" + str(answer.text)


def one_task(ann: TestClient, project: int, number: int) -> dict[str, str] | None:
    """Ann claims, looks, errs, answers, and tries again; None when there is nothing to do."""
    claim = ann.post(f"/api/projects/{project}/claim", json={"limit": 2})
    tasks = claim.json()["tasks"]
    assert [task["assignment"] for task in tasks] == [number, number + 1][: len(tasks)]
    if not tasks:
        return None
    said = {"submit_key": "k", "guideline_version": "1", "choice": "A"}
    form = f"/api/tasks/{number}"
    return {
        "json": json.dumps(tasks[0]),
        "headers": "\n".join(f"{k}: {v}" for k, v in claim.headers.items() if k != "content-length"),
        "page": whole(ann.get(f"/projects/{project}/task")),
        "part": whole(ann.get(f"/api/projects/{project}/task?task={number}")),
        "heartbeat": whole(ann.post(f"/api/assignments/{number}/heartbeat")),
        "wrong": whole(ann.post(form, data={**said, "rate_A_0": "9", "rate_B_0": "1"})),
        "strange": whole(ann.post(form, data={**said, "guideline_version": "9"})),
        "early": whole(ann.post(f"/api/assignments/{number}/undo", json={"submit_key": "u"})),
        "receipt": whole(ann.post(form, data={**said, "submit_key": f"k{number + 100}"})),
        "again": whole(ann.post(form, data={**said, "submit_key": "new"})),
        "late": whole(ann.post(f"/api/assignments/{number}/heartbeat")),
    }


@pytest.fixture(scope="module")
def work(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """Ann works through the project by pages and by the API, while Bob answers now more, now fewer in between."""
    # The store's secret decides the order of tasks and sides: of one drawn anew, one in hundreds leans to a side.
    path = shutil.copy(migrated_file, tmp_path_factory.mktemp("blind") / "preferences.sqlite")
    with Store.open(path, clock=lambda: 1_800_000_000.0) as store:
        project, chance, done = add_pairs(store), random.Random(1), Work(store)
        ann, bob = store.add_user("ann"), store.add_user("bob")
        for user in (ann, bob):
            store.add_member(project, user)
            store.acknowledge(user, project, store.guidelines(project)[-1].id)
        guideline = store.guidelines(project)[-1].id
        token = Accounts(store).token_for(ann)
        with TestClient(create_app(store), base_url="http://localhost", cookies={"tether_session": token}) as client:
            client.headers["x-csrf-token"] = csrf_token(token)
            while True:
                for held in store.claim_many(bob, chance.randrange(4), project=project):
                    ranking = {r.id: place for place, r in enumerate(held.responses)}
                    store.submit(held.id, ranking, f"b.{held.id}", guideline=guideline, rationale="what bob thinks")
                task = one_task(client, project, len(done.tasks) + 1)
                if task is None:
                    break
                done.tasks.append(task)
            for path_ in ("/", f"/projects/{project}/history", f"/projects/{project}/guideline", "/api/projects"):
                done.other.append(whole(client.get(path_)))
            done.other.append(whole(client.get(f"/api/projects/{project}/history?limit=100")))
        with store.reading() as db:
            query = select(items.c.gold, assignments.c.role).join_from(assignments, items)
            rows = db.execute(query.where(assignments.c.user_id == ann).order_by(assignments.c.id)).all()
            done.gold = [row.gold is not None for row in rows]
            assert "repeat" in {row.role for row in rows}  # they are sent as all others are
        yield done


def without_texts(text: str, number: int) -> str:
    """What is left when the words of the texts, the task's own number and random keys are taken out."""
    text = re.sub(r"\b[a-j]{6}\b", "word", text)
    text = re.sub(r'name=\\?"(submit_key|csrf)\\?" value=\\?"[\w-]+\\?"', "", text)
    text = re.sub(r"content-length: \d+", "", text)
    before = r'value=\\?"|data-assignment=\\?"|class=\\?"number\\?">|[Tt]ask |assignment": ?'
    return re.sub(rf"({before}){number}\b", r"\1n", text)


def test_gold_and_ordinary_tasks_are_sent_alike(work: Work) -> None:
    """But for the texts and the number, what is sent about any two tasks is the same, letter by letter."""
    assert len(work.gold) == len(work.tasks)
    assert min(sum(work.gold), len(work.gold) - sum(work.gold)) > 8
    for kind in work.tasks[0]:
        # Below 10, a task's number is also a value of a scale.
        left = {without_texts(task[kind], number) for number, task in enumerate(work.tasks, 1) if number >= 10}
        assert len(left) == 1, kind


def test_lengths_tell_nothing_of_gold(work: Work) -> None:
    """All texts have the same length here, and so has everything sent."""
    for kind in work.tasks[0]:
        sizes = {len(task[kind]) for number, task in enumerate(work.tasks, 1) if number >= 10}
        assert len(sizes) == 1, kind


def test_no_secret_is_sent(work: Work) -> None:
    with work.store.reading() as db:
        keys = [key for table in (items, responses, prompts) for key in db.execute(select(table.c.key)).scalars()]
        keys += list(db.execute(select(judgements.c.submit_key)).scalars())
    for text in work.everything():
        for secret in SECRETS:
            assert not re.search(rf"\b{re.escape(secret)}\b", text.lower()), secret
        assert not any(key[:12] in text for key in keys)


def test_errors_name_the_annotators_own_number_and_no_id_of_the_store(work: Work) -> None:
    for number, task in enumerate(work.tasks, 1):
        for kind in ("wrong", "strange", "early", "again", "late"):
            said = json.loads(task[kind].split("\n\n", 1)[1])["error"]
            assert said.startswith(f"task {number}: "), said
            assert set(re.findall(r"\d+", said)) <= {str(number), "9", "1", "7"}, said


def test_order_and_sides_tell_nothing_of_gold_or_checkpoint(work: Work) -> None:
    """Gold stands anywhere among the tasks, and each checkpoint about as often left as right."""
    runs = sum(one != two for one, two in zip(work.gold, work.gold[1:], strict=False))
    assert runs > 8
    with work.store.reading() as db:
        wrote = dict(db.execute(select(responses.c.id, responses.c.checkpoint)).all())  # type: ignore[arg-type]
        shown = db.execute(select(assignments.c.shown)).scalars()
        left = [wrote[of_one[0]] == "sft-of-may" for of_one in shown]
    assert 0.3 < sum(left) / len(left) < 0.7
