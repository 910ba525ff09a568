"""What an answer must look like: by itself, and for the item and project it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tether.errors import InputError
from tether.feedback.facts import check_ranking, check_text
from tether.feedback.projects import settings_of
from tether.feedback.records import Answer
from tether.feedback.schema import AnyRow

_WANTED = {"pair": "ranking", "ranking": "ranking", "rating": "ratings", "edit": "correction"}
"""Kind of item → the field of the answer it wants."""
_TEXTS = ("skip", "rationale", "correction", "flag")


def check_form(answer: Answer) -> None:
    """InputError unless the answer makes sense by itself."""
    where = f"answer to assignment {answer.assignment}"
    for name in _TEXTS:
        check_text(getattr(answer, name), f"{where}: {name}")
    check_submit_key(answer.submit_key, where)
    said = [answer.ranking, answer.ratings, answer.correction]
    if (answer.skip is None) == all(part is None for part in said) or answer.skip == "":
        raise InputError(f"{where}: give either an answer (ranking, ratings or correction) or a reason to skip")
    if answer.skip is not None and (answer.strength is not None or answer.all_bad):
        raise InputError(f"{where}: a skip has no strength and calls nothing bad")
    if answer.ranking is not None:
        check_ranking(where, answer.ranking)
    if answer.correction is not None and not answer.correction.strip():
        raise InputError(f"{where}: the correction is empty; leave it out or write one")
    if answer.strength is not None and not 0 <= answer.strength <= 3:
        raise InputError(f"{where}: strength {answer.strength} is not between 0 and 3")
    if answer.seconds is not None and not 0 <= answer.seconds < math.inf:
        raise InputError(f"{where}: seconds {answer.seconds} is no length of time")


def check_submit_key(key: str, where: str) -> None:
    """InputError unless it is one."""
    check_text(key, f"{where}: submit_key")
    if not 0 < len(key) <= 100:
        raise InputError(f"{where}: the submit key must have 1 to 100 characters")


def check_fit(answer: Answer, row: AnyRow) -> None:
    """InputError unless the answer gives what the assignment `row` asks, about the responses it showed.

    `row` has `kind` and `shown`, and the project's `settings`.
    """
    where, wanted = f"assignment {answer.assignment}", _WANTED[row.kind]
    if answer.skip is None and getattr(answer, wanted) is None:
        raise InputError(f"{where}: is of kind {row.kind}, which wants a {wanted}")
    if answer.ranking is not None:
        if wanted != "ranking":
            raise InputError(f"{where}: is of kind {row.kind}, which takes no ranking")
        if strange := set(answer.ranking) - set(row.shown):
            raise InputError(f"{where}: response {min(strange)} was not shown; rank some of {row.shown}")
    if answer.ratings is not None:
        _check_ratings(where, answer.ratings, row)


def _check_ratings(where: str, ratings: Mapping[int, Mapping[str, int]], row: AnyRow) -> None:
    bounds = {attribute.name: attribute for attribute in settings_of(row.settings).attributes}
    if not bounds:
        raise InputError(f"{where}: its project rates no attributes; name some in its settings")
    if set(ratings) != set(row.shown):
        raise InputError(f"{where}: rate every response shown, {row.shown}, and no other")
    for response, values in ratings.items():
        if set(values) != set(bounds):
            raise InputError(f"{where}: rate response {response} by {', '.join(bounds)}")
        for name, value in values.items():
            low, high = bounds[name].low, bounds[name].high
            if type(value) is not int or not low <= value <= high:
                raise InputError(f"{where}: {name} of response {response} is {value!r}, not a number {low} to {high}")
