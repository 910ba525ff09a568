"""Responses in steps: where each one ends, found on the tokens as they were written or sampled.

A step ends at the token that completes a delimiter; the last one also where the text ends. Empty steps are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tether.data.template import Template
from tether.errors import InputError
from tether.types import Group, Prompt, Response

Decode = Callable[[Sequence[int]], str]
"""Token ids → text, special tokens left out; `Template.decode` is one."""


def step_ends(token_ids: Sequence[int], decode: Decode, delimiter: str = "\n") -> tuple[int, ...]:
    """The index of each step's last token.

    Tokens stay as they were sampled: the text is decoded from the step's start, one token more each time. A token that
    holds a delimiter and the next step's first letters ends the step before. The last step, if no delimiter follows,
    ends at the last token that shows something: not at an end of turn, nor at a space.

    >>> text = {0: "a", 1: "b", 2: "\\n", 3: ".\\n\\n", 4: ""}
    >>> step_ends([0, 1, 2, 2, 0, 3, 1, 4], lambda ids: "".join(text[i] for i in ids))
    (2, 5, 6)
    """
    ends: list[int] = []
    start, begun, shown, last = 0, "", "", 0
    for i in range(len(token_ids)):
        text = begun + decode(token_ids[start : i + 1])
        last = i if text.strip() != shown.strip() else last
        shown = text
        *complete, rest = text.split(delimiter)
        if complete:
            if any(part.strip() for part in complete):
                ends.append(i)
            start, begun, shown = i + 1, rest, rest
    if shown.strip() and last not in ends:
        ends.append(last)
    return tuple(ends)


def mark_steps(response: Response, decode: Decode, delimiter: str = "\n") -> Response:
    """The response with only its steps' last tokens on the flat axis, as a process reward model learns and scores it.

    >>> text = {5: "x", 9: "\\n", 6: "y", 2: ""}
    >>> mark_steps(Response((5, 9, 6, 2)), lambda ids: "".join(text[i] for i in ids)).trained
    (False, True, True, False)
    """
    ends = set(step_ends(response.token_ids, decode, delimiter))
    return replace(response, trained=tuple(i in ends for i in range(len(response.token_ids))))


def stepwise(
    prompt: Prompt, steps: Sequence[str], labels: Sequence[bool], template: Template, delimiter: str = "\n"
) -> Group:
    """A response in labelled steps: its text is the steps with `delimiter` between them, and marked where each ends.

    Raises:
        InputError: the tokens have more or fewer steps than labels: a step is empty or holds the delimiter, or one
            token is the end of two steps.
    """
    whole = "".join(step if step.endswith(delimiter) else step + delimiter for step in steps[:-1]) + steps[-1]
    response = mark_steps(template.respond(prompt, whole), template.decode, delimiter)
    if response.num_trained != len(labels):
        raise InputError(
            f"has {len(labels)} labels, but its tokens make {response.num_trained} steps: a step may be neither empty "
            f"nor hold the delimiter {delimiter!r}, and no token may be the end of two"
        )
    return Group(prompt, (response,), {"steps": tuple(labels)})
