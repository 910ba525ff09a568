"""A crowd of annotator processes against one `tether annotate` server that is killed again and again.

    python benchmarks/annotate.py                                    # SQLite, in a temporary folder
    python benchmarks/annotate.py --store postgresql://localhost/crowd --kills 5

Some annotators crash after claiming (another process takes over, half the time as another user), some send answers
twice, some answer only when their lease has ended. Each process writes what it was told is stored to a file of its own.
At the end the database is read with plain SQL: nothing acknowledged may be lost, no item may have more answers than
its overlap or two by one user, and all must be done. Prints rates, and latencies as the annotators saw them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from tether.errors import InputError
from tether.feedback.annotators import Rater
from tether.feedback.client import Client
from tether.feedback.simulate import Call, Habits, annotate

SPARE = 1.5  # users for each process: a crashed one's work may be taken up by somebody else


class Worker(NamedTuple):
    """One annotator process."""

    process: BaseProcess
    user: int


class Away(NamedTuple):
    """When the server was killed, and when it answered again; seconds since 1970."""

    killed: float
    back: float


def fill(where: str, items: int, overlap: int, users: int, lease: float) -> tuple[int, list[str]]:
    """A project with `items` pairs; its id, and a token for each user."""
    from tether.feedback.accounts import Accounts
    from tether.feedback.projects import Settings
    from tether.feedback.records import NewItem, NewPrompt, NewResponse
    from tether.feedback.store import Store

    with Store.open(where) as store:
        project = store.add_project("crowd", "pair", Settings(overlap=overlap, lease=lease))
        store.add_guideline("Prefer the larger number.", project)
        prompts = store.add_prompts([NewPrompt(f"Say a number, for the {i}th time.") for i in range(items)])
        rng = random.Random(0)
        said = [NewResponse(p, f"{n} of a hundred") for p in prompts for n in rng.sample(range(100), 2)]
        ids = store.add_responses(said)
        store.add_items([NewItem(ids[2 * i : 2 * i + 2], overlap, project=project) for i in range(items)])
        accounts = Accounts(store)
        members = [store.add_user(f"annotator {i}", "simulated") for i in range(users)]
        for user in members:
            store.add_member(project, user)
        return project, [accounts.token_for(user) for user in members]


class Server:
    """The server's process; killed and started again on the same port."""

    def __init__(self, where: str, log: Path, profile: str | None = None) -> None:
        self._held = socket.socket()  # bound and not listening: nobody else is given the port between two starts
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = int(self._held.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else [])]
        script = str(Path(sys.executable).with_name("tether"))
        self._command = [*command, script, "annotate", where, "--port", str(self.port)]
        self._log = log
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        while True:
            try:
                with Client(self.url, patience=0.0, timeout=1.0) as client:
                    client.me()
            except InputError as error:
                if "HTTP 401" in str(error):
                    return
            if self._process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.02)

    def kill(self) -> Away:
        """SIGKILL, and a new start."""
        began = time.time()
        self._process.kill()
        self._process.wait()
        self.start()
        return Away(began, time.time())

    def stop(self) -> None:
        """As an operator stops it."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        self._held.close()

    def cpu_seconds(self) -> float:
        """Of the process that runs now."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work(url: str, project: int, token: str, user: int, life: int, habits: Habits, log: Path, done: Any) -> None:
    """One annotator's process: ends with 0 when there is nothing left to do, dies by SIGKILL when it crashes."""
    rater = Rater(f"annotator {user}", lambda text: int(text.split()[0]) / 50, noise=0.2)
    last = None
    with log.open("a", buffering=1) as file:

        def told(call: Call) -> None:
            nonlocal last
            file.write(f"{call.what} {call.began:.6f} {call.seconds:.6f} {call.retries} {call.submit_key}\n")
            if call.submit_key not in (None, last):
                last = call.submit_key
                done[user] += 1

        with Client(url, token, seed=user) as client:
            outcome = annotate(client, project, rater, habits=habits, life=life, told=told)
    if outcome.crashed:
        os.kill(os.getpid(), signal.SIGKILL)


class Crowd:
    """The processes at work, one slot each."""

    def __init__(self, url: str, project: int, tokens: list[str], habits: Habits, folder: Path) -> None:
        self._fork = multiprocessing.get_context("fork")  # from a parent that has everything loaded
        self._of = (url, project)
        self._tokens, self._habits, self._folder = tokens, habits, folder
        self.done = self._fork.RawArray("q", len(tokens))  # answers acknowledged, for each user
        self._lives: Counter[int] = Counter()
        self._chance = random.Random(1)
        self._workers: list[Worker] = []
        self.crashes = 0

    def start(self, user: int | None = None) -> None:
        """A process for this user, or for one who is away."""
        away = sorted(set(range(len(self._tokens))) - {worker.user for worker in self._workers})
        user = self._chance.choice(away) if user is None else user
        log, life = self._folder / f"{user}.log", self._lives[user]
        of = (*self._of, self._tokens[user], user, life, self._habits, log, self.done)
        process = self._fork.Process(target=work, args=of)
        process.start()
        self._lives[user] += 1
        self._workers.append(Worker(process, user))

    def replace_ended(self, where: str, wanted: int) -> None:
        """Clears away who has ended and, while there is more to do, starts as many anew."""
        ended = [worker for worker in self._workers if not worker.process.is_alive()]
        for worker in ended:
            self._workers.remove(worker)
            code = worker.process.exitcode
            assert code in (0, -signal.SIGKILL), f"annotator {worker.user} ended with {code}"
            self.crashes += code != 0
        # Few answers are stored and never acknowledged, so the database need only be asked in the end.
        more = ended and (sum(self.done) < 0.98 * wanted or remaining(where) > 0)
        for worker in ended if more else ():
            self.start(worker.user if self._chance.random() < 0.5 else None)

    def __len__(self) -> int:
        return len(self._workers)


