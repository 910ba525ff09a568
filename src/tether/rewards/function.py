"""Rewards from a plain Python function with TRL's signature: `(prompts, completions, **columns) -> list[float]`.

Prompts and completions come as TRL gives them: strings, or message lists where the prompt is a conversation. Columns
are what came with the prompts (`Prompt.meta`). Left out: `environments`, `trainer_state` (None) and the two log
functions (they do nothing).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tether.errors import InputError
from tether.types import Group

RewardFunction = Callable[..., Any]
"""TRL's signature; may be a coroutine function."""


def load_function(name: str) -> RewardFunction:
    """The callable that `module:function` names; the working directory is searched first.

    Raises InputError when the name has another form, the module does not import, or there is no such callable in it.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise InputError(f"reward function {name!r} must be named as module:function, such as rewards:shorter")
    module = _imported(module_name, name)
    try:
        function: Any = reduce(getattr, path.split("."), module)
    except AttributeError:
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module_name]
        raise InputError(
            f"reward function {name!r}: module {module_name!r} has no {path!r}; its functions are: "
            f"{', '.join(sorted(own)) or 'none'}"
        ) from None
    if not callable(function):
        raise InputError(f"reward function {name!r} is of type {type(function).__name__}; it must be callable")
    return function  # type: ignore[no-any-return]


def _imported(module_name: str, name: str) -> Any:
    here = os.getcwd()
    known = here in sys.path
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]
        what = f"there is no module {module_name!r}" if missing else f"{type(error).__name__}: {error}"
        raise InputError(
            f"reward function {name!r} cannot be imported from {here} or the installed packages: {what}"
        ) from error
    finally:
        sys.path.remove(here)
        # What the function imports when it runs is found too, but shadows nothing.
        if not known:
            sys.path.append(here)


class FunctionScorer:
    """Groups → (S,) float32 rewards that `function` gives.

    Columns are `columns` of `Prompt.meta`, or all of them, None where a prompt has none of that name. The function gets
    those of its parameters' names, or all with `**kwargs`; `completion_ids` are the response's tokens.
    Raises InputError, naming the function and the sample, where it raises or gives anything but one finite number each.
    """

    def __init__(self, function: RewardFunction, columns: Sequence[str] | None = None) -> None:
        self.function = function
        self.columns = columns
        module = getattr(function, "__module__", None)
        short = getattr(function, "__qualname__", type(function).__name__)
        self.name = f"{module}:{short}" if module else short

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        if not any(group.responses for group in groups):
            return torch.zeros(0)
        arguments = self._arguments(groups)
        try:
            if inspect.iscoroutinefunction(self.function):
                given = asyncio.run(self.function(**arguments))
            else:
                given = self.function(**arguments)
        except Exception as error:
            count = sum(len(group.responses) for group in groups)
            raise InputError(
                f"reward function {self.name} failed on {count} responses to prompts {_name(groups, 0)} to "
                f"{_name(groups, len(groups) - 1)}: {type(error).__name__}: {error}"
            ) from error
        return torch.tensor(self._checked(given, groups), dtype=torch.float32)

    def _arguments(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Keyword arguments, each a list with one entry a response, of which the function takes some or all."""
        pairs = [(group.prompt, response) for group in groups for response in group.responses]
        columns = self.columns
        if columns is None:
            columns = list(dict.fromkeys(name for prompt, _ in pairs for name in prompt.meta))
        arguments: dict[str, Any] = {name: [prompt.meta.get(name) for prompt, _ in pairs] for name in columns}
        arguments |= {
            "prompts": [[dict(m) for m in p.messages] if p.messages else p.text for p, _ in pairs],
            "completions": [[{"role": "assistant", "content": r.text}] if p.messages else r.text for p, r in pairs],
            "completion_ids": [list(response.token_ids) for _, response in pairs],
            "trainer_state": None,
            "log_extra": _ignore,
            "log_metric": _ignore,
        }
        return self._accepted(arguments)

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:  # written in C
            return arguments
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
        missing += [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
        if missing:
            raise InputError(
                f"reward function {self.name} wants {', '.join(missing)}, which the data does not have; there are: "
                f"{', '.join(arguments)}"
            )
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return arguments
        return {p.name: arguments[p.name] for p in named if p.name in arguments}

    def _checked(self, given: Any, groups: Sequence[Group]) -> list[float]:
        """The rewards as floats."""
        samples = [(index, number) for index, group in enumerate(groups) for number in range(len(group.responses))]
        if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict):
            raise InputError(
                f"reward function {self.name} gave a {type(given).__name__}; it must give a list of "
                f"{len(samples)} numbers, one a response"
            )
        values = given.tolist() if isinstance(given, Tensor) else list(given)
        if len(values) != len(samples):
            raise InputError(
                f"reward function {self.name} gave {len(values)} rewards for {len(samples)} responses; it must give "
                "one for each"
            )
        rewards = []
        for value, (index, number) in zip(values, samples, strict=True):
            scalar = value.item() if getattr(value, "size", None) == 1 or isinstance(value, Tensor) else value
            if not isinstance(scalar, Real) or not math.isfinite(scalar):
                text = groups[index].responses[number].text
                raise InputError(
                    f"reward function {self.name} gave {value!r} for response {number} to prompt "
                    f"{_name(groups, index)} ({text[:80]!r}); a reward must be a finite number"
                )
            rewards.append(float(scalar))
        return rewards


def _name(groups: Sequence[Group], index: int) -> str:
    return str(groups[index].prompt.meta.get("id", f"number {index}"))


def _ignore(*_: Any) -> None:
    """TRL's `log_extra(column, values)` and `log_metric(name, value)`."""
