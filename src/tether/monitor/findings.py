"""What a run achieved, in plain words: measures from an evaluation, and sentences a person should read first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tether.monitor.metrics import label, number
from tether.monitor.scales import Point

SHARES = frozenset({"win_rate", "accuracy", "ended", "distinct_1", "distinct_2", "commonest"})
"""Measures that are shares of a whole, written in per cent."""
PER_CENT = "\N{NO-BREAK SPACE}%"
LABELS = {"accuracy": "Reward model's accuracy", "commonest": "Commonest reply"}
UNITS = {
    "kl": "nats a reply",
    "length": "tokens a reply",
    "commonest": "of the prompts get it",
    "accuracy": "of held-out comparisons",
    "distinct_2": "of the pairs are different",
}
"""What the number counts, said small under it."""
ORDER = ("win_rate", "gold", "accuracy", "kl", "distinct_2", "length")
"""Measures a headline shows first."""
MIN_VARIETY, MIN_LENGTH, MAX_LENGTH, MAX_KL, MIN_ACCURACY, MAX_SAME = 0.6, 0.6, 1.6, 10.0, 0.65, 0.1
"""Limits of the warnings: ratios to the start policy, nats, share of comparisons, share of equal replies."""


class Measure(NamedTuple):
    """One number of an evaluation."""

    name: str
    value: float
    low: float | None = None
    """Ends of its 95 % interval."""
    high: float | None = None
    n: int | None = None
    """Prompts or comparisons it was measured on."""
    baseline: float | None = None
    """The same number for what the policy is compared with."""
    against: str = "the start policy"
    """What it is compared with."""
    note: str = ""
    """A text that goes with it: the commonest reply."""

    @property
    def label(self) -> str:
        if self.name in LABELS:
            return LABELS[self.name]
        return label(f"eval/{self.name}").removeprefix("eval/").replace("_", " ")

    @property
    def unit(self) -> str:
        return UNITS.get(self.name, "")

    def text(self, value: float | None = None) -> str:
        """The value (or another on the same scale) for reading."""
        value = self.value if value is None else value
        return percent(value) if self.name in SHARES else number(value)

    @property
    def interval(self) -> str:
        """`76–86 %`, or nothing."""
        if self.low is None or self.high is None:
            return ""
        low, high = self.text(self.low), self.text(self.high)
        return f"{low.removesuffix(PER_CENT)}–{high}"


class Finding(NamedTuple):
    """A sentence for the top of the report."""

    level: Literal["good", "note", "warn"]
    text: str


def percent(share: float) -> str:
    return f"{100 * share:.0f}{PER_CENT}".replace("-", "−") if math.isfinite(share) else number(share)


def measures(evaluation: Mapping[str, Any]) -> list[Measure]:
    """The numbers of an evaluation, the most telling first.

    A value is a number or a mapping with `value` and any of `low`, `high`, `n`, `baseline`, `against`; names may begin
    with `eval/`. Anything else in `evaluation` is not a measure.
    """
    found = []
    for key, item in evaluation.items():
        name = key.removeprefix("eval/")
        if isinstance(item, Mapping) and _is_number(item.get("value")):
            known = {k: item[k] for k in ("low", "high", "n", "baseline", "against", "note") if item.get(k) is not None}
            found.append(Measure(name, float(item["value"]), **known))
        elif _is_number(item):
            found.append(Measure(name, float(item)))
    return sorted(found, key=lambda m: ORDER.index(m.name) if m.name in ORDER else len(ORDER))


def findings(evaluation: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
    """Sentences about an evaluation and the events of the policy's training, the gain first."""
    by_name = {m.name: m for m in measures(evaluation)}
    judged = [rule(by_name[name]) for name, rule in _RULES.items() if name in by_name]
    judged.append(_past_the_peak(_judged(events)))
    judged += [
        Finding("warn", f"Step {e['step']}: {e.get('text', 'an alarm')}") for e in events if e.get("kind") == "alarm"
    ]
    return [finding for finding in judged if finding is not None]


def over_optimisation(events: Sequence[Mapping[str, Any]]) -> tuple[list[Point], list[Point]]:
    """(KL, proxy) and (KL, gold) of the evaluations that measured all three, in the order of training."""
    whole = _judged(events)
    return [(e["eval/kl"], e["eval/proxy"]) for e in whole], [(e["eval/kl"], e["eval/gold"]) for e in whole]


