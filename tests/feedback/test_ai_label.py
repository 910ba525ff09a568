"""Labels from a real server (`transformers serve`) over a line that fails on purpose: none is lost, none is doubled."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tether.config.judge import JudgeConfig
from tether.errors import InputError
from tether.feedback.judges import Flips, JudgeAnnotator, calibrate, flips_in, refuse_uncalibrated
from tether.feedback.label import Report, label_pairs
from tether.feedback.records import NewItem, NewPrompt, NewResponse, Query, VotedPair
from tether.feedback.store import Store
from tether.pipeline.judges import asker
from tether.rewards.journal import Journal
from tether.rewards.judge_server import ServerJudge

PAIRS = 20


def groups(num: int = PAIRS) -> list[dict[str, Any]]:
    """Pairs whose longer answer is the better; every fifth has answers of one length, every fourth a shifty prompt."""
    return [
        {
            "prompt": {"text": f"{'shifty ' if i % 4 == 0 else ''}prompt {i}"},
            "responses": [{"text": "short"}, {"text": "trohs" if i % 5 == 0 else f"very much longer {i}"}],
        }
        for i in range(num)
    ]


def opinion(question: str) -> str:
    """What the line's verdicts say: after a shifty prompt the first side is better, whichever it is."""
    first, second = (re.search(rf"<answer_{side}>\n(.*)\n</answer_{side}>", question)[1] for side in "ab")
    if "shifty" in question:
        return "A"
    return "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


class Server:
    """`transformers serve` as a process of its own, on one port throughout."""

    def __init__(self, model: Path) -> None:
        self.held = socket.socket()  # bound and not listening: nobody else is given the port while the server is away
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.held.bind(("127.0.0.1", 0))
        self.port = int(self.held.getsockname()[1])
        self.model = str(model)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--device", "cpu", self.model]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline:
            try:
                line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                line.request("GET", "/health")
                healthy = line.getresponse().status == 200
                line.close()
                if healthy:
                    return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.1)
        raise AssertionError("the server does not come up")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL


