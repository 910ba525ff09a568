"""How many annotators an item wants: what their majority is worth, and what it costs.

    python -m tether.feedback.overlap        # the table of docs/annotation.md

Annotators here are right about a pair with the same probability p, independently of each other, and know no ties.
Real ones err together on hard items, so a majority gains less than this says. Left out: weights by reliability.
"""

from __future__ import annotations

import math

from tether.errors import InputError

_ACCURACIES = (0.65, 0.75, 0.836, 0.9)  # 0.836: what an agreement of 72.6 % comes to
_ANNOTATORS = (1, 3, 5, 7)


def majority_accuracy(accuracy: float, annotators: int) -> float:
    """Probability that the majority of an odd number of annotators is right (Condorcet 1785).

    >>> round(majority_accuracy(0.8, 3), 3)  # 0.8³ + 3 · 0.8² · 0.2
    0.896
    """
    if annotators < 1 or annotators % 2 == 0:
        raise InputError(f"majority of {annotators}: needs an odd number of annotators, or it can be split")
    return math.fsum(
        math.comb(annotators, right) * accuracy**right * (1 - accuracy) ** (annotators - right)
        for right in range(annotators // 2 + 1, annotators + 1)
    )


def agreement_of(accuracy: float) -> float:
    """How often two such annotators agree: both right or both wrong.

    >>> round(agreement_of(0.8), 2)
    0.68
    """
    return accuracy**2 + (1 - accuracy) ** 2


def accuracy_of(agreement: float) -> float:
    """The accuracy that makes two annotators agree this often: p of p² + (1 - p)². InputError below one half.

    >>> round(accuracy_of(0.726), 3)  # InstructGPT's labellers
    0.836
    """
    if not 0.5 <= agreement <= 1:
        raise InputError(f"agreement {agreement}: of two independent annotators is between 0.5 and 1")
    return (1 + math.sqrt(2 * agreement - 1)) / 2


def bits(accuracy: float) -> float:
    """What a label of this accuracy says of the true one, in bits: 1 - H(p), the capacity of a binary channel.

    >>> bits(0.5), bits(1.0)
    (0.0, 1.0)
    """
    return 1 + sum(p * math.log2(p) for p in (accuracy, 1 - accuracy) if p)


def table() -> str:
    """Markdown: accuracy of the majority and bits per judgement, for each accuracy and number of annotators."""
    heads = [f"majority of {n}" if n > 1 else "one" for n in _ANNOTATORS]
    rows = [["right alone", "two agree", *heads], ["---"] * (2 + len(heads))]
    for p in _ACCURACIES:
        label = {n: majority_accuracy(p, n) for n in _ANNOTATORS}
        cells = [f"{right:.1%} · {bits(right) / n:.2f}" for n, right in label.items()]
        rows.append([f"{p:.1%}", f"{agreement_of(p):.1%}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
