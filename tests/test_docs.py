"""The docs say what the code does: pages equal what the code writes, examples run, nothing public is undocumented."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tether import cli
from tether.config import LoopConfig, RunConfig, Section, StageSection, parse_recipe
from tether.config.reference import nested_sections
from tether.monitor.metrics import METRICS, described
from tether.pipeline import sections
from tether.reference import pages

ROOT = Path(__file__).parents[1]
PAGES = pages()
PROSE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_committed_page_is_what_the_code_says(name: str) -> None:
    page = ROOT / "docs" / "reference" / name
    assert page.read_text(encoding="utf-8") == PAGES[name], "out of date; run `make docs`"


def test_no_page_without_code() -> None:
    assert {p.name for p in (ROOT / "docs" / "reference").iterdir()} == PAGES.keys()


def test_every_command_is_documented() -> None:
    groups = [("tether", cli.app), ("tether recipe", cli.recipes)]
    for path, app in groups:
        for command in app.registered_commands:
            name = command.name or getattr(command.callback, "__name__", "")
            assert f"## `{path} {name}`\n" in PAGES["commands.md"]


def every_section() -> list[type[Section]]:
    """Every section a recipe can hold."""
    stages = list(dict.fromkeys(sections().values()))
    return [RunConfig, LoopConfig, StageSection, *stages, *nested_sections(stages)]


def test_every_field_is_documented() -> None:
    for section in every_section():
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no docstring"
            meaning = " ".join(field.description.replace("|", "\\|").split())
            assert re.search(rf"^\| `{name}` \|.*\| {re.escape(meaning)} \|$", PAGES["recipes.md"], re.MULTILINE)


def test_every_metric_is_documented() -> None:
    for name, metric in METRICS.items():
        assert metric.meaning
        assert metric.healthy
        assert metric.when_not
        assert f"| `{name}` |" in PAGES["metrics.md"]


def test_every_call_of_the_api_is_documented() -> None:
    """Each with its docstring, and each field that it takes with one of its own."""
    from tether.feedback.web import api

    page = PAGES["api.md"]
    for route in api.router.routes:
        assert f"## `{' '.join(route.methods)} {route.path}`\n\n{route.description}\n" in page
    fields = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE)
    assert len(fields) > 15
    assert [name for name, meaning in fields if not meaning] == []


def metric_names() -> Iterator[tuple[str, str]]:
    """(file, metric) of every `room/name` key that algorithms and the loop log."""
    for room in ("algorithms", "train"):
        for path in sorted((ROOT / "src" / "tether" / room).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Dict):
                    keys = [k.value for k in node.keys if isinstance(k, ast.Constant)]
                elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    keys = [node.slice.value]
                else:
                    continue
                yield from (
                    (path.name, k) for k in keys if isinstance(k, str) and re.fullmatch(r"[a-z]+/[a-z0-9_]+", k)
                )


def test_every_logged_metric_has_a_row() -> None:
    logged = list(metric_names())
    assert len(logged) > 10
    assert [(file, name) for file, name in logged if described(name) is None] == []


def modules() -> list[str]:
    """Dotted names of the package's modules, Alembic's scripts apart: those only run inside a migration."""
    source = ROOT / "src"
    found = [p.relative_to(source).with_suffix("").parts for p in sorted((source / "tether").rglob("*.py"))]
    return [
        ".".join(p[:-1] if p[-1] == "__init__" else p) for p in found if "migrations" not in p and p[-1] != "__main__"
    ]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    empty = Path(module.__file__ or "").stat().st_size == 0
    assert module.__doc__ or empty, f"{name} has no docstring"
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).failed == 0


def blocks(language: str) -> list[tuple[str, str]]:
    """(file, text) of every fenced block of a language in the prose."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(str(p.relative_to(ROOT)), text) for p in PROSE for text in fence.findall(p.read_text(encoding="utf-8"))]


def test_recipes_in_the_prose_check() -> None:
    found = blocks("toml")
    assert found
    for file, text in found:
        parse_recipe(tomllib.loads(text), sections(), where=file)


def test_commands_in_the_prose_exist() -> None:
    """Verbs and options of every `tether …` line, and targets of every `make …` line."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    seen = 0
    for file, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert words[1] in targets, f"{file}: {line}"
            elif words[:1] == ["tether"]:
                path = "tether " + " ".join(words[1:3] if words[1] == "recipe" else words[1:2])
                _, found, section = PAGES["commands.md"].partition(f"## `{path}`\n")
                assert found, f"{file}: {line}"
                section = section.split("\n## ")[0]
                options = [w.split("=")[0] for w in words if w.startswith("-")]
                assert [o for o in options if f"`{o}`" not in section and f"`{o} " not in section] == [], (
                    f"{file}: {line}"
                )
                seen += 1
    assert seen >= 5


def test_python_in_the_prose_compiles_and_names_what_exists() -> None:
    for file, text in blocks("python"):
        tree = ast.parse(text, file)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tether"):
                module = importlib.import_module(node.module or "")
                assert [a.name for a in node.names if not hasattr(module, a.name)] == [], file


def test_links_in_the_prose_lead_somewhere() -> None:
    for path in PROSE:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_first_lines_of_the_readme_are_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line]
    assert [line.split("#")[0].strip() for line in lines[2:4]] == ["make quickstart", "make test"]
