"""Judges: in process against transformers itself, behind a server that misbehaves, and what is written down."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tether.config.judge import JudgeConfig
from tether.data.bpe import train_tokenizer
from tether.data.template import Template
from tether.errors import InputError
from tether.models.load import load_policy
from tether.rewards.journal import Journal, Spent
from tether.rewards.judge import Choice, Comparison, JudgeScorer, ModelJudge, both_ways, grade
from tether.rewards.judge_server import Pace, ServerJudge, retry_after
from tether.types import Group, Prompt, Response

USER = ({"role": "user", "content": "How are you?"},)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = train_tokenizer(["hello there how are you today I am fine A B C 1 2 3 10"] * 3, 300, folder)
    ids = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("bos", "eos", "pad")}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        **sizes,
        **ids,
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=900,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_judge(folder) -> ModelJudge:
    role = load_policy(str(folder), device="cpu").requires_grad_(False)
    return ModelJudge(role, Template.load(folder), "tiny", token_budget=1200)


def choices(judge, questions, options) -> list[Choice]:
    said = dict(judge.choose(questions, options))
    assert sorted(said) == list(range(len(questions)))
    return [said[i] for i in range(len(questions))]


@pytest.mark.parametrize("options", [("A", "B", "C"), tuple(str(n) for n in range(1, 11))])
def test_the_model_judge_is_transformers_own_probability_of_each_option(folder, model_judge, options):
    hf = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = model_judge.template.tokenizer
    questions = [f"question {i} " + "are you fine " * i for i in range(3)]
    for question, choice in zip(questions, choices(model_judge, questions, options), strict=True):
        asked = f"{question} Answer with one of {', '.join(options)} alone."
        said = [{"role": "user", "content": asked}]
        before = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        totals = []
        for option in options:
            after = tokenizer.encode(option, add_special_tokens=False)
            after += [tokenizer.eos_token_id] * ("10" in options)  # or "1" would also count what begins "10"
            with torch.no_grad():
                logprobs = hf(torch.tensor([before + after])).logits[0].log_softmax(-1)
            totals.append(sum(logprobs[len(before) - 1 + i, token].item() for i, token in enumerate(after)))
        torch.testing.assert_close(torch.tensor(choice.probs), torch.tensor(totals).softmax(0), atol=1e-5, rtol=0)
        assert choice.tokens_in == len(before)


def test_the_model_judge_reads_plain_text_without_a_template(folder, model_judge):
    tokenizer = Template.load(folder).tokenizer
    tokenizer.chat_template = None
    plain = ModelJudge(model_judge.role, Template.of(tokenizer, str(folder)), "plain")
    (choice,) = choices(plain, ["hello"], ("A", "B", "C"))
    assert sum(choice.probs) == pytest.approx(1)


def test_what_does_not_fit_the_context_has_no_verdict_and_the_rest_has(model_judge):
    said = choices(model_judge, ["hello", "hello " * 2000, "fine"], ("A", "B", "C"))
    assert [choice.probs is None for choice in said] == [False, True, False]
    assert "exceed the judge's context of 900" in said[1].problem
    assert said[2] == choices(model_judge, ["fine"], ("A", "B", "C"))[0]


def test_both_ways_cancels_a_liking_for_a_side(model_judge):
    pairs = [("hello", "fine"), ("how are you", "I am"), ("there", "today")]
    there = both_ways(model_judge, [Comparison("Prefer the kinder.", USER, a, b) for a, b in pairs])
    back = both_ways(model_judge, [Comparison("Prefer the kinder.", USER, b, a) for a, b in pairs])
    for (shown, swapped), (other_shown, other_swapped) in zip(there, back, strict=True):
        assert shown + swapped + other_shown + other_swapped == pytest.approx(2, abs=1e-5)
        assert shown == pytest.approx(1 - other_swapped, abs=1e-5)
        assert abs(shown - swapped) > 1e-4  # a random model does like a side


class Table:
    """A judge whose opinions are written down: A in a comparison with this chance, or these chances of the grades."""

    name = "table"

    def __init__(self, opinion: Callable[[str], tuple[float, ...] | None]) -> None:
        self.opinion = opinion
        self.asked: list[str] = []

    def choose(self, questions, options) -> Iterator[tuple[int, Choice]]:
        for i in reversed(range(len(questions))):  # any order will do
            self.asked.append(questions[i])
            probs = self.opinion(questions[i])
            yield i, Choice(probs, None if probs else "it shrugs", tokens_in=10, tokens_out=1)


def group(*texts: str) -> Group:
    return Group(Prompt((1,), (), "Hi"), tuple(Response((2,), text) for text in texts))


def prefers_the_lovely_one(question: str) -> tuple[float, ...]:
    first, second = question.index("<answer_a>"), question.index("<answer_b>")
    lovely = question.index("lovely") if "lovely" in question else None
    if lovely is None:
        return (0.6, 0.2, 0.2)  # likes the first side
    return (0.9, 0.1, 0.0) if first < lovely < second else (0.3, 0.7, 0.0)


def test_comparisons_by_hand():
    said = both_ways(
        Table(prefers_the_lovely_one), [Comparison("g", USER, "lovely", "x"), Comparison("g", USER, "y", "x")]
    )
    assert said[0] == (0.9, 0.7)
    assert said[1] == pytest.approx((0.7, 0.3))
    scores = JudgeScorer(Table(prefers_the_lovely_one), "g", "compare")([group("lovely", "x", "y"), group("y", "x")])
    torch.testing.assert_close(scores, torch.tensor([0.8, (0.2 + 0.5) / 2, (0.2 + 0.5) / 2, 0.5, 0.5]))


def test_grades_by_hand_and_what_is_asked():
    judge = Table(lambda q: (0.0, 0.0, 0.0, 0.5, 0.5) if "nice" in q else (1.0, 0.0, 0.0, 0.0, 0.0))
    scores = JudgeScorer(judge, "Prefer the kinder.")([group("nice", "bad"), group("nice")])
    assert scores.tolist() == [4.5, 1.0, 4.5]
    assert all(text in judge.asked[-1] for text in ("Prefer the kinder.", "Hi", "nice", "1 (worst) to 5 (best)"))
    assert grade(judge, "g", [(USER, "bad")], best=5)[0].probs[0] == 1.0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: JudgeScorer(Table(lambda q: None), "g", "guess"), "none of grade, compare"),
        (lambda: JudgeScorer(Table(lambda q: None), "g")([group("x")]), "no verdict on the answer 'x' to 'Hi': it shr"),
        (lambda: JudgeScorer(Table(lambda q: None), "g", "compare")([group("x", "y")]), "it shrugs"),
        (lambda: JudgeScorer(Table(lambda q: None), "g", "compare")([group("x")]), "two responses or more"),
    ],
)
def test_a_reward_without_a_verdict_is_an_error(act, message):
    with pytest.raises(InputError, match=message):
        act()


@given(st.lists(st.lists(st.text(max_size=3), max_size=6), max_size=4))
def test_a_journal_asks_everything_once_and_says_what_the_judge_says(tmp_path_factory, calls):
    path = tmp_path_factory.mktemp("journal") / "new" / "j.jsonl"
    judge = Table(lambda q: None if q == "0" else (0.25, 0.75))
    for questions in calls:
        journal = Journal(judge, path)  # made anew: what it knows comes from the disk
        assert choices(journal, questions, "AB") == choices(Table(judge.opinion), questions, "AB")
    different = {q for questions in calls for q in questions}
    assert sorted(judge.asked) == sorted(different)
    if calls:
        assert journal.spent == Spent(len(different), len(different), 10 * len(different), len(different))


def test_a_torn_line_is_asked_again_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "j.jsonl"
    choices(Journal(Table(lambda q: (1.0, 0.0)), path), ["a", "b"], "AB")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    judge = Table(lambda q: (1.0, 0.0))
    journal = Journal(judge, path)
    choices(journal, ["a", "b"], "AB")
    assert judge.asked == ["a"]  # the second line, for the table answers backwards
    assert path.read_bytes() == whole
    choices(journal, ["a"], "BA")
    assert judge.asked == ["a", "a"]  # other options are another question


def test_the_pace_by_hand():
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace, starts = Pace(30, lambda: now[0], sleep), []
    for _ in range(4):
        pace.wait()
        starts.append(now[0])
    pace.hold(60)
    pace.wait()
    assert starts == [100, 102, 104, 106]
    assert now[0] == 166
    now[0] += 500
    pace.wait()
    assert now[0] == 666  # nothing saved up is nothing owed


def test_retry_after_in_its_two_forms():
    assert [retry_after(v) for v in ("3", "0.5", "-4", "", None, "Sun, 06 Nov 1994 08:49:37 GMT")] == [
        3,
        0.5,
        0,
        0,
        0,
        0,
    ]
    assert retry_after("Fri, 31 Dec 9999 23:59:59 GMT") > 1e9


Script = Callable[[dict, int], tuple[int, dict, bytes]]
"""(request body, how often this very body came) → status, headers, body."""


@pytest.fixture
def serve() -> Iterator[Callable[[Script], tuple[str, list[tuple[dict, dict]]]]]:
    """Starts a server that answers by a script; gives its address and the (headers, body) it received."""
    running = []

    def start(script: Script) -> tuple[str, list[tuple[dict, dict]]]:
        seen: list[tuple[dict, dict]] = []
        times: dict[str, int] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((dict(self.headers), body))
                key = json.dumps(body)
                times[key] = times.get(key, 0) + 1
                status, headers, content = script(body, times[key])
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1", seen

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def said(text: str | None) -> tuple[int, dict, bytes]:
    answer = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return 200, {}, json.dumps({**answer, "usage": {"prompt_tokens": 7, "completion_tokens": 2}}).encode()


def picks(option: str) -> tuple[int, dict, bytes]:
    return said(json.dumps({"answer": option}))


def server_judge(url: str, **more) -> ServerJudge:
    return ServerJudge(JudgeConfig(model="m", url=url, **{"backoff": 0.01, "timeout": 60.0, **more}))


def ask(judge: ServerJudge, *questions: str) -> list[Choice]:
    try:
        return choices(judge, questions or ("q",), ("A", "B", "C"))
    finally:
        judge.close()


def test_what_a_server_is_sent(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    url, seen = serve(lambda body, n: picks("B"))
    assert ask(server_judge(url + "/", key_env="JUDGE_KEY", max_tokens=9)) == [Choice((0.0, 1.0, 0.0), None, 7, 2, 1)]
    ((headers, body),) = seen
    assert headers["Authorization"] == "Bearer sesame"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 9)
    assert body["messages"][0]["content"].startswith("q\n")
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["answer"]["enum"] == ["A", "B", "C"]
    assert (schema["schema"]["additionalProperties"], schema["schema"]["required"]) == (False, ["answer"])


def test_a_server_that_refuses_the_schema_is_asked_without_it_ever_after(serve):
    def no_schemas(body: dict, n: int) -> tuple[int, dict, bytes]:
        return (422, {}, b"no response_format here") if "response_format" in body else picks("A")

    url, seen = serve(no_schemas)
    assert [c.probs for c in ask(server_judge(url, concurrency=1), "a", "b", "c")] == [(1.0, 0.0, 0.0)] * 3
    assert ["response_format" in body for _, body in seen] == [True, False, False, False]


@pytest.mark.parametrize(
    "text",
    ['{"answer": "B"}', '```json\n{"answer": "B"}\n```', 'I think {A} is worse.\n{ "answer" : "B" }'],
)
def test_an_answer_is_found_in_what_surrounds_it(serve, text):
    url, _ = serve(lambda body, n: said(text))
    assert ask(server_judge(url))[0].probs == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "text",
    ["B", "", None, '{"answer": "D"}', '{"answer": "b"}', '{"answer": ["B"]}', '{"answer": "B", "why": "so"}', "{}"],
)
def test_any_other_answer_is_asked_for_three_times_and_paid_for(serve, text):
    url, seen = serve(lambda body, n: said(text))
    (choice,) = ask(server_judge(url))
    assert choice.probs is None
    assert (choice.tries, len(seen)) == (3, 3)
    assert "cannot be read" in choice.problem or text is None
    assert choice.tokens_in == (0 if text is None else 21)


@pytest.mark.parametrize("content", [b"", b"<html>busy</html>", b'{"choices": 3}', b'{"choices": []}', b"\xff"])
def test_what_is_no_completion_is_malformed(serve, content):
    url, _ = serve(lambda body, n: (200, {}, content) if n == 1 else picks("C"))
    assert ask(server_judge(url)) == [Choice((0.0, 0.0, 1.0), None, 7, 2, 2)]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_passing_troubles_are_retried(serve, status):
    url, _ = serve(lambda body, n: (status, {}, b"later") if n <= 4 else picks("A"))
    assert ask(server_judge(url, retries=4))[0].tries == 5
    url, seen = serve(lambda body, n: (status, {}, b"later"))
    with pytest.raises(InputError, match=rf"no answer in 3 requests, the last: HTTP {status}.*run again when"):
        ask(server_judge(url, retries=2))
    assert len(seen) == 3


def test_a_question_the_server_refuses_has_no_verdict_and_the_others_have(serve):
    url, _ = serve(lambda body, n: (400, {}, b"too  long") if "long" in body["messages"][0]["content"] else picks("A"))
    short, long = ask(server_judge(url, concurrency=1), "short", "long")
    assert short.probs == (1.0, 0.0, 0.0)
    assert (long.probs, long.problem) == (None, "HTTP 400: too long")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_only_the_user_can_mend_stops_at_once(serve, status, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    url, seen = serve(lambda body, n: (status, {}, b"go away"))
    with pytest.raises(InputError, match=f"HTTP {status}: go away") as caught:
        ask(server_judge(url, key_env="JUDGE_KEY", concurrency=1), *"abcdefgh")
    assert len(seen) == 1
    assert "sesame" not in str(caught.value)


def test_a_wait_of_hours_is_not_waited_for(serve):
    url, seen = serve(lambda body, n: (429, {"Retry-After": "7200"}, b""))
    with pytest.raises(InputError, match="HTTP 429, retry after 7200 s"):
        ask(server_judge(url))
    assert len(seen) == 1


def test_after_a_failure_everything_answered_is_handed_out(serve, tmp_path):
    late = threading.Event()

    def script(body: dict, n: int) -> tuple[int, dict, bytes]:
        if "slow" in body["messages"][0]["content"]:
            late.wait(60)
            return picks("A")
        late.set()
        return 403, {}, b""

    url, _ = serve(script)
    judge = server_judge(url, concurrency=2)
    journal = Journal(judge, tmp_path / "j.jsonl")
    with pytest.raises(InputError, match="403"):
        list(journal.choose(["slow", "bad"], ("A", "B")))
    assert journal.spent.questions == 1
    judge.close()


def test_a_server_that_is_not_there(serve):
    with pytest.raises(InputError, match="no answer in 2 requests, the last: ConnectError"):
        ask(server_judge("http://127.0.0.1:9/v1", retries=1))


def test_a_key_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InputError, match="JUDGE_KEY is not set"):
        server_judge("http://127.0.0.1:9/v1", key_env="JUDGE_KEY")
    with pytest.raises(ValueError, match="give its url"):
        JudgeConfig(model="m", key_env="JUDGE_KEY")