def as_evaluation(metrics: Mapping[str, Any], against: str = "the start policy") -> dict[str, Any]:
    """What `findings` and `measures` read, from the figures of an `evaluate` stage; `against` names its baseline."""
    evaluation: dict[str, Any] = {}
    if won := metrics.get("win_rate"):
        evaluation["win_rate"] = {**_interval(won, "rate"), "n": won["wins"] + won["ties"] + won["losses"]}
    if metrics.get("kl"):
        evaluation["kl"] = _interval(metrics["kl"])
    if quality := metrics.get("reward_model"):
        evaluation["accuracy"] = {**_interval(quality["accuracy"]), "n": quality["num"]}
    baseline = metrics.get("baseline") or {}
    for name, item in (metrics.get("policy") or {}).items():
        other = baseline.get(name)
        if name == "commonest":
            evaluation[name] = {"value": item["share"], "note": item["text"], "baseline": other and other["share"]}
        elif isinstance(item, Mapping):
            evaluation[name] = {**_interval(item), "baseline": other and other["estimate"]}
        else:
            evaluation[name] = {"value": item, "baseline": other}
    return {name: {**item, "against": against} for name, item in evaluation.items()}


def _interval(item: Mapping[str, Any], name: str = "estimate") -> dict[str, Any]:
    return {"value": item[name], "low": item["low"], "high": item["high"]}


def _judged(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    needed = ("eval/kl", "eval/proxy", "eval/gold")
    return [e for e in events if e.get("kind") == "eval" and all(_is_number(e.get(name)) for name in needed)]


def _win_rate(m: Measure) -> Finding:
    size = f", {m.n} prompts" if m.n else ""
    span = f" (95 % interval {m.interval}{size})" if m.interval else f" ({m.n} prompts)" if m.n else ""
    if m.low is not None and m.low > 0.5:
        return Finding(
            "good", f"On held-out prompts its reply is preferred to that of {m.against} {m.text()} of the time{span}."
        )
    if m.high is not None and m.high < 0.5:
        return Finding(
            "warn", f"It got worse: its reply is preferred to that of {m.against} only {m.text()} of the time{span}."
        )
    return Finding(
        "warn", f"No gain is shown: its reply is preferred to that of {m.against} {m.text()} of the time{span}."
    )


def _accuracy(m: Measure) -> Finding | None:
    if m.low is not None and m.low <= 0.5:
        return Finding(
            "warn", f"The reward model may be no better than a coin: {m.text()} of held-out comparisons ({m.interval})."
        )
    if m.value < MIN_ACCURACY:
        return Finding(
            "warn",
            f"The reward model is weak: it gets {m.text()} of held-out comparisons right; "
            "gains measured by it mean little.",
        )
    return None


def _variety(m: Measure) -> Finding | None:
    if not m.baseline or m.value >= MIN_VARIETY * m.baseline:
        return None
    return Finding(
        "warn",
        f"Replies have become alike: {m.text()} of the word pairs are different, against {m.text(m.baseline)} "
        f"for {m.against}. Read the samples before trusting the gain; stop earlier or raise β.",
    )


def _length(m: Measure) -> Finding | None:
    if not m.baseline or MIN_LENGTH <= m.value / m.baseline <= MAX_LENGTH:
        return None
    word = "shorter" if m.value < m.baseline else "longer"
    return Finding(
        "warn",
        f"Replies are much {word}: {m.text()} tokens on average, {m.text(m.baseline)} for {m.against}; "
        "the reward may be measuring length.",
    )


def _kl(m: Measure) -> Finding | None:
    if m.value <= MAX_KL:
        return None
    return Finding(
        "warn",
        f"The policy is far from its reference: {m.text()} nats a reply; a higher β or fewer steps keep it closer.",
    )


def _commonest(m: Measure) -> Finding | None:
    if m.value <= MAX_SAME or m.value <= 2 * (m.baseline or 0.0):
        return None
    return Finding("warn", f"{m.text()} of the prompts get one and the same reply: “{m.note[:80]}”.")


def _past_the_peak(whole: Sequence[Mapping[str, Any]]) -> Finding | None:
    """Gold has lost over a tenth of what it had gained at its peak, while the proxy has not fallen since."""
    if len(whole) < 3:
        return None
    first, last, peak = whole[0], whole[-1], max(whole, key=lambda e: e["eval/gold"])
    lost = peak["eval/gold"] - last["eval/gold"]
    if lost <= 0.1 * (peak["eval/gold"] - first["eval/gold"]) or last["eval/proxy"] < peak["eval/proxy"]:
        return None
    return Finding(
        "warn",
        f"The reward is being gamed: the gold score peaked at step {peak['step']} ({number(peak['eval/gold'])}, "
        f"KL {number(peak['eval/kl'])}) and has fallen to {number(last['eval/gold'])} while the proxy rose on. "
        f"The checkpoint of step {peak['step']} is the better one.",
    )


_RULES = {
    "win_rate": _win_rate,
    "accuracy": _accuracy,
    "distinct_2": _variety,
    "commonest": _commonest,
    "length": _length,
    "kl": _kl,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
