"""The data report: what was read, what was kept, and one example as the loss sees it, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tether.errors import InputError
from tether.types import Group

if TYPE_CHECKING:
    from tether.data.template import Template

OPEN, CLOSE = "⟦", "⟧"
"""Around the tokens of the sample that are in the loss."""


@dataclass(frozen=True)
class DataReport:
    """Counts are examples; lengths are tokens."""

    source: str
    """Where they came from."""
    format: str
    """How rows were read."""
    read: int
    """Examples read."""
    kept: int
    """Examples to learn from."""
    truncated: int = 0
    """Examples cut to fit."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason → examples left out."""
    duplicates: int = 0
    """Kept examples that repeat an earlier one, token by token."""
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    """Length bin → prompts."""
    response_tokens: dict[str, int] = field(default_factory=dict)
    """Length bin → responses, trained tokens only."""
    sample: str = ""
    """The first example decoded, the tokens in the loss between ⟦ and ⟧."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For the console."""
        dropped = "".join(f", {count} dropped ({reason})" for reason, count in self.dropped.items())
        return [
            f"{self.source}: {self.format}, {self.read} read, {self.kept} kept, {self.truncated} truncated{dropped}, "
            f"{self.duplicates} duplicates",
            f"sample: {self.sample}",
        ]


def build_report(
    source: str,
    found: str,
    read: int,
    groups: Sequence[Group],
    truncated: int,
    dropped: Counter[str],
    template: Template,
) -> DataReport:
    """The report of `groups`, which is what is left of `read` examples."""
    seen = Counter((g.prompt.token_ids, *(r.token_ids for r in g.responses)) for g in groups)
    return DataReport(
        source=source,
        format=found,
        read=read,
        kept=len(groups),
        truncated=truncated,
        dropped=dict(sorted(dropped.items())),
        duplicates=len(groups) - len(seen),
        prompt_tokens=histogram([len(g.prompt.token_ids) for g in groups]),
        response_tokens=histogram([r.num_trained for g in groups for r in g.responses]),
        sample=marked(groups[0], template),
    )


def histogram(lengths: Sequence[int]) -> dict[str, int]:
    """Counts in bins that double: 1, 2-3, 4-7, …

    >>> histogram([1, 2, 3, 9])
    {'1': 1, '2-3': 2, '8-15': 1}
    """
    bins = Counter(max(0, n.bit_length() - 1) for n in lengths)
    return {f"{2**b}-{2 ** (b + 1) - 1}" if b else "1": bins[b] for b in sorted(bins)}


def marked(group: Group, template: Template) -> str:
    """An example as the model reads it, special tokens shown, what is in the loss between ⟦ and ⟧."""
    decode = template.tokenizer.decode
    text = str(decode(list(group.prompt.token_ids)))
    for response in group.responses[:1]:
        kept, run, inside = response.trained or (True,) * len(response.token_ids), list[int](), False
        for token, trained in [*zip(response.token_ids, kept, strict=True), (None, False)]:
            if (trained != inside or token is None) and run:
                text += f"{OPEN}{decode(run)}{CLOSE}" if inside else decode(run)
                run = []
            inside = trained
            run += [] if token is None else [token]
    return text


def shared_prompts(train: Sequence[Group], held_out: Sequence[Group]) -> None:
    """Held-out figures mean nothing about prompts that were trained on.

    Raises:
        InputError: a prompt is in both.
    """
    known = {g.prompt.token_ids for g in train if len(g.prompt.token_ids) > 1}
    both = [g for g in held_out if g.prompt.token_ids in known]
    if both:
        first = both[0].prompt
        raise InputError(
            f"{len(both)} of {len(held_out)} held-out prompts are in the training data too, the first "
            f"{first.text[:60]!r} (row {first.meta.get('row', '?')}); split the data by prompt"
        )
