"""Coverage: against brute force and scikit-learn's TF-IDF, its test's error rates, and prompts nobody has labelled."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_distances

from tether.errors import InputError
from tether.feedback.coverage import coverage, text_vectors

DISHES = ("eggs", "rice", "pasta", "soup", "beans", "bread", "fish", "stew", "salad", "pancakes", "noodles", "curry")
HOW = ("boil", "fry", "bake", "season", "serve", "store", "freeze", "reheat", "salt", "prepare")
NUMBERS = ("√2", "π", "e", "the golden ratio", "ln 2", "ζ(3)")


def cooking(seed: int, num: int) -> list[str]:
    rng = random.Random(seed)
    asked = ("How do I {} {} for {} people?", "What is the best way to {} {}, say {} bowls?", "{} {} {} times, quickly")
    return [rng.choice(asked).format(rng.choice(HOW), rng.choice(DISHES), rng.randint(2, 90)) for _ in range(num)]


def maths(num: int) -> list[str]:
    return [f"Prove that {NUMBERS[i % 6]} raised to {i + 2} is irrational." for i in range(num)]


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    known, seen = rng.normal(size=(60, 6)), rng.normal(size=(45, 6)) + rng.normal(size=6) * seed / 4
    found = coverage(known, seen, num_worst=45)
    own = cosine_distances(known) + 9 * np.eye(60)
    others = cosine_distances(seen, known)
    assert found.usual == pytest.approx(np.median(own.min(1)), abs=1e-5)
    assert found.distance == pytest.approx(np.median(others.min(1)), abs=1e-5)
    assert found.far == np.mean(others.min(1) > np.quantile(own.min(1), 0.95))
    for share, of_labelled, of_policy in found.quantiles:
        assert of_labelled == pytest.approx(np.quantile(own.min(1), share), abs=1e-5)
        assert of_policy == pytest.approx(np.quantile(others.min(1), share), abs=1e-5)
    label = np.repeat([0, 1], [60, 45])
    assert found.auc == pytest.approx(roc_auc_score(label, np.concatenate([own.min(1), others.min(1)])), abs=1e-3)
    assert [w.prompt for w in found.worst] == np.argsort(-others.min(1)).tolist()
    assert [w.nearest for w in found.worst] == others.argmin(1)[[w.prompt for w in found.worst]].tolist()
    assert [w.distance for w in found.worst] == pytest.approx(np.sort(others.min(1))[::-1], abs=1e-5)


def test_texts_are_compared_by_tf_idf_but_for_what_the_hash_confuses():
    texts = cooking(0, 150) + maths(50)

    def features(text: str) -> list[str]:
        text = re.sub(r"\s+", " ", text.lower())
        return [f"word {w}" for w in re.findall(r"\w+", text)] + re.findall("(?=(...))", text)

    exact = TfidfVectorizer(analyzer=features, sublinear_tf=True).fit_transform(texts)
    exact, hashed = (exact @ exact.T).toarray(), text_vectors(texts)
    hashed = hashed @ hashed.T
    assert np.abs(hashed - exact).max() < 0.2
    assert np.abs(hashed - exact).mean() < 0.02
    assert np.corrcoef(hashed.ravel(), exact.ravel())[0, 1] > 0.99


def test_prompts_of_a_kind_that_nobody_labelled_are_found():
    seen = cooking(1, 100) + maths(20)
    found = coverage(cooking(0, 200), seen, num_worst=20)
    assert {w.prompt for w in found.worst} == set(range(100, 120))
    assert found.p == 0.001
    assert 20 / 120 <= found.far < 0.3
    assert found.auc > 0.6
    alike = coverage(cooking(0, 200), cooking(1, 120))
    assert alike.p > 0.05
    assert 0.4 < alike.auc < 0.6
    assert alike.far < 0.12
    assert json.loads(json.dumps(found.as_dict()))["worst"][0]["prompt"] >= 100


def test_the_test_keeps_its_level_and_sees_a_shift():
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(size=(30, 4)), rng.normal(size=(40, 4))) for _ in range(200)]
    alike = [coverage(a, b, num=99).p for a, b in drawn]
    assert np.mean(np.array(alike) <= 0.05) <= 0.08  # 5 % ± twice its error over 200
    assert np.mean(alike) == pytest.approx(0.5, abs=0.06)
    shifted = [coverage(a, b + np.eye(4)[0] * 1.5, num=99).p for a, b in drawn[:50]]
    assert np.mean(np.array(shifted) <= 0.05) > 0.95


def test_p_by_counting_arrangements():
    # Two bundles of three: of the 20 ways to split six into two threes only the real one and its mirror are as far.
    bundle = np.array([[1, 0.01], [1, 0.02], [1, 0.04]])
    assert coverage(bundle, bundle[:, ::-1], num=9999).p == pytest.approx(2 / 20, abs=0.01)


def test_what_is_there_twice_counts_once_and_what_was_labelled_is_at_no_distance():
    asked = cooking(0, 30)
    once, twice = coverage(asked, [*asked[:5], *maths(3)]), coverage(asked * 2, [*asked[:5], *maths(3)] * 3)
    assert once == twice
    assert (once.labelled, once.policy) == (len(set(asked)), 8)
    assert [w.distance for w in once.worst[3:]] == pytest.approx([0] * 5, abs=1e-6)
    assert [asked[w.nearest] for w in once.worst[3:]] == [asked[w.prompt] for w in once.worst[3:]]


def test_scripts_without_spaces_and_without_words():
    found = coverage(
        ["怎么煮鸡蛋好吃", "怎么煮米饭好吃", "怎么做番茄汤"], ["怎么煮鸡蛋", "证明根号二是无理数", "", "?!?"]
    )
    assert found.worst[-1].prompt == 0
    assert found.worst[-1].nearest == 0
    assert {w.prompt for w in found.worst[:3]} == {1, 2, 3}


def test_ten_thousand_prompts_take_seconds():
    rng = np.random.default_rng(0)
    found = coverage(rng.normal(size=(10_000, 64)), rng.normal(size=(5_000, 64)), num=199)
    assert found.labelled == 10_000
    assert found.auc == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("labelled", "policy", "message"),
    [
        (["a b c"], ["d e f"], "labelled prompts: 1 different ones are too few"),
        (["a b c", "a b c"], ["d e f"], "labelled prompts: 1 different"),
        (["a b c", "b c d"], [], "policy prompts: 0 different"),
        (["a b c", "b c d"], np.ones((1, 2)), "some are texts"),
        (np.eye(3), np.ones((1, 2)), r"\(3, 3\) and \(1, 2\)"),
        (np.eye(3), np.full((1, 3), np.nan), "policy embeddings, prompt 0"),
        (np.diag([1.0, 1.0, 0.0]), np.ones((1, 3)), "labelled embeddings, prompt 2"),
    ],
)
def test_bad_input_is_one_sentence(labelled, policy, message):
    with pytest.raises(InputError, match=message):
        coverage(labelled, policy)
