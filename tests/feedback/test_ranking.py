"""Bradley–Terry, Davidson and Plackett–Luce: by hand, against choix, and against scipy's optimisers."""

from __future__ import annotations

import math
from itertools import combinations

import choix
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from tether.errors import InputError
from tether.feedback.ranking import bradley_terry, davidson, plackett_luce, pooled_log_odds

SEEDS = range(24)


def games(seed: int, tie: float = 0.0, num_items: int | None = None, mean: float = 4.0):
    """(wins, ties) drawn from Davidson's model with ν = `tie`, redrawn until nobody won or lost everything."""
    rng = np.random.default_rng(seed)
    size = num_items or int(rng.integers(2, 9))
    strengths = rng.normal(0, 1, size)
    while True:
        wins, ties = np.zeros((size, size)), np.zeros((size, size))
        for i, j in combinations(range(size), 2):
            odds = np.array(
                [math.exp((strengths[i] - strengths[j]) / 2), math.exp((strengths[j] - strengths[i]) / 2), tie]
            )
            wins[i, j], wins[j, i], ties[i, j] = rng.multinomial(rng.poisson(mean), odds / odds.sum())
        ties = ties + ties.T
        try:
            davidson(wins, ties)
        except InputError:
            continue
        if ties.any() or not tie:
            return wins, ties


def listed(wins) -> list[tuple[int, int]]:
    return [(i, j) for i, j in np.argwhere(wins > 0) for _ in range(int(wins[i, j]))]


def centred(values):
    return np.asarray(values) - np.mean(values)


# Bradley–Terry


@pytest.mark.parametrize("seed", SEEDS)
def test_bradley_terry_is_choixs(seed):
    wins, _ = games(seed)
    oracle = choix.ilsr_pairwise(len(wins), listed(wins), alpha=0.0, max_iter=10_000, tol=1e-12)
    assert bradley_terry(wins).strengths == pytest.approx(centred(oracle), abs=1e-6)
    # choix penalises by alpha Σ s².
    oracle = choix.opt_pairwise(len(wins), listed(wins), alpha=0.15, tol=1e-12)
    assert bradley_terry(wins, ridge=0.3).strengths == pytest.approx(oracle, abs=1e-6)


def test_standard_errors_are_the_spread_of_repeated_fits():
    truth = np.array([0.8, 0.1, -0.2, -0.7])
    rng, standardised, gaps = np.random.default_rng(0), [], []
    for _ in range(300):
        wins = np.zeros((4, 4))
        for i, j in combinations(range(4), 2):
            wins[i, j] = rng.binomial(60, 1 / (1 + math.exp(truth[j] - truth[i])))
            wins[j, i] = 60 - wins[i, j]
        fit = bradley_terry(wins)
        standardised.append((fit.strengths - truth) / fit.errors)
        gap = fit.covariance[0, 0] + fit.covariance[3, 3] - 2 * fit.covariance[0, 3]
        gaps.append((fit.strengths[0] - fit.strengths[3] - 1.5) / math.sqrt(gap))
    assert np.std(standardised, axis=0) == pytest.approx(1, abs=0.12)
    assert np.std(gaps) == pytest.approx(1, abs=0.12)
    assert np.abs(np.mean(standardised, axis=0)).max() < 0.2


def test_posterior_log_odds_by_hand():
    fit = bradley_terry([[0, 9], [4, 0]])
    shrunk = math.log(9 / 4) / math.sqrt(1 + math.pi / 8 * (1 / 9 + 1 / 4))
    assert fit.log_odds == pytest.approx(np.array([[0, shrunk], [-shrunk, 0]]))


def test_a_ridge_gives_everything_a_strength_and_a_strong_one_says_nothing():
    wins = [[0, 5, 0], [0, 0, 0], [0, 0, 0]]
    free = bradley_terry(wins, ridge=0.5)
    assert free.strengths[0] == pytest.approx(-free.strengths[1])
    assert free.strengths[0] > 0.5
    assert free.strengths[2] == pytest.approx(0)
    assert free.log_odds[0, 1] < free.strengths[0] - free.strengths[1]
    # A strength that nothing tells of: prior variance 1/λ, less the share of the mean, 1/(nλ).
    assert free.covariance[2, 2] == pytest.approx(2 - 2 / 3)
    assert np.abs(bradley_terry(wins, ridge=1e6).strengths).max() < 1e-5


