"""Imports go one way: the rooms of `tether` and what each may know of the others and of third parties."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tether"

RECORDS = {"types", "errors", "config"}
UP_TO_MODELS = RECORDS | {"math", "data", "models"}
UP_TO_TRAIN = UP_TO_MODELS | {"monitor", "rollout", "rewards", "evals"}
ANY = {path.stem for path in SOURCE.iterdir() if path.is_dir() or path.suffix == ".py"}

# Room → the rooms it may import, besides itself.
MAY: dict[str, set[str]] = {
    "__init__": ANY,
    "errors": set(),
    "types": {"errors", "config"},
    "config": {"errors", "types"},
    "math": set(),
    "data": RECORDS,
    "monitor": RECORDS,
    "models": RECORDS | {"math", "data"},
    "rollout": UP_TO_MODELS,
    "rewards": UP_TO_MODELS,
    "algorithms": RECORDS | {"math"},
    "evals": UP_TO_MODELS | {"monitor", "rollout", "rewards"},
    "train": UP_TO_TRAIN,
    "cluster": UP_TO_TRAIN | {"train"},
    "feedback": RECORDS | {"data"},
    "pipeline": ANY - {"cli", "cli_stores", "doctor", "reference"},
    "doctor": RECORDS | {"models"},
    "reference": ANY,
    "cli": ANY,
    "cli_stores": ANY - {"cli"},
    "printing": set(),
}
HEAVY = {"torch", "transformers", "datasets", "peft", "safetensors", "tokenizers", "numpy", "pandas", "pyarrow"}
# Room → heavy third parties it may not import at the top of a module, and may not import at all.
NOT_ON_TOP: dict[str, set[str]] = {
    "errors": HEAVY,
    "types": HEAVY,
    "config": HEAVY,
    "monitor": HEAVY,
    "feedback": HEAVY - {"numpy"},
    "doctor": HEAVY,
    "reference": HEAVY,
    **dict.fromkeys(("cli", "cli_stores", "printing"), HEAVY | {"pydantic", "rich", "jinja2", "sqlalchemy"}),
    "data": {"torch"},
    "math": HEAVY - {"torch"},
}
NEVER: dict[str, set[str]] = {room: {"torch"} for room in ("errors", "types", "config", "feedback")}


class Import(NamedTuple):
    """One imported module: where, what, and whether it happens on import (neither lazily nor for types alone)."""

    where: str
    room: str
    module: str
    on_top: bool
    for_types: bool


def room_of(module: str) -> str:
    """`tether.models.role` → `models`; `tether` → `__init__`."""
    return [*module.split("."), "__init__"][1]


def imports_of(source: str, path: str, module: str) -> Iterator[Import]:
    """Every import of a module's source, wherever it stands."""

    def visit(node: ast.AST, lazy: bool, for_types: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            whole = node.module == "tether"
            names = [f"tether.{a.name}" for a in node.names] if whole else [node.module or ""]
        for name in names:
            yield Import(f"{path}:{node.lineno}", room_of(module), name, not lazy and not for_types, for_types)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                yield from visit(child, lazy, True)
            for child in node.orelse:
                yield from visit(child, lazy, for_types)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, lazy, for_types)

    yield from visit(ast.parse(source), False, False)


def wrong(found: Import, module: str) -> str | None:
    """What is wrong with an import, or None."""
    top = found.module.split(".")[0]
    if top == "tether":
        target = room_of(found.module)
        if target not in ANY:  # `from tether import __version__`
            return None
        if target not in MAY.get(found.room, set()) | {found.room, "__init__"}:
            return f"{found.where}: {found.room} may not import {target}"
        if found.room == target == "algorithms" and not module.endswith("algorithms"):
            return f"{found.where}: an algorithm may not import another"
        return None
    if found.for_types:
        return None
    if top in NEVER.get(found.room, set()):
        return f"{found.where}: {found.room} may never import {top}"
    if found.on_top and top in NOT_ON_TOP.get(found.room, set()):
        return f"{found.where}: {found.room} may import {top} only inside a function"
    return None


def modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of the package."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def test_every_room_has_a_rule() -> None:
    rooms = {room_of(module) for module, _ in modules()}
    assert rooms <= MAY.keys()


def test_imports_go_one_way() -> None:
    problems = [
        problem
        for module, path in modules()
        for found in imports_of(path.read_text(encoding="utf-8"), str(path.relative_to(SOURCE)), module)
        if (problem := wrong(found, module))
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("tether.math.kl", "import numpy", "math may import numpy only inside a function"),
        ("tether.math.kl", "from tether.types import Group", "math may not import types"),
        ("tether.math.kl", "from tether import types", "math may not import types"),
        ("tether.rollout.native", "def f():\n    import tether.rewards.judge", "rollout may not import rewards"),
        ("tether.types", "def f():\n    import torch", "types may never import torch"),
        ("tether.data.load", "import torch.nn", "data may import torch only inside a function"),
        ("tether.algorithms.ppo", "from tether.algorithms.sft import loss", "an algorithm may not import another"),
        ("tether.cli", "if True:\n    import rich.console", "cli may import rich only inside a function"),
        (
            "tether.models.role",
            "if TYPE_CHECKING:\n    from tether.train.loop import Run",
            "models may not import train",
        ),
        ("tether.data.load", "def f():\n    import torch", None),
        ("tether.types", "if TYPE_CHECKING:\n    import torch", None),
        ("tether.cli", "def f():\n    import torch", None),
        ("tether.algorithms", "from tether.algorithms.sft import SFT", None),
        ("tether.models.role", "from tether.models.plan import infer", None),
    ],
)
def test_the_rules_bite(module: str, source: str, says: str | None) -> None:
    found = [problem for i in imports_of(source, "x.py", module) if (problem := wrong(i, module))]
    assert found == ([] if says is None else [f"x.py:{len(source.splitlines())}: {says}"])


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ("tether.types, tether.errors, tether.config", HEAVY),
        ("tether.monitor.log, tether.monitor.metrics, tether.monitor.report", {"torch", "transformers", "datasets"}),
        ("tether.feedback.store", {"torch", "transformers", "datasets"}),
        ("tether.cli", HEAVY | {"pydantic", "rich", "jinja2", "sqlalchemy"}),
    ],
)
def test_light_rooms_import_light(names: str, absent: set[str]) -> None:
    """What is really loaded, third parties' own imports included."""
    code = f"import sys, {names}\nprint(*({absent!r} & {{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
