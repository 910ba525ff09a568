"""The event log: same content same bytes, exact rewinding, torn lines."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.errors import InputError
from tether.monitor.log import EventLog, read_events

metric = st.floats() | st.integers(-(2**40), 2**40)
event = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(["train", "eval", "samples", "note", "alarm"]),
    st.dictionaries(st.sampled_from(["a/b", "reward/proxy", "kl/ref"]), metric)
    | st.fixed_dictionaries({"text": st.text()}),
)


def write(log: EventLog, events: list) -> None:
    for step, kind, content in events:
        log.write(step, kind, content)
        log.time(step, {"seconds": 1.5})


def same(a, b) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


@given(st.lists(event, max_size=8))
def test_what_is_written_is_read(events):
    with tempfile.TemporaryDirectory() as folder, EventLog(folder) as log:
        write(log, events)
        read = read_events(folder)
    assert len(read) == len(events)
    for (step, kind, content), got in zip(events, read, strict=True):
        assert (got.pop("step"), got.pop("kind")) == (step, kind)
        assert got.keys() == content.keys()
        assert all(same(got[key], content[key]) for key in content)


@given(st.lists(event, max_size=6), st.lists(event, max_size=6), st.lists(event, max_size=6))
def test_resumed_log_is_the_undisturbed_log(before, lost, after):
    """Killed after `lost` was written and resumed from the cursor, or never killed: the same bytes in both files."""
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed", Path(folder) / "whole"
        with EventLog.open(killed) as log:
            write(log, before)
            cursor = log.cursor()
            write(log, lost)
        with (killed / "events.jsonl").open("ab") as file:
            file.write(b'{"step": 3, "ki')
        with EventLog.open(killed, json.loads(json.dumps(cursor))) as log:
            write(log, after)
        with EventLog.open(whole) as log:
            write(log, before + after)
        for name in ("events.jsonl", "timing.jsonl"):
            assert (killed / name).read_bytes() == (whole / name).read_bytes()


@given(st.lists(event, min_size=1, max_size=4), st.data())
def test_a_file_cut_anywhere_gives_a_prefix_of_its_events(events, data):
    with tempfile.TemporaryDirectory() as folder:
        with EventLog(folder) as log:
            write(log, events)
        file = Path(folder) / "events.jsonl"
        content = file.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        file.write_bytes(content[:cut])
        read = read_events(file)
        assert len(read) == content[:cut].count(b"\n")
        with EventLog(folder) as log:  # going on after the cut loses no further line and glues none together
            log.write(7, "note", {"text": "on"})
        assert [e["step"] for e in read_events(file)] == [e[0] for e in events[: len(read)]] + [7]


def test_the_line_by_hand(tmp_path):
    with EventLog(tmp_path) as log:
        log.write(3, "train", {"kl/ref": 0.1, "a/b": math.nan, "c/d": -math.inf, "n": 2, "answers": [{"text": "é"}]})
    line = '{"step":3,"kind":"train","kl/ref":0.1,"a/b":"nan","c/d":"-inf","n":2,"answers":[{"text":"\\u00e9"}]}\n'
    assert (tmp_path / "events.jsonl").read_text() == line
    assert (tmp_path / "timing.jsonl").read_text() == ""


def test_the_word_nan_in_a_sample_stays_a_word(tmp_path):
    with EventLog(tmp_path) as log:
        log.write(0, "samples", {"samples": [{"answer": "nan"}], "text": "inf"})
    assert read_events(tmp_path) == [{"step": 0, "kind": "samples", "samples": [{"answer": "nan"}], "text": "inf"}]


def test_a_lone_surrogate_does_not_stop_a_run(tmp_path):
    with EventLog(tmp_path) as log:
        log.write(0, "samples", {"text": "\ud800"})
    assert read_events(tmp_path)[0]["text"] == "\ud800"


def test_scalar_tensors_become_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    with EventLog(tmp_path) as log:
        log.write(
            1, "train", {"a/b": torch.tensor(0.5), "c/d": torch.tensor([1, 2]), "e/f": torch.tensor(float("nan"))}
        )
    read = read_events(tmp_path)[0]
    assert read["a/b"] == 0.5
    assert read["c/d"] == [1, 2]
    assert math.isnan(read["e/f"])


def test_what_cannot_be_logged_writes_nothing(tmp_path):
    with EventLog(tmp_path) as log:
        with pytest.raises(TypeError, match="object"):
            log.write(1, "train", {"a/b": 1.0, "c/d": object()})
        with pytest.raises(ValueError, match="step"):
            log.write(1, "train", {"step": 2})
        assert log.cursor() == {"events.jsonl": 0, "timing.jsonl": 0}


def test_another_runs_cursor_is_refused_and_nothing_is_cut(tmp_path):
    with EventLog(tmp_path) as log:
        log.write(1, "train", {"a/b": 1.0})
        cursor = log.cursor()
    for wrong in (cursor["events.jsonl"] + 1, cursor["events.jsonl"] - 1):
        with pytest.raises(InputError, match=f"byte {wrong}"):
            EventLog.open(tmp_path, cursor | {"events.jsonl": wrong})
    assert len(read_events(tmp_path)) == 1


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"step":1}\nnot json\n{"step":2}\n')
    with pytest.raises(InputError, match="line 2"):
        read_events(tmp_path)
    (tmp_path / "events.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="JSON object, not list"):
        read_events(tmp_path)
    assert read_events(tmp_path / "none.jsonl") == []