class Line:
    """A proxy in front of the server. A random model writes no JSON, so it writes `opinion` over the server's words."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lock = threading.Lock()
        self.reset()
        line = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                line.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Http(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # no connection is dropped because the threads are late

        self.http = Http(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def reset(self) -> None:
        self.faults: Callable[[str, int], str] = lambda question, times: "none"
        self.asked: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.at: tuple[int, Callable[[], None]] | None = None
        self.given_up = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        question = json.loads(body)["messages"][0]["content"]
        with self.lock:
            self.asked[question] += 1
            fault = self.faults(question, self.asked[question])
            self.happened[fault] += 1
        handler.close_connection = True
        try:
            self.forward(handler, body, question, fault)
        except (OSError, http.client.HTTPException):
            return  # the server has gone: so does the connection, without a word
        if fault == "none":
            with self.lock:
                self.delivered[question] += 1
                if self.at and sum(self.delivered.values()) == self.at[0]:
                    self.at[1]()

    def forward(self, handler: BaseHTTPRequestHandler, body: bytes, question: str, fault: str) -> None:
        if fault == "hang":
            self.given_up.wait(60)
        elif fault == "429":
            send(handler, 429, b"", {"Retry-After": "0.2"})
        elif fault == "500":
            send(handler, 500, b"")
        else:
            upstream = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
            try:
                upstream.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                reply = upstream.getresponse()
                content = json.loads(reply.read())
            finally:
                upstream.close()
            assert reply.status == 200, content
            if fault == "none":
                content["choices"][0]["message"]["content"] = json.dumps({"answer": opinion(question)})
            if fault != "cut":
                send(handler, 200, json.dumps(content).encode())


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture(scope="module")
def real_line(tmp_path_factory) -> Iterator[Line]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tether.data.bpe import train_tokenizer

    folder = tmp_path_factory.mktemp("served") / "llama"
    tokenizer = train_tokenizer(["which answer is better by the standard above"] * 3, 300, folder)
    ids = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("bos", "eos", "pad")}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes, **ids)
        LlamaForCausalLM(config).save_pretrained(folder)
    server = Server(folder)
    server.start()
    line = Line(server)
    yield line
    line.http.shutdown()
    line.http.server_close()
    server.kill()
    server.held.close()


@pytest.fixture
def line(real_line) -> Line:
    real_line.reset()
    return real_line


def label(folder: Path, line_url: str, model: str, **more: Any) -> tuple[Report, Any]:
    """What the `label` stage does with a judge."""
    fields = {"model": model, "url": line_url, "timeout": 60.0, "backoff": 0.02, "max_tokens": 4, **more}
    judge = ServerJudge(JudgeConfig(**fields))
    try:
        journal = Journal(judge, folder / "j.jsonl")
        with Store.open(folder / "s.db") as store:
            annotator = JudgeAnnotator("judge", asker(journal))
            return label_pairs(store, groups(), [annotator], guideline="Prefer long answers.", overlap=1), journal.spent
    finally:
        judge.close()


def check_all_there(folder: Path) -> None:
    """Every item judged once, as both orders together say; every question written down once."""
    with Store.open(folder / "s.db") as store:
        judged, votes = store.judgements(), store.voted_pairs(Query(user_kinds=("ai",)))
    assert len(judged) == len({j.item for j in judged}) == len({j.submit_key for j in judged}) == PAIRS
    verdicts = {vote.prompt: vote.side for vote in votes}
    for i in range(PAIRS):
        shifty, even = i % 4 == 0, i % 5 == 0
        # Alphabetically "short" comes before both "trohs" and "very …".
        assert verdicts[f"{'shifty ' if shifty else ''}prompt {i}"] == (0 if shifty or even else 1)
    assert flips_in(judged) == Flips(PAIRS // 4, PAIRS - 3)  # three even ones are not shifty: 5, 10, 15
    keys = [json.loads(row)["key"] for row in (folder / "j.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 2 * PAIRS


FAULTS = ("429", "500", "cut", "own words", "none", "none", "none", "hang")


def faulty(question: str, times: int) -> str:
    """Each question meets up to two faults of its own, then none."""
    draw = hashlib.sha256(question.encode()).digest()
    return FAULTS[draw[times] % len(FAULTS)] if times <= 2 else "none"


@pytest.mark.slow
def test_429s_500s_hangs_cuts_and_nonsense_lose_nothing_and_double_nothing(line, tmp_path):
    line.faults = faulty
    # Two seconds are for the hangs; where a slow machine takes them for an honest answer, it is asked again.
    report, spent = label(tmp_path, line.url, line.server.model, concurrency=6, timeout=2.0, retries=60)
    line.given_up.set()
    assert (report.votes, report.skips, report.flips.as_dict()["rate"]) == (PAIRS, 0, (PAIRS // 4) / (PAIRS - 3))
    check_all_there(tmp_path)
    assert set(line.happened) == set(FAULTS)
    deadline = time.monotonic() + 60
    while sum(line.asked.values()) < spent.requests and time.monotonic() < deadline:
        time.sleep(0.01)  # a request that was given up may not have been read yet
    assert spent.requests == sum(line.asked.values()) > 2 * PAIRS
    assert spent.questions == 2 * PAIRS
    assert spent.tokens_in > 50 * 2 * PAIRS  # the server's own counts
    before = line.asked.copy()
    again, as_much = label(tmp_path, line.url, line.server.model)
    assert (again.as_dict(), as_much) == (report.as_dict(), spent)
    assert line.asked == before  # all of it was there


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_is_waited_for(line, tmp_path):
    def restart() -> None:
        line.server.kill()
        line.server.start()

    back = threading.Thread(target=restart)
    line.at = (9, back.start)
    report, spent = label(tmp_path, line.url, line.server.model, retries=60, backoff=0.1, concurrency=3)
    back.join()
    assert report.votes == PAIRS
    assert spent.requests > 2 * PAIRS
    check_all_there(tmp_path)


CLIENT = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("labelling", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.label(Path(sys.argv[2]), sys.argv[3], sys.argv[4], concurrency=3)
"""


