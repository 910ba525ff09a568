r"""Answers that can be checked by reading them: the verifiers `exact`, `numeric`, `format` and `regex`.

A verifier is a section of settings that can be called: groups in, a reward of 0 to 1 for each response out. The
reference answer is a column that came with the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tether.config import Section
from tether.errors import InputError
from tether.types import Group, Prompt

REFERENCE_COLUMNS = ("answer", "response", "solution")
"""Where a reference answer is looked for, best first, when no column is named."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class Referenced(Section):
    """Settings of a verifier that compares with a reference answer."""

    column: str | None = None
    """The prompt's column with the reference answer, or a list of right ones; `answer`, `response` or `solution` when
    not given."""


def place_of(prompt: Prompt) -> str:
    """What a message calls a prompt."""
    return f"prompt {prompt.meta.get('id', repr(prompt.text[:40]))}"


def column_of(prompt: Prompt, names: Sequence[str], what: str) -> Any:
    """The first of these columns that came with a prompt.

    Raises:
        InputError: none did; the sentence names those wanted and those there.
    """
    for name in names:
        if prompt.meta.get(name) is not None:
            return prompt.meta[name]
    wanted = " or ".join(repr(name) for name in names)
    raise InputError(
        f"{place_of(prompt)}: {what} is looked for in column {wanted}, but its columns are "
        f"{', '.join(prompt.meta) or 'none'}; name it with the option `column`"
    )


def references(prompt: Prompt, column: str | None) -> tuple[str, ...]:
    """The right answers to a prompt, as text. InputError when there is none, or it is no text or number.

    >>> references(Prompt((), meta={"answer": 4}), None)
    ('4',)
    """
    found = column_of(prompt, (column,) if column else REFERENCE_COLUMNS, "the reference answer")
    several = found if isinstance(found, list | tuple) else [found]
    if not several or not all(isinstance(one, str | int | float) for one in several):
        raise InputError(f"{place_of(prompt)}: the reference answer is {found!r}; it must be text or a number")
    return tuple(map(str, several))


def graded(groups: Sequence[Group], grade: Callable[[str, Prompt], float]) -> Tensor:
    """(S,) float32: `grade` of each response's text and its prompt."""
    grades = [grade(response.text, group.prompt) for group in groups for response in group.responses]
    return torch.tensor(grades, dtype=torch.float32)


def _words(text: str) -> str:
    return " ".join(text.split())


ALIKE: Mapping[str, Callable[[str], str]] = {
    "nothing": str,
    "space": _words,
    "case": lambda text: _words(text).casefold(),
}
"""What `exact` overlooks → how both texts are rewritten before they are compared."""


def captured(pattern: str, text: str) -> str | None:
    """What the first group of the last match caught, or the whole match of a pattern without groups; None for no match.

    >>> captured(r"<answer>(.*?)</answer>", "<answer>3</answer> no: <answer>4</answer>")
    '4'
    """
    matches = list(re.finditer(pattern, text, re.DOTALL))
    return matches[-1][min(1, matches[-1].re.groups)] if matches else None


class Exact(Referenced):
    """1 for an answer that equals the reference, else 0."""

    pattern: Pattern | None = None
    """What of the response is the answer: the first group of this expression's last match (`.` takes line ends too);
    all of it when not given."""
    ignore: Literal["nothing", "space", "case"] = "space"
    """`space` overlooks how much white space there is, `case` also the case of letters."""

    def grade(self, text: str, prompt: Prompt) -> float:
        answer = text if self.pattern is None else captured(self.pattern, text)
        rewrite = ALIKE[self.ignore]
        right = {rewrite(reference) for reference in references(prompt, self.column)}
        return float(answer is not None and rewrite(answer) in right)

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return graded(groups, self.grade)


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,6})?|\.\d+"
# A sign after a digit, a letter or a bracket is a minus between two things; a digit within a word is part of its name.
_NUMBER = re.compile(rf"((?<![\w.)\]}}])[-+])?(?<![\w.])({_DIGITS})(?:\s*/\s*({_DIGITS}))?")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` holds, braces balanced; None where there is none.

    >>> boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start = text.rfind(r"\boxed{")
    depth = 0
    for place in range(start + 6, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 7 : place]
    return None


def number_of(text: str) -> Decimal | None:
    r"""The number an answer ends in: the last one of the last `\boxed{…}`, or of the text; None where there is none.

    Understood: signs, thousands with commas, decimals, exponents, fractions (`3/4`, `\frac{3}{4}`).

    >>> number_of("12 - 5 makes 7 apples."), number_of(r"\boxed{1,234.50}, not 3"), number_of("none")
    (Decimal('7'), Decimal('1234.50'), None)
    """
    inner = boxed(text)
    plain = (text if inner is None else inner).replace("−", "-").replace("{,}", ",").replace(r"\,", "")
    matches = list(_NUMBER.finditer(_FRACTION.sub(r"\1/\2", plain)))
    if not matches:
        return None
    sign, above, below = matches[-1].groups()
    try:
        value = Decimal(above.replace(",", ""))
        value = value if below is None else value / Decimal(below.replace(",", ""))
    except ArithmeticError:  # 1/0, or an exponent beyond all bounds
        return None
    return -value if sign == "-" else value


class Numeric(Referenced):
    r"""1 for an answer whose number is the reference's within the tolerance, else 0.

    The number is the last one of `\boxed{…}`, or else of the response; of the reference likewise ("… #### 72" is 72).
    """

    tolerance: float = Field(default=1e-6, ge=0)
    """Largest difference."""
    relative: float = Field(default=0.0, ge=0)
    """Largest difference as a share of the reference, where that is more."""

    def grade(self, text: str, prompt: Prompt) -> float:
        given = number_of(text)
        return float(any(self._near(given, right, prompt) for right in references(prompt, self.column)))

    def _near(self, given: Decimal | None, right: str, prompt: Prompt) -> bool:
        wanted = number_of(right)
        if wanted is None:
            raise InputError(f"{place_of(prompt)}: the reference answer {right!r} holds no number")
        if given is None:
            return False
        try:
            room = max(Decimal(str(self.tolerance)), Decimal(str(self.relative)) * abs(wanted))
            return abs(given - wanted) <= room
        except ArithmeticError:  # beyond what Decimal can hold
            return False

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return graded(groups, self.grade)


class Format(Section):
    """1 for a response that has the wanted form from its first letter to its last, else 0.

    It says nothing of what the answer is: alone it is gamed at once.
    """

    pattern: Pattern
    """Regular expression that the whole response must match; `.` takes line ends too."""

    def grade(self, text: str, prompt: Prompt) -> float:
        return float(re.fullmatch(self.pattern, text, re.DOTALL) is not None)

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return graded(groups, self.grade)


class Regex(Section):
    """1 for a response in which the expression is found, else 0; with `column`, what it caught must be the reference.

    A pattern that backtracks without end (nested repetitions) stops the run: the response is not the author's text.
    """

    pattern: Pattern
    """Regular expression, searched for in the response; `.` takes line ends too."""
    column: str | None = None
    """Column of the prompt that the first group of the last match must equal, spaces at the ends aside."""

    def grade(self, text: str, prompt: Prompt) -> float:
        found = captured(self.pattern, text)
        if found is None or self.column is None:
            return float(found is not None)
        return float(found.strip() in {reference.strip() for reference in references(prompt, self.column)})

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return graded(groups, self.grade)
