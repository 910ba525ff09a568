"""Simulated annotators as users over real HTTP: nothing is lost when things die, and faulty annotators are found."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from tether.errors import InputError
from tether.feedback.accounts import Accounts
from tether.feedback.annotators import Rater
from tether.feedback.client import Client
from tether.feedback.projects import Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.simulate import Call, Habits, Outcome, annotate
from tether.feedback.store import Store
from tether.feedback.web.app import create_app
from tether.feedback.web.figures import figures

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "annotate.py"
WORDS = "word " * 200


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Store]:
    """A store whose clock goes on."""
    with Store.open(tmp_path / "crowd.sqlite") as store:
        yield store


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """The app on a socket; its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(store), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def ask(store: Store, num: int, gold: int = 0, shown: int = 2, settings: Settings | None = None) -> int:
    """A project of `num` items, and `gold` more whose answer is known: larger numbers are better, lengths vary."""
    rng = random.Random(0)
    project = store.add_project("numbers", "pair" if shown == 2 else "ranking", settings)
    store.add_guideline("Larger is better.", project)
    prompts = store.add_prompts([NewPrompt(f"A number, for the {i}th time?") for i in range(num + gold)])
    for at, prompt in enumerate(prompts):
        numbers = rng.sample(range(0, 100, 10), shown)
        texts = [f"{n} {WORDS[: 5 * rng.randint(5, 80)]}" for n in numbers]
        ids = store.add_responses([NewResponse(prompt, text) for text in texts])
        ranks = {r: sorted(numbers, reverse=True).index(n) for r, n in zip(ids, numbers, strict=True)}
        overlap = settings.overlap if settings else 1
        store.add_items([NewItem(ids, overlap, project=project, gold=ranks if at >= num else None)])
    return project


def joined(store: Store, project: int, name: str) -> tuple[int, str]:
    """A simulated member of the project, and a token for them."""
    user = store.add_user(name, "simulated")
    store.add_member(project, user)
    return user, Accounts(store).token_for(user)


def number(text: str) -> float:
    return int(text.split()[0]) / 50


@pytest.mark.slow
def test_nothing_is_lost_when_annotators_and_server_die(database: str) -> None:
    """The benchmark, small; it checks the database itself and fails when a promise is broken."""
    sizes = ["--items", "50", "--overlap", "2", "--annotators", "4", "--kills", "1", "--lease", "1", "--late", "0.05"]
    command = [sys.executable, str(SCRIPT), "--store", database, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["kills"] == 1
    assert told["crashes"] > 0
    assert told["sent_twice"] > 0
    assert 0 < told["acknowledged"] <= 100  # an answer may be stored, and the server killed before it says so


@pytest.mark.slow
def test_the_dashboard_finds_the_faulty_ones(lasting: Store) -> None:
    store = lasting
    project = ask(store, 120, gold=20, settings=Settings(overlap=6, gold_share=0.2))
    attentive = Habits(batch=5, speed=4.0)
    crowd = {
        **{name: (Rater(name, number, noise=0.1), attentive) for name in ("ann", "bob", "cem")},
        "first": (Rater("first", number, noise=0.1, first=0.6), attentive),
        "long": (Rater("long", number, noise=0.1, length=0.6), attentive),
        "spam": (Rater("spam", number, spam=1.0), Habits(batch=5, speed=100.0)),
    }
    ids = {}
    with serving(store) as url:
        for name, (rater, habits) in crowd.items():
            ids[name], token = joined(store, project, name)
            with Client(url, token) as client:
                assert annotate(client, project, rater, habits=habits) == Outcome(140, 0, 0, crashed=False)
    with store.reading() as db:
        rows = figures(db, project, store.now()).quality
    of = {name: rows[user] for name, user in ids.items()}
    assert {name: row.flags for name, row in of.items()} == {
        "ann": (),
        "bob": (),
        "cem": (),
        "first": ("position",),
        "long": ("length",),
        "spam": ("agreement", "gold"),
    }
    assert of["first"].position.share == pytest.approx(0.8, abs=0.1)  # 0.6 + 0.4 / 2
    assert of["spam"].position.share == pytest.approx(0.5, abs=0.1)
    assert of["spam"].agreement == pytest.approx(0.5, abs=0.1)
    assert {name: row.fast for name, row in of.items()} == dict.fromkeys(crowd, 0.0) | {"spam": 1.0}
    assert min(of[name].gold.estimate for name in ("ann", "bob", "cem")) >= 0.9


def test_rankings_come_back_as_given_and_answers_are_the_seeds(lasting: Store) -> None:
    store = lasting
    project = ask(store, 3, shown=4, settings=Settings(overlap=2, strength=False))
    with serving(store) as url:
        for name in ("one", "two"):
            _, token = joined(store, project, name)
            with Client(url, token) as client:
                annotate(client, project, Rater("same", number, tie=0.0), seed=1)
    texts = {}
    for past in (p for user in store.users() for p in store.mine(user.id, project)):
        texts |= {shown.id: shown.text for shown in past.responses}
    judged = store.judgements()
    assert len(judged) == 6
    for j in judged:
        assert sorted(j.ranking, key=j.ranking.__getitem__) == sorted(j.ranking, key=lambda r: -number(texts[r]))


def test_a_crash_leaves_the_task_to_the_next_start_and_a_late_answer_counts_where_there_is_room(
    lasting: Store,
) -> None:
    store = lasting
    project = ask(store, 4, settings=Settings(overlap=1, lease=0.3))
    _, token = joined(store, project, "me")
    rater, heard = Rater("me", number), list[Call]()
    with serving(store) as url, Client(url, token) as client:
        crashed = annotate(client, project, rater, habits=Habits(crash=1.0), told=heard.append)
        late = annotate(client, project, rater, habits=Habits(twice=1.0, late=1.0), life=1, told=heard.append)
    assert crashed == Outcome(0, 0, 0, crashed=True)
    assert late == Outcome(4, 0, 0, crashed=False)
    assert [call.what for call in heard] == ["claim", *["claim", "answer", "answer"] * 4, "claim"]
    keys = [call.submit_key for call in heard if call.submit_key]
    assert keys == [key for key in dict.fromkeys(keys) for _ in range(2)]
    assert [j.revision for j in store.judgements()] == [0] * 4


def test_what_simulated_annotators_cannot_do_is_said(lasting: Store) -> None:
    project = lasting.add_project("edits", "edit")
    response = lasting.add_responses([NewResponse(lasting.add_prompts([NewPrompt("p")])[0], "a")])
    lasting.add_items([NewItem(response, kind="edit", project=project)])
    _, token = joined(lasting, project, "me")
    with (
        serving(lasting) as url,
        Client(url, token) as client,
        pytest.raises(InputError, match=r"project \d: simulated annotators judge pairs and rankings, not kind edit"),
    ):
        annotate(client, project, Rater("me", number))