@pytest.mark.slow
def test_client_and_server_are_killed_and_what_was_answered_is_not_asked_again(line, tmp_path):
    command = [sys.executable, "-c", CLIENT, __file__, str(tmp_path), line.url, line.server.model]
    client = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    line.at = (11, client.kill)
    assert client.wait(timeout=250) == -signal.SIGKILL
    line.at = (25, line.server.kill)
    with pytest.raises(InputError, match=r"no answer in \d requests.*what was answered is kept"):
        label(tmp_path, line.url, line.server.model, retries=1, concurrency=3)
    line.server.start()
    report, _ = label(tmp_path, line.url, line.server.model, concurrency=3)
    assert report.votes == PAIRS
    check_all_there(tmp_path)
    again = sum(line.delivered.values()) - 2 * PAIRS
    assert 0 <= again <= 3  # at most what was on its way to the killed client


def pair(i: int, side: int, user: int = 1) -> VotedPair:
    return VotedPair(f"p{i}", "a", "b", side, user)


def test_calibration_by_hand():
    # Ten pairs in common, nine alike: n = 20 ratings, Σ o_cc = 18, n_c = 9 and 11.
    judge = [pair(i, -1 if i < 5 else 1) for i in range(12)]
    people = [pair(i, -1 if i < 4 else 1, user) for i in range(10) for user in (1, 2, 3)]
    people += [pair(0, 1, 9), pair(99, 1)]  # outvoted; not the judge's
    found = calibrate(judge, people)
    assert (found.pairs, found.agreement.estimate) == (10, 0.9)
    assert found.alpha.estimate == pytest.approx(1 - 19 * 2 / (400 - 81 - 121))
    refuse_uncalibrated(found, 0.8, 10)
    with pytest.raises(InputError, match=r"alpha 0.81 on 10 pairs, and calibration.min_agreement is 0.9; nothing is"):
        refuse_uncalibrated(found, 0.9, 10)
    with pytest.raises(InputError, match=r"have 10 pairs in common, and calibration.min_pairs is 11"):
        refuse_uncalibrated(found, 0.0, 11)
    same = calibrate([pair(i, 1) for i in range(5)], [pair(i, 1) for i in range(5)])
    with pytest.raises(InputError, match="alpha nan"):  # all alike tells nothing
        refuse_uncalibrated(same, 0.0, 2)
    assert calibrate([], []).pairs == 0


def test_rankings_are_calibrated_pair_by_pair_and_drawn_by_the_prompt(tmp_path):
    """Of nine prompts with three answers a person ranks six as the judge does and three the other way round."""
    stores = [Store.open(tmp_path / name) for name in ("judge.db", "people.db")]
    for place, store in enumerate(stores):
        guideline, user = store.add_guideline("g"), store.add_user("x")
        said = [*("b", "a", "c")[:: 1 - 2 * place], *(("b",) if place else ())]  # in another order, and one twice
        asked = store.add_prompts(NewPrompt(f"prompt {i}") for i in range(9))
        for number, prompt in enumerate(asked):
            ids = store.add_responses(NewResponse(prompt, t, checkpoint=str(at)) for at, t in enumerate(said))
            store.add_items([NewItem(ids, overlap=1, kind="ranking")])
            turn = store.claim(user)
            turned = -1 if place and number < 3 else 1
            by_text = {"a": 1, "b": 1 - turned, "c": 1 + turned}
            ranks = {r.id: by_text[r.text] for r in turn.responses}
            store.submit(turn.id, ranks, f"{number}", guideline=guideline)
    votes = [store.voted_pairs() for store in stores]
    for store in stores:
        store.close()
    first = {(v.first, v.second): v.side for v in votes[0] if v.prompt == "prompt 0"}
    assert first == {("a", "b"): 1, ("a", "c"): -1, ("b", "c"): -1}
    assert [len(found) for found in votes] == [9 * 3, 9 * 5]  # of b and b nothing is said
    found = calibrate(*votes)
    assert (found.pairs, found.agreement.estimate) == (27, pytest.approx(2 / 3))
    # A prompt agrees in all its pairs or in none, so it is nine draws, not 27: P(X ≤ 2) = .008, P(X ≤ 3) = .042.
    assert found.agreement.low == pytest.approx(3 / 9)