def remaining(where: str) -> int:
    """Items that want more answers."""
    from sqlalchemy import text

    from tether.feedback.connect import connect

    engine = connect(where)
    with engine.connect() as db:
        left = db.execute(text("SELECT count(*) FROM items WHERE done < overlap")).scalar_one()
    engine.dispose()
    return int(left)


def check(where: str, items: int, overlap: int, acknowledged: set[str]) -> None:
    """AssertionError unless everything promised is true of the database."""
    from sqlalchemy import text

    from tether.feedback.connect import connect

    engine = connect(where)
    with engine.connect() as db:
        stored = db.execute(text("SELECT id, submit_key, item_id, user_id, action FROM judgements")).all()
        done = [row.done for row in db.execute(text("SELECT done FROM items"))]
        held = Counter(tuple(row) for row in db.execute(text("SELECT item_id, user_id FROM assignments")))
        if engine.dialect.name == "sqlite":
            assert db.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    engine.dispose()
    # The server puts the user before the key.
    assert acknowledged <= {row.submit_key.rpartition(".")[2] for row in stored}, "an acknowledged answer is lost"
    assert {row.action for row in stored} == {"rank"}
    per_item = Counter(row.item_id for row in stored)
    assert done == [overlap] * items, "an item is not done"
    assert set(per_item.values()) == {overlap}, "an item has another number of answers than its overlap"
    assert len({(row.item_id, row.user_id) for row in stored}) == len(stored), "two answers by one user"
    assert max(held.values()) == 1, "an item was given to a user twice"
    assert sorted(row.id for row in stored) == list(range(1, items * overlap + 1))


def calls(folder: Path) -> Iterator[Call]:
    """What the annotators wrote down; a line that a killed process left unfinished is not there."""
    for log in folder.glob("*.log"):
        for line in log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                what, began, seconds, retries, key = line.split()
                yield Call(what, float(began), float(seconds), int(retries), None if key == "None" else key)


def summary(heard: list[Call], away: list[Away], began: float, ended: float) -> dict[str, Any]:
    """Rates and latencies; `steady` leaves out the time the server was away, and calls that had to be sent again."""
    answers = {call.submit_key: call.began + call.seconds for call in reversed(heard) if call.what == "answer"}
    lost = sum(one.back - one.killed for one in away)
    up = sum(not any(one.killed <= at <= one.back for one in away) for at in answers.values())
    told: dict[str, Any] = {
        "judgements_per_second": len(answers) / (ended - began),
        "judgements_per_second_steady": up / (ended - began - lost),
        "seconds": ended - began,
        "seconds_away": lost,
        "sent_again": sum(call.retries for call in heard),
    }
    for what in ("claim", "answer"):
        took = sorted(call.seconds for call in heard if call.what == what)
        steady = sorted(call.seconds for call in heard if call.what == what and not call.retries)
        for name, values in (("", took), ("_steady", steady)):
            for share in (50, 99):
                told[f"{what}_p{share}_ms{name}"] = 1000 * values[min(len(values) - 1, len(values) * share // 100)]
    return told


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole of it, in an empty folder."""
    where = given.store or str(folder / "crowd.sqlite")
    users = max(given.annotators + 1, int(SPARE * given.annotators))
    project, tokens = fill(where, given.items, given.overlap, users, given.lease)
    habits = Habits(batch=given.batch, crash=given.crash, twice=given.twice, late=given.late, linger=0.5)
    server = Server(where, folder / "server.txt", given.profile)
    crowd = Crowd(server.url, project, tokens, habits, folder)
    wanted, away, began = given.items * given.overlap, [], time.time()
    for _ in range(given.annotators):
        crowd.start()
    while crowd:
        time.sleep(0.02)
        if len(away) < given.kills and sum(crowd.done) > (len(away) + 1) * wanted / (given.kills + 1):
            away.append(server.kill())
        crowd.replace_ended(where, wanted)
    ended, cpu = time.time(), server.cpu_seconds()
    server.stop()
    heard = list(calls(folder))
    keys = {call.submit_key for call in heard if call.what == "answer" and call.submit_key}
    check(where, given.items, given.overlap, keys)
    answers = sum(call.what == "answer" for call in heard)
    return {
        "acknowledged": len(keys),
        "sent_twice": answers - len(keys),
        "crashes": crowd.crashes,
        "kills": len(away),
        "server_cpu_seconds_since_last_start": cpu,
        **summary(heard, away, began, ended),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", help="postgresql://… of an empty database; default: a temporary SQLite file")
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--annotators", type=int, default=24)
    parser.add_argument("--batch", type=int, default=1, help="tasks claimed at a time")
    parser.add_argument("--crash", type=float, default=0.1)
    parser.add_argument("--twice", type=float, default=0.2)
    parser.add_argument("--late", type=float, default=0.01)
    parser.add_argument("--lease", type=float, default=5.0)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--profile", help="run the server under cProfile and write this file (with --kills 0)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = run(given, Path(folder))
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in told.items()}))


if __name__ == "__main__":
    main()