# Davidson


def davidson_loss(wins, ties):
    """-log-likelihood in Davidson's own form, of ln π_1, …, ln π_{n-1} (π_0 = 1) and ln ν."""

    def loss(at):
        worth, tie = np.exp(np.concatenate([[0.0], at[:-1]])), math.exp(at[-1])
        total = 0.0
        for i, j in combinations(range(len(wins)), 2):
            both = tie * math.sqrt(worth[i] * worth[j])
            whole = worth[i] + worth[j] + both
            total -= wins[i, j] * math.log(worth[i] / whole) + wins[j, i] * math.log(worth[j] / whole)
            total -= ties[i, j] * math.log(both / whole)
        return total

    return loss


def curvature(function, at, step=1e-4):
    """Second derivatives by central differences."""
    eye = np.eye(len(at)) * step
    return np.array(
        [
            [function(at + a + b) - function(at + a - b) - function(at - a + b) + function(at - a - b) for b in eye]
            for a in eye
        ]
    ) / (4 * step**2)


@pytest.mark.parametrize("seed", SEEDS)
def test_davidson_is_scipys_maximum(seed):
    wins, ties = games(seed, tie=0.3 + seed % 5 / 3, num_items=2 + seed % 4, mean=8)
    loss, fit = davidson_loss(wins, ties), davidson(wins, ties)
    oracle = minimize(loss, np.zeros(len(wins)), method="BFGS", jac="3-point", options={"gtol": 1e-9})
    strengths = np.concatenate([[0.0], oracle.x[:-1]])
    assert fit.strengths == pytest.approx(centred(strengths), abs=1e-6)
    assert math.log(fit.tie) == pytest.approx(oracle.x[-1], abs=1e-6)
    assert fit.log_likelihood == pytest.approx(-oracle.fun, abs=1e-8)
    covariance = np.linalg.inv(curvature(loss, oracle.x))
    assert fit.log_tie_error == pytest.approx(math.sqrt(covariance[-1, -1]), rel=1e-4)
    gaps = fit.covariance + fit.covariance[0, 0] - fit.covariance[:, :1] - fit.covariance[:1]  # of s_i - s_0
    assert gaps[1:, 1:] == pytest.approx(covariance[:-1, :-1], rel=1e-3, abs=1e-5)


def test_davidson_of_two_by_hand():
    # P = 9/14, 1/14, 4/14: s_0 - s_1 = ln 9, ν = 4/√(9·1).
    fit = davidson([[0, 9], [1, 0]], [[0, 4], [4, 0]])
    assert fit.strengths == pytest.approx([math.log(3), -math.log(3)])
    assert fit.tie == pytest.approx(4 / 3)
    assert fit.log_likelihood == pytest.approx(9 * math.log(9 / 14) + math.log(1 / 14) + 4 * math.log(4 / 14))
    assert fit.covariance[0, 0] == pytest.approx((1 / 9 + 1) / 4)


def test_davidson_without_ties_is_bradley_terry():
    wins, _ = games(3)
    fit, without = davidson(wins, np.zeros_like(wins)), bradley_terry(wins)
    assert (fit.strengths == without.strengths).all()
    assert fit.tie == 0
    assert math.isnan(fit.log_tie_error)


@pytest.mark.parametrize("seed", range(3))
def test_names_of_items_do_not_matter(seed):
    wins, ties = games(seed, tie=1.0, num_items=6)
    order = np.random.default_rng(seed).permutation(6)
    fit, turned = davidson(wins, ties), davidson(wins[order][:, order], ties[order][:, order])
    assert turned.strengths == pytest.approx(fit.strengths[order], abs=1e-9)
    assert turned.errors == pytest.approx(fit.errors[order], abs=1e-9)