def test_a_tie_among_people_is_a_verdict_too():
    found = calibrate([pair(0, 0), pair(1, 1)], [pair(0, 1, 1), pair(0, -1, 2), pair(1, 1)])
    assert (found.pairs, found.agreement.estimate) == (2, 1.0)


Said = Callable[[str, str], "tuple[float, float] | str"]


def judged(said: Said, folder: Path, data: list[dict[str, Any]], guideline: Any = "g") -> tuple[Any, ...]:
    """The report and judgements of a judge with these opinions, the votes as pairs, and what the judge was shown."""
    seen: list[tuple[str, Any]] = []

    def ask(pairs):
        seen.extend((guideline, messages) for guideline, messages, _, _ in pairs)
        return [said(a, b) for _, _, a, b in pairs]

    with Store.open(folder / "s.db") as store:
        report = label_pairs(store, data, [JudgeAnnotator("j", ask)], guideline=guideline, overlap=1)
        return report, store.judgements(), store.voted_pairs(), seen


@pytest.mark.parametrize(
    ("leans", "side", "strength"),
    [
        ((0.9, 0.9), -1, 3.0),
        ((0.95, 0.5), -1, 2.0),
        ((0.6, 0.6), -1, 1.0),
        ((0.9, 0.1), 0, 0.0),
        ((0.52, 0.53), 0, 0.0),
    ],
)
def test_both_orders_make_one_verdict(tmp_path, leans, side, strength):
    def said(a: str, b: str) -> tuple[float, float]:  # `leans` are from the side of "aa"
        return leans if a == "aa" else tuple(1 - p for p in leans)

    data = [{"prompt": {"text": f"p{i}"}, "responses": [{"text": "aa"}, {"text": "bb"}]} for i in range(6)]
    report, judgements, votes, _ = judged(said, tmp_path, data)
    assert [vote.side for vote in votes] == [side] * 6
    assert {j.strength for j in judgements} == {strength}
    flipped = (leans[0] - 0.5) * (leans[1] - 0.5) < 0
    assert report.flips == Flips(6 * flipped, 6 * (0.5 not in leans))


def test_more_than_two_are_ranked_and_no_verdict_is_a_skip(tmp_path):
    data = [{"prompt": {"text": "p"}, "responses": [{"text": t} for t in ("1", "2", "3")]}]
    data += [{"prompt": {"text": "q"}, "responses": [{"text": t} for t in ("1", "x")]}]

    def said(a: str, b: str) -> tuple[float, float] | str:
        return "HTTP 400: no" if "x" in a + b else (float(a > b), float(a > b))

    report, (ranked, skipped), _, _ = judged(said, tmp_path, data)
    assert [ranked.ranking[r] for r in sorted(ranked.shown)] == [2, 1, 0]
    assert (skipped.action, skipped.skip) == ("skip", "HTTP 400: no")
    assert (report.votes, report.skips, report.flips) == (1, 1, Flips(0, 3))


def test_each_item_draws_a_principle_and_its_judgement_names_it(tmp_path):
    data = groups(40)
    data[0]["prompt"]["messages"] = [{"role": "system", "content": "be"}, {"role": "user", "content": "hm"}]
    principles = ["Prefer the kinder.", "Prefer the shorter.", "Prefer the truer."]
    report, judgements, _, seen = judged(lambda a, b: (1.0, 1.0), tmp_path, data, principles)
    assert report.votes == 40
    assert [j.guideline for j in judgements] == [principles.index(guideline) + 1 for guideline, _ in seen]
    assert min(Counter(j.guideline for j in judgements).values()) >= 5
    assert list(seen[0][1]) == data[0]["prompt"]["messages"]
    assert list(seen[1][1]) == [{"role": "user", "content": "prompt 1"}]
    (tmp_path / "again").mkdir()
    again = judged(lambda a, b: (1.0, 1.0), tmp_path / "again", data, principles)[1]
    assert [j.guideline for j in again] == [j.guideline for j in judgements]
