"""Labelling by simulated annotators, through the store; killed and run again it comes to the same."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tether.errors import InputError
from tether.feedback.active import population_mean, select_pairs
from tether.feedback.annotators import Rater, Verdict, gold, vader_raters
from tether.feedback.asked import gather
from tether.feedback.card import facts_about
from tether.feedback.label import candidates, label_pairs
from tether.feedback.records import Query
from tether.feedback.store import Store

WORDS = "good bad love hate nice awful happy sad the a it is table haha lol fine great poor".split()  # noqa: SIM905


def groups(num: int, k: int = 2, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [
        {
            "prompt": {"text": f"prompt {i}", "token_ids": [i, 2], "meta": {"id": i}},
            "responses": [
                {"text": " ".join(rng.choices(WORDS, k=6)) + f" {j}", "token_ids": [j, i], "ended": True}
                for j in range(k)
            ],
        }
        for i in range(num)
    ]


def test_the_ten_raters_label_and_mostly_agree_with_their_mean(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        report = label_pairs(
            store, groups(120), vader_raters(), guideline="Prefer the kinder reply.", overlap=5, checkpoint="sft"
        )
        rows = store.export(Query(until=report.last_judgement))
    assert (report.items, report.votes, report.identical, report.skips) == (120, 600, 0, 0)
    assert 0 < report.ties < 200
    assert 0.5 < report.agreement.low < report.agreement.estimate < report.agreement.high < 1
    assert 0.2 < report.alpha.low < report.alpha.high < 1
    assert report.bias.p > 0.01
    assert set(report.bias_by_annotator) == {f"vader-{i}" for i in range(10)}
    assert sum(b.num for b in report.bias_by_annotator.values()) == report.bias.num == 600 - report.ties
    right = [gold(row["chosen"]) > gold(row["rejected"]) for row in rows]
    assert sum(right) / len(right) > 0.9
    assert all(sum(row["votes"].values()) == 5 and row["checkpoints"]["chosen"] == "sft" for row in rows)
    assert all(row["token_ids"]["prompt"] == [row["meta"]["id"], 2] for row in rows)
    assert json.loads(json.dumps(report.as_dict()))["votes"] == 600


@pytest.mark.parametrize("k", [2, 4])
def test_the_report_says_what_the_card_of_the_same_votes_says(tmp_path, k):
    asked = groups(40, k)
    asked[0]["responses"].pop()  # rankings of different lengths, or a group with nothing to tell apart
    with Store.open(tmp_path / "s.db") as store:
        report = label_pairs(store, asked, vader_raters(), guideline="g", overlap=3)
        with store.reading() as db:
            facts = facts_about(db, gather(db, Query(until=report.last_judgement)), "")
    assert (report.ties, report.bias) == (facts.ties, facts.bias)
    assert report.ties > 0
    for found, told in ((report.agreement, facts.agreement), (report.alpha, facts.alpha)):
        assert 0 < found.low < found.estimate < found.high < 1
        assert found.estimate == pytest.approx(told.estimate)
        assert found.high - found.low == pytest.approx(told.high - told.low, rel=0.2)


def test_everybody_gets_a_share_and_sides_are_even(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        label_pairs(store, groups(200), vader_raters(), guideline="g", overlap=3)
        votes = store.judgements()
    per_user = [sum(j.user == u for j in votes) for u in range(1, 11)]
    assert sum(per_user) == 600
    assert all(35 <= n <= 85 for n in per_user)  # 60 ± 3.9 standard deviations of 6.5
    straight = sum(j.shown[0] < j.shown[1] for j in votes)
    assert 250 <= straight <= 350
    teams = {tuple(sorted(j.user for j in votes if j.item == i)) for i in range(1, 201)}
    assert len(teams) > 60  # of 120 possible: who labels with whom is drawn anew for each item


def test_a_biased_annotator_is_found_and_a_fair_one_is_not(tmp_path):
    fair = Rater("fair", gold)
    biased = Rater("biased", gold, first=0.5)
    with Store.open(tmp_path / "s.db") as store:
        report = label_pairs(store, groups(250), [fair, biased], guideline="g", overlap=2)
    assert report.bias_by_annotator["biased"].p < 0.001
    assert report.bias_by_annotator["biased"].share == pytest.approx(0.75, abs=0.08)
    assert report.bias_by_annotator["fair"].p > 0.01


def test_again_it_adds_nothing_and_with_more_it_adds_the_rest(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        first = label_pairs(store, groups(30), vader_raters(), guideline="g", overlap=2)
        assert label_pairs(store, groups(30), vader_raters(), guideline="g", overlap=2) == first
        more = label_pairs(store, groups(40), vader_raters(), guideline="g", overlap=3)
        assert (more.items, more.votes) == (40, 120)
        assert store.judgements(Query(until=60)) == store.judgements()[:60]


def test_the_seed_decides_who_labels(tmp_path):
    said = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        with Store.open(tmp_path / name) as store:
            label_pairs(store, groups(30), vader_raters(noise=0.3), guideline="g", overlap=2, seed=seed)
            said.append([(j.item, j.user, j.ranking) for j in store.judgements()])
    assert said[0] == said[1] != said[2]


def test_equal_texts_are_not_asked_about_and_rankings_are(tmp_path):
    same, three, repeated = groups(3, k=3)
    for response in same["responses"]:
        response["text"] = "the same"
    repeated["responses"][2]["text"] = repeated["responses"][0]["text"]
    with Store.open(tmp_path / "s.db") as store:
        report = label_pairs(store, [same, three, repeated], vader_raters(), guideline="g", overlap=4)
        assert sorted(len(j.shown) for j in store.judgements()) == [2] * 4 + [3] * 4
        (row,) = [row for row in store.export() if row["prompt"] == "prompt 2"]
        assert {row["token_ids"][side][0] for side in ("chosen", "rejected")} == {0, 1}  # the first of twins stays
    assert (report.items, report.identical, report.votes) == (2, 1, 8)


def test_what_was_not_chosen_is_not_asked_and_what_was_says_why(tmp_path):
    pool = groups(60)
    picked = select_pairs([float(i % 5) for i in range(60)], 20, uniform=0.5, seed=2)
    chosen = {one.pair: one.record() for one in picked}
    with Store.open(tmp_path / "s.db") as store:
        report = label_pairs(store, pool, vader_raters(), guideline="g", overlap=3, chosen=chosen)
        rows = store.export()
        assert label_pairs(store, pool, vader_raters(), guideline="g", overlap=3, chosen=chosen) == report
    assert (report.items, report.votes) == (20, 60)
    assert all(row["selection"] == chosen[row["meta"]["id"]] for row in rows)
    decided = {row["meta"]["id"] for row in rows}
    assert decided < set(chosen)  # some are ties
    said = report.selection
    assert (said.uniform, said.uniform + said.active) == (sum(one.arm == "uniform" for one in picked), 20)
    assert said.decided.chosen == len(decided) / 20
    weighed = population_mean([one.pair in decided for one in picked], [one.propensity for one in picked])
    assert said.decided.all == pytest.approx(weighed)
    assert said.agreement.chosen == pytest.approx(report.agreement.estimate)  # three votes each
    assert json.loads(json.dumps(report.as_dict()))["selection"]["agreement"]["all"]["low"] < 1


def test_candidates_ask_something_and_each_question_once():
    same, again, turned, asked = groups(4)
    same["responses"][1]["text"] = same["responses"][0]["text"]
    turned["prompt"], turned["responses"] = again["prompt"], again["responses"][::-1]
    told = asked | {"prompt": asked["prompt"] | {"messages": ({"role": "user", "content": "prompt 3"},)}}
    assert candidates([same, again, turned, asked, told]) == [1, 3, 4]


class Shy:
    name, kind = "shy", "ai"

    def compare(self, prompt, responses, rng):
        return Verdict(None, skip="cannot say")


def test_skips_are_counted_and_export_nothing(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        report = label_pairs(store, groups(4), [Shy()], guideline="g", overlap=1)
        assert (report.votes, report.skips, report.agreement.as_dict()["estimate"]) == (0, 4, None)
        assert store.export() == []


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ([], {}, "nothing to label"),
        (groups(2, k=1), {}, "none of the 2 groups"),
        (groups(1), {"overlap": 11}, "overlap 11: must be between 1 and the number of annotators, 10"),
        (groups(1), {"annotators": vader_raters()[:1] * 2, "overlap": 1}, "same name"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, data, more, message):
    with Store.open(tmp_path / "s.db") as store, pytest.raises(InputError, match=message):
        label_pairs(store, data, **{"annotators": vader_raters(), "guideline": "g", **more})


LABEL = """
import json, os, signal, sys
from sqlalchemy import Engine, event
from tether.feedback.annotators import vader_raters
from tether.feedback.label import label_pairs
from tether.feedback.store import Store
left = int(sys.argv[3])
def count(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
    event.listen(Engine, moment, count)
data = json.load(open(sys.argv[2]))
label_pairs(Store.open(sys.argv[1]), data, vader_raters(noise=0.2), guideline="g", overlap=5, seed=3)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_exports_what_an_uncut_one_does(tmp_path: Path):
    data = groups(400)
    (tmp_path / "groups.json").write_text(json.dumps(data))
    with Store.open(tmp_path / "whole.db") as store:
        whole = label_pairs(store, data, vader_raters(noise=0.2), guideline="g", overlap=5, seed=3)
        want = store.export()
    command = [sys.executable, "-c", LABEL, str(tmp_path / "cut.db"), str(tmp_path / "groups.json")]
    rng = random.Random(0)
    for _ in range(8):  # a start takes 860 statements and commits where all is there already
        worker = subprocess.run([*command, str(rng.randint(1, 800))], timeout=250)
        assert worker.returncode == -signal.SIGKILL
    with Store.open(tmp_path / "cut.db") as store:
        assert 0 < len(store.judgements()) < 400 * 5
        again = label_pairs(store, data, vader_raters(noise=0.2), guideline="g", overlap=5, seed=3)
        assert store.export() == want
    assert again == whole