def has_maximum(wins, ties) -> bool:
    """By linear programming: no direction in which no outcome that was seen gets less likely, and some get likelier.

    An outcome's log-odds against another change along d = (s, ln ν) by d · (its point - the other's), the points being
    e_i for i winning, e_j for j and (e_i + e_j)/2 + e_ν for a tie.
    """
    size, better = len(wins), []
    for i, j in combinations(range(size), 2):
        points = np.zeros((3, size + 1))
        points[0, i] = points[1, j] = points[2, size] = 1
        points[2, [i, j]] = 0.5
        for seen, count in enumerate((wins[i, j], wins[j, i], ties[i, j])):
            better += [points[seen] - points[other] for other in range(3) if other != seen and count]
    if not better:
        return False
    rows = np.array(better)
    found = linprog(-rows.sum(0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=[(-1, 1)] * (size + 1))
    flat = np.linalg.matrix_rank(rows) < size  # a direction, besides all strengths at once, that changes nothing
    return found.fun > -1e-9 and not flat


def test_a_fit_is_refused_just_where_there_is_none():
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        size = int(rng.integers(2, 5))
        wins = rng.integers(0, 3, (size, size)) * (rng.random((size, size)) < 0.4) * (1 - np.eye(size))
        ties = np.triu(rng.random((size, size)) < 0.4, 1).astype(float)
        ties[0, 1] = 1  # without any, ν is 0 and there is no log ν to look for
        ties = ties + np.triu(ties, 1).T
        try:
            fit = davidson(wins, ties)
        except InputError:
            refused += 1
            assert not has_maximum(wins, ties)
        else:
            assert has_maximum(wins, ties)
            assert np.abs(fit.strengths).max() < 20
    assert 50 < refused < 250


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bradley_terry(np.kron(np.eye(2), [[0, 1], [1, 0]])), r"2 groups .* each other, \{0, 1\}, \{2, 3\}"),
        (lambda: bradley_terry([[0, 1, 1], [1, 0, 1], [0, 0, 0]]), r"2 groups, \{0, 1\}, \{2\}, and one won or lost"),
        (lambda: davidson([[0, 3], [0, 0]], [[0, 2], [2, 0]]), "share of ties has no bound"),
        (lambda: davidson([[0, 0], [0, 0]], [[0, 2], [2, 0]]), "share of ties has no bound"),
        (lambda: davidson([[0, 3], [1, 0]], [[0, 2], [1, 0]]), "must be symmetric"),
        (lambda: bradley_terry([[1, 2], [1, 0]]), "0 on the diagonal"),
        (lambda: bradley_terry([[0, -2], [1, 0]]), "not negative"),
        (lambda: bradley_terry([[0, 2, 1], [1, 0, 1]]), "items × items"),
        (lambda: bradley_terry([[0, 2], [1, 0]], ridge=-1), "ridge -1"),
        (lambda: plackett_luce([[0, 1, 1]], 3), r"ranking 0, \[0, 1, 1\]"),
        (lambda: plackett_luce([[0, 1], [0, 3]], 3), r"ranking 1, .* from 0 to 2"),
        (lambda: plackett_luce([[0, 1, 2]] * 5, 3), r"3 groups, \{0\}, \{1\}, \{2\}"),
        (lambda: plackett_luce([], 0), "num_items 0"),
        (lambda: pooled_log_odds(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), ridge=0), "must be positive"),
        (lambda: pooled_log_odds(np.zeros((2, 2)), np.zeros((2, 2))), "problems × items × items"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Many small problems


def test_pooled_problems_are_one_davidson_model():
    rng = np.random.default_rng(4)
    wins = rng.poisson(1.0, (3, 3, 3)) * (1 - np.eye(3))
    ties = np.triu(rng.poisson(0.7, (3, 3, 3)), 1)
    ties = ties + ties.transpose(0, 2, 1)
    wins[2, 2, :] = wins[2, :, 2] = ties[2, 2, :] = ties[2, :, 2] = 0  # two items, padded
    # The same as one big table of nine items: what was not compared does not matter, and ν is one.
    whole_wins, whole_ties = np.zeros((9, 9)), np.zeros((9, 9))
    for p in range(3):
        whole_wins[3 * p : 3 * p + 3, 3 * p : 3 * p + 3] = wins[p]
        whole_ties[3 * p : 3 * p + 3, 3 * p : 3 * p + 3] = ties[p]
    found, whole = pooled_log_odds(wins, ties, ridge=0.7), davidson(whole_wins, whole_ties, ridge=0.7).log_odds
    for p in range(3):
        assert found[p] == pytest.approx(whole[3 * p : 3 * p + 3, 3 * p : 3 * p + 3], abs=1e-9)
    alone = pooled_log_odds(wins[2:], ties[2:])
    assert alone[0, :2, :2] == pytest.approx(pooled_log_odds(wins[2:, :2, :2], ties[2:, :2, :2])[0], abs=1e-9)


def test_a_davidson_prior_is_scipys_maximum():
    wins, ties = np.array([[0, 3.0], [0, 0]]), np.array([[0, 1.0], [1, 0]])
    loss = davidson_loss(wins, ties)  # of s_1 - s_0: each strength is half of it
    oracle = minimize(lambda at: loss(at) + at[0] ** 2 / 4 + at[1] ** 2 / 2, np.zeros(2), jac="3-point", tol=1e-9)
    fit = davidson(wins, ties, ridge=1.0)
    assert fit.strengths == pytest.approx([-oracle.x[0] / 2, oracle.x[0] / 2], abs=1e-6)
    assert math.log(fit.tie) == pytest.approx(oracle.x[1], abs=1e-6)


def test_more_votes_say_more_and_ties_say_less():
    def votes(won, lost, tied):
        return [[0, won], [lost, 0]], [[0, tied], [tied, 0]]

    wins, ties = zip(
        *[votes(1, 0, 0), votes(3, 0, 0), votes(3, 0, 3), votes(3, 1, 0), votes(0, 2, 0), votes(0, 0, 4)], strict=True
    )
    one, three, tied, split, lost, even = pooled_log_odds(wins, ties)[:, 0, 1]
    assert even == pytest.approx(0, abs=1e-9)
    assert lost < 0 < one < three
    assert 0 < tied < three
    assert 0 < split < three


def test_ten_thousand_problems_take_seconds():
    rng = np.random.default_rng(0)
    wins = rng.poisson(0.5, (10_000, 4, 4)) * (1 - np.eye(4))
    found = pooled_log_odds(wins, np.zeros_like(wins))
    assert found.shape == (10_000, 4, 4)
    assert np.isfinite(found).all()


# Plackett–Luce


def rankings_of(seed: int):
    """Rankings of two to all of the items, from Plackett and Luce's model; nobody was always first or last."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 8))
    strengths = rng.normal(0, 1, size)
    while True:
        drawn = []
        for _ in range(int(rng.integers(12, 40))):
            shown = rng.permutation(size)[: rng.integers(2, size + 1)]
            drawn.append(shown[np.argsort(-(strengths[shown] + rng.gumbel(size=len(shown))))].tolist())
        try:
            plackett_luce(drawn, size)
        except InputError:
            continue
        return drawn, size


@pytest.mark.parametrize("seed", SEEDS)
def test_plackett_luce_is_choixs(seed):
    drawn, size = rankings_of(seed)
    fit = plackett_luce(drawn, size)
    oracle = choix.ilsr_rankings(size, drawn, alpha=0.0, max_iter=10_000, tol=1e-12)
    assert fit.strengths == pytest.approx(centred(oracle), abs=1e-6)
    penalised = choix.opt_rankings(size, drawn, alpha=0.1, tol=1e-12)
    assert plackett_luce(drawn, size, ridge=0.2).strengths == pytest.approx(penalised, abs=1e-6)


def test_plackett_luce_errors_are_the_curvature():
    drawn, size = rankings_of(5)
    fit = plackett_luce(drawn, size)

    def loss(at):
        worth = np.exp(np.concatenate([[0.0], at]))
        return -sum(math.log(worth[r[t]] / sum(worth[i] for i in r[t:])) for r in drawn for t in range(len(r) - 1))

    at = fit.strengths[1:] - fit.strengths[0]
    assert fit.log_likelihood == pytest.approx(-loss(at))
    gaps = fit.covariance + fit.covariance[0, 0] - fit.covariance[:, :1] - fit.covariance[:1]
    assert gaps[1:, 1:] == pytest.approx(np.linalg.inv(curvature(loss, at)), rel=1e-3, abs=1e-5)


def test_plackett_luce_of_pairs_is_bradley_terry():
    wins, _ = games(1)
    assert plackett_luce(listed(wins), len(wins)).strengths == pytest.approx(bradley_terry(wins).strengths, abs=1e-9)
    assert plackett_luce(listed(wins), len(wins)).errors == pytest.approx(bradley_terry(wins).errors, abs=1e-9)
