"""What is said: the metric table, findings, the word diff, the console, the trackers."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.errors import InputError
from tether.monitor.console import Progress, duration, printable
from tether.monitor.findings import as_evaluation, findings, measures, over_optimisation
from tether.monitor.metrics import ALSO, METRICS, described, label, number, undocumented
from tether.monitor.samples import gather_samples, versus_samples, word_diff
from tether.monitor.trackers import open_tracker, scalars


def test_every_row_says_everything_and_every_companion_has_a_row():
    for name, row in METRICS.items():
        assert name == row.name
        assert all(len(text) > 3 for text in row)
    assert not undocumented([*ALSO, *ALSO.values()])


def test_undocumented_names_are_found_and_patterns_cover_their_roles():
    names = ["optim/grad_norm/policy", "mine/own", "policy/loss", "optim/grad_norm", "policy/loss/x", "mine/own"]
    assert undocumented(names) == ["mine/own", "optim/grad_norm", "policy/loss/x"]
    assert label("optim/grad_norm/value") == "Gradient norm, value"
    assert label("mine/own") == "mine/own"
    assert described("optim/grad_norm/value") is METRICS["optim/grad_norm/*"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.12345, "0.123"), (-3.0, "−3"), (12345.6, "12,346"), (3e-5, "3e−5"), (0, "0"), (math.nan, "NaN")],
        *[(-math.inf, "−∞"), (0.001, "0.001"), (999.4, "999"), (999.99, "1,000"), (1234567, "1.23e6"), (True, "1")],
    ],
)
def test_numbers_for_reading(value, text):
    assert number(value) == text


# Findings


def levels(evaluation, events=()):
    return [(f.level, f.text) for f in findings(evaluation, events)]


def test_a_gain_needs_its_whole_interval():
    won = {"win_rate": {"value": 0.81, "low": 0.76, "high": 0.85, "n": 320, "against": "the SFT policy"}}
    ((level, text),) = levels(won)
    assert level == "good"
    assert "preferred to that of the SFT policy 81\xa0% of the time (95 % interval 76–85\xa0%, 320 prompts)." in text
    assert "No gain is shown" in levels({"win_rate": {"value": 0.6, "low": 0.49, "high": 0.7}})[0][1]
    assert "It got worse" in levels({"win_rate": {"value": 0.3, "low": 0.2, "high": 0.4}})[0][1]
    assert "No gain is shown" in levels({"eval/win_rate": 0.9})[0][1]  # without an interval nothing is shown


@pytest.mark.parametrize(
    ("name", "fine", "bad", "says"),
    [
        ("distinct_2", {"value": 0.31, "baseline": 0.5}, {"value": 0.29, "baseline": 0.5}, "alike"),
        ("length", {"value": 6.1, "baseline": 10}, {"value": 5.9, "baseline": 10}, "shorter"),
        ("length", {"value": 15.9, "baseline": 10}, {"value": 16.1, "baseline": 10}, "longer"),
        ("kl", {"value": 10.0}, {"value": 10.1}, "far from its reference"),
        ("accuracy", {"value": 0.66, "low": 0.51, "high": 0.8}, {"value": 0.66, "low": 0.5, "high": 0.8}, "coin"),
        ("accuracy", {"value": 0.65}, {"value": 0.64}, "weak"),
        ("commonest", {"value": 0.1, "note": "ok"}, {"value": 0.11, "note": "haha"}, "“haha”"),
        (
            "commonest",
            {"value": 0.3, "note": "ok", "baseline": 0.2},
            {"value": 0.3, "note": "yes", "baseline": 0.1},
            "same reply",
        ),
    ],
)
def test_warnings_at_their_limits(name, fine, bad, says):
    assert levels({name: fine}) == []
    ((level, text),) = levels({name: bad})
    assert level == "warn"
    assert says in text


def evaluated(*rows):
    return [{"step": s, "kind": "eval", "eval/kl": k, "eval/proxy": p, "eval/gold": g} for s, k, p, g in rows]


def test_over_optimisation_is_gold_down_while_proxy_is_not():
    gamed = evaluated((0, 0.0, 0.0, 0.2), (10, 2.0, 1.0, 0.8), (20, 5.0, 2.0, 0.6))
    ((level, text),) = levels({}, gamed)
    assert level == "warn"
    assert "peaked at step 10 (0.8, KL 2)" in text
    assert "fallen to 0.6" in text
    assert levels({}, evaluated((0, 0.0, 0.0, 0.2), (10, 2.0, 1.0, 0.8), (20, 5.0, 2.0, 0.75))) == []  # within a tenth
    assert levels({}, evaluated((0, 0.0, 0.0, 0.2), (10, 2.0, 1.0, 0.8), (20, 5.0, 0.9, 0.6))) == []  # both fell
    assert over_optimisation([*gamed, {"step": 30, "kind": "eval", "eval/gold": math.nan}])[1] == [
        (0, 0.2),
        (2, 0.8),
        (5, 0.6),
    ]


def test_alarms_are_findings():
    assert levels({}, [{"step": 4, "kind": "alarm", "text": "entropy collapsed"}]) == [
        ("warn", "Step 4: entropy collapsed")
    ]


def test_evaluate_stages_figures_become_measures():
    spread = {"estimate": 0.7, "low": 0.6, "high": 0.8}
    metrics = {
        "win_rate": {"wins": 5, "ties": 2, "losses": 3, "rate": 0.6, "low": 0.4, "high": 0.8},
        "kl": spread,
        "policy": {"gold": spread, "distinct_2": 0.3, "commonest": {"text": "haha", "share": 0.2}},
        "baseline": {
            "gold": {**spread, "estimate": 0.1},
            "distinct_2": 0.6,
            "commonest": {"text": "no", "share": 0.01},
        },
        "reward_model": {"num": 50, "accuracy": spread, "bins": []},
    }
    found = {m.name: m for m in measures(as_evaluation(metrics, "sft"))}
    assert [*found] == ["win_rate", "gold", "accuracy", "kl", "distinct_2", "commonest"]
    assert (found["win_rate"].value, found["win_rate"].n, found["win_rate"].against) == (0.6, 10, "sft")
    assert (found["gold"].value, found["gold"].baseline, found["gold"].interval) == (0.7, 0.1, "0.6–0.8")
    assert (found["accuracy"].n, found["accuracy"].text()) == (50, "70\xa0%")
    assert (found["distinct_2"].baseline, found["commonest"].note) == (0.6, "haha")
    assert as_evaluation({"reward_model": None}) == {}


# Samples


def test_word_diff_by_hand():
    assert word_diff("i like cats .", "well i really like dogs") == (
        [("i like ", False), ("cats .", True)],
        [("well", True), (" i ", False), ("really", True), (" like ", False), ("dogs", True)],
    )
    assert word_diff("same", "same") == ([("same", False)], [("same", False)])
    assert word_diff("yes", "no way") is None


@given(st.text(alphabet="ab .\n", max_size=30), st.text(alphabet="ab .\n", max_size=30))
def test_word_diff_loses_nothing_and_marks_no_outer_space(first, last):
    marked = word_diff(first, last)
    if marked is None:
        return
    for text, pieces in zip((first, last), marked, strict=True):
        assert "".join(piece for piece, _ in pieces) == text
        assert all(piece == piece.strip() and piece for piece, mark in pieces if mark)
    unmarked = ["".join(p for p, mark in pieces if not mark).split() for pieces in marked]
    assert "".join(unmarked[0]) == "".join(unmarked[1])  # what is not marked is the same on both sides


def test_samples_of_all_evaluations_side_by_side():
    events = [
        {
            "step": s,
            "kind": "samples",
            "rows": [{"prompt": p, "answer": f"{p}{s}", "gold": s / 10} for p in ("hi", "yo", "hi")],
        }
        for s in (0, 5)
    ]
    rows = gather_samples([("ppo", [*events, {"step": 5, "kind": "eval"}])])
    assert [row["prompt"] for row in rows] == ["hi", "yo", "hi"]  # a prompt asked twice stays two
    assert rows[1]["answers"] == {"ppo, step 0": "yo0", "ppo, step 5": "yo5"}
    assert rows[1]["scores"]["ppo, step 5"] == {"gold": 0.5}


def test_samples_of_an_evaluation():
    row = {
        "prompt": "hi",
        "answers": {"policy": "b", "baseline": "a"},
        "scores": {"policy gold": 1.0, "baseline gold": 0.0},
    }
    (sample,) = versus_samples([row])
    assert list(sample["answers"].items()) == [("baseline", "a"), ("policy", "b")]
    assert sample["scores"] == {"baseline": {"gold": 0.0}, "policy": {"gold": 1.0}}


# Console


def lines(total, seconds_a_step, start=0):
    """What a run prints to a pipe, with a clock of its own."""
    time = {"now": 0.0}
    out = io.StringIO()
    with Progress("sft", total, start, file=out, clock=lambda: time["now"]) as progress:
        for step in range(start + 1, total + 1):
            time["now"] += seconds_a_step
            progress.update(step, {"sft/loss": 1 / step, "text": "left out"})
    return out.getvalue().splitlines()


def test_plain_lines_are_few_and_the_last_is_there():
    fast = lines(1000, 0.001)
    assert 10 <= len(fast) <= 12
    assert fast[-1].startswith("sft  1000/1000 100 %  1,000 steps/s")
    slow = lines(20, 60.0)
    assert len(slow) <= 20
    long = lines(2000, 60.0)  # 33 hours
    assert len(long) < 150
    assert "left" in long[5]


def test_a_resumed_stage_counts_its_own_pace():
    out = lines(100, 2.0, start=50)
    assert out[0] == "sft  51/100  51 %  2 s/step, 1 min 38 s left  sft/loss 0.0196"
    assert out[-1].startswith("sft  100/100 100 %")


def test_a_single_step_is_said_once():
    assert len(lines(1, 1.0)) == 1


def test_a_models_control_characters_do_not_reach_the_terminal():
    out = io.StringIO()
    with Progress("ppo", 1, file=out) as progress:
        progress.note("a\x1b[31mred\x07\n[bold]b\u202e")
    assert out.getvalue() == "ppo: a�[31mred�\n[bold]b�\n"
    assert printable("é 漢 😀\n") == "é 漢 😀\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with Progress("ppo", 10, start=3, file=out) as progress:
        progress.update(7, {"reward/proxy": 0.5})
        progress.note("[red]kept[/red]")
    assert "7/10" in out.getvalue()
    assert "reward/proxy 0.5" in out.getvalue()
    assert "[red]kept[/red]" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.24, "0.2 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90061, "1 d 1 h"),
        (86401, "1 d"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# Trackers


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = open_tracker("tensorboard", tmp_path)
    tracker.log(1, {"a/b": 0.5, "text": "x", "flag": True})
    tracker.log(2, {"a/b": 0.25})
    tracker.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert board.Tags()["scalars"] == ["a/b"]
    assert [(e.step, e.value) for e in board.Scalars("a/b")] == [(1, 0.5), (2, 0.25)]


def test_unknown_and_missing_trackers_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="tensorboard"):
        open_tracker("tensorbored", tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"tether-rlhf\[trackers\]"):
        open_tracker("tensorboard", tmp_path)


def test_scalars_are_numbers_only():
    torch = pytest.importorskip("torch")
    values = {"a": 1, "b": torch.tensor(0.5), "c": torch.tensor([1.0, 2.0]), "d": None, "e": True, "f": "1", "g": [1]}
    assert scalars(values) == {"a": 1.0, "b": 0.5}


def test_the_room_imports_neither_torch_nor_rich():
    code = (
        "import sys, tether.monitor.report, tether.monitor.console, tether.monitor.trackers;"
        "sys.exit(', '.join({'torch', 'rich', 'tensorboard', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
