"""What is known of a logged number, and how it is written for reading. The rows are in `metric_table`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tether.monitor.metric_table import ROWS, Metric

METRICS: dict[str, Metric] = {row.name: row for row in ROWS}
"""Name → row, in the order in which a report shows them."""

ALSO = {
    "lm/loss": "eval/loss",
    "sft/loss": "eval/loss",
    "rm/loss": "eval/loss",
    "rm/accuracy": "eval/accuracy",
    "rm/margin": "eval/margin",
    "rm/mean": "eval/mean",
    "prm/loss": "eval/loss",
    "prm/accuracy": "eval/accuracy",
    "rm/disagreement": "eval/disagreement",
    "prm/right": "eval/right",
    "prm/score": "eval/score",
    "reward/proxy": "eval/proxy",
    "kl/ref": "eval/kl",
    "rollout/length": "eval/length",
    "rollout/ended": "eval/ended",
    "rollout/distinct_2": "eval/distinct_2",
} | {
    f"{room}/{name}": f"eval/{name}"
    for room, names in {
        "dpo": (
            "loss",
            "nll",
            "accuracy",
            "margin",
            "chosen_reward",
            "rejected_reward",
            "chosen_logp",
            "rejected_logp",
        ),
        "kto": ("loss", "accuracy", "desirable_reward", "undesirable_reward"),
        "orpo": ("loss", "nll", "odds_loss", "accuracy", "margin"),
        "spin": ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward"),
    }.items()
    for name in names
}
"""Training metric → the same thing measured on held-out data, drawn on the same chart."""


def described(name: str) -> Metric | None:
    """The row of `name`, or of the `…/*` that covers it."""
    if name in METRICS:
        return METRICS[name]
    return next((row for row in ROWS if row.name.endswith("/*") and name.startswith(row.name[:-1])), None)


def undocumented(names: Iterable[str]) -> list[str]:
    """Those of `names` that the table says nothing about, sorted."""
    return sorted(name for name in set(names) if described(name) is None)


def label(name: str) -> str:
    """What a chart calls `name`: its row's label, and the part a `*` stands for."""
    row = described(name)
    if row is None:
        return name
    return f"{row.label}, {name[len(row.name) - 1 :]}" if row.name.endswith("/*") else row.label


def number(value: float) -> str:
    """`value` for reading: three significant digits, a true minus sign, powers of ten only where they are shorter.

    >>> [number(x) for x in (0.12345, -3.0, 12345.6, 3e-5, 0)]
    ['0.123', '−3', '12,346', '3e−5', '0']
    """
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(value)]
    size = abs(value)
    if value == 0 or 1e-3 <= size < 999.5:
        text = f"{value:.3g}"
    elif 999.5 <= size < 1e6:
        text = f"{value:,.0f}"
    else:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return text.replace("-", "−")
