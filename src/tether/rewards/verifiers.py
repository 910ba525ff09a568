"""Rewards that can be checked: the table of verifiers, and building one from a recipe's options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tether.config import Section
from tether.config.problems import nearest, problems
from tether.errors import InputError
from tether.rewards.answers import Exact, Format, Numeric, Regex
from tether.rewards.code import Code
from tether.rewards.gym import Gym
from tether.rewards.symbolic import Symbolic
from tether.types import Scorer

VERIFIERS: dict[str, type[Section]] = {
    "exact": Exact,
    "numeric": Numeric,
    "symbolic": Symbolic,
    "format": Format,
    "regex": Regex,
    "code": Code,
    "gym": Gym,
}
"""Name → the section of its options. Its instances are scorers."""


def build_verifier(name: str, options: Mapping[str, Any]) -> Scorer:
    """The scorer `name` with these options.

    >>> from tether.types import Group, Prompt, Response
    >>> group = Group(Prompt((), meta={"answer": "7"}), (Response((), "3 + 4 = 7"), Response((), "3 + 4 = 8")))
    >>> build_verifier("numeric", {})([group])
    tensor([1., 0.])

    Raises:
        InputError: no such verifier or option, a value it does not take, a package that is missing, or (for `code`) a
            machine that cannot contain programs.
    """
    if name not in VERIFIERS:
        raise InputError(f"there is no verifier {name!r}; {nearest(name, VERIFIERS)}")
    section = VERIFIERS[name]
    try:
        verifier = section.model_validate_json(json.dumps(dict(options), default=str))
    except ValidationError as error:
        raise InputError("; ".join(problems(error, section, f"verifier '{name}'"))) from None
    assert callable(verifier)
    return verifier
