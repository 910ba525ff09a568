"""The reference pages, written from the code: every command, recipe field, metric, verifier and call of the API.

`make docs` (or `python -m tether.reference`) writes them to docs/reference/; a test fails when they are out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def pages() -> dict[str, str]:
    """File name → Markdown."""
    from tether.config.reference import recipe_reference
    from tether.pipeline import sections

    return {
        "api.md": api_reference(),
        "commands.md": command_reference(),
        "metrics.md": metric_reference(),
        "recipes.md": recipe_reference(sections()),
        "verifiers.md": verifier_reference(),
    }


def command_reference() -> str:
    """Every verb with its arguments and options."""
    from typer.main import get_command

    from tether.cli import app

    parts = [
        "# Command reference\n\nA mistake of yours ends with one sentence on the standard error and exit code 2; "
        "an interrupt with 130.",
        *(_command(name, command) for name, command in _commands(get_command(app), "tether")),
    ]
    return "\n\n".join(parts) + "\n"


def metric_reference() -> str:
    """Every number a run logs."""
    from tether.monitor.metrics import METRICS

    rows = [
        f"| {_cell(f'`{m.name}`')} | {_cell(m.meaning)} | {_cell(m.healthy)} | {_cell(m.when_not)} |"
        for m in METRICS.values()
    ]
    head = ["| metric | means | healthy | when it isn't |", "|---|---|---|---|"]
    intro = (
        "# Metric reference\n\nWhat a run logs, as `room/name`. A name that ends in `/*` stands for every name with "
        "that beginning. Means are over real response tokens or responses: no padding enters any number."
    )
    return intro + "\n\n" + "\n".join([*head, *rows]) + "\n"


def verifier_reference() -> str:
    """Every verifier's options, and the judge's."""
    from tether.config import Section
    from tether.config.judge import JudgeRewardConfig
    from tether.config.reference import section_reference
    from tether.rewards.verifiers import VERIFIERS

    intro = (
        "# Verifier reference\n\nWhat `options` a reward term takes, by what it uses: "
        '`{ use = "numeric", options = { tolerance = 0.01 } }`.'
    )
    named: dict[str, type[Section]] = {**VERIFIERS, "judge": JudgeRewardConfig}
    return "\n\n".join([intro, *(section_reference(f"`{name}`", section) for name, section in named.items())]) + "\n"


def api_reference() -> str:
    """Every call of the annotation server's JSON API, with the fields it takes."""
    from fastapi.openapi.utils import get_openapi

    from tether.feedback.web import api

    described = get_openapi(title="Tether", version="", routes=api.router.routes)
    intro = (
        "# API reference\n\nWhat programs ask of `tether annotate`, in JSON; "
        "[how to](../annotation.md#programs-that-annotate). All but `sign-in` want the header `Authorization: Bearer "
        'TOKEN`. What is refused comes back as `{"error": SENTENCE}`: 401 nobody is signed in, 404 there is no such '
        "thing for you, 409 it clashes with what is stored (a lease that ended, a guideline not read), 413 too long, "
        "422 not what the call takes, 429 too many failed sign-ins, 503 the store is away for the moment."
    )
    calls = [(path, method, call) for path, methods in described["paths"].items() for method, call in methods.items()]
    parts = [
        _call(f"{method.upper()} {path}", call, described["components"]["schemas"]) for path, method, call in calls
    ]
    return "\n\n".join([intro, *parts]) + "\n"


def _call(title: str, call: Any, schemas: Any) -> str:
    """A call, what it says in return, and the fields of its body and of its address's query."""
    fields = [(p["name"], p["required"], p["schema"]) for p in call.get("parameters", ()) if p["in"] == "query"]
    if "requestBody" in call:
        body = schemas[call["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        fields += [(n, n in body.get("required", ()), schema) for n, schema in body["properties"].items()]
    rows = [
        f"| `{name}` | {'required' if required else _given(schema)} | {_cell(schema.get('description', ''))} |"
        for name, required, schema in fields
    ]
    head = ["", "| field | default | meaning |", "|---|---|---|"]
    return "\n".join([f"## `{title}`", "", call["description"], *(head if rows else []), *rows])


def _given(schema: Any) -> str:
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children: dict[str, Any] = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def _command(path: str, command: Any) -> str:
    shown = [p for p in command.params if p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    usage = " ".join([path, *(p.metavar or p.name.upper() for p in arguments), *(["[OPTIONS]"] if options else [])])
    named = [(p.metavar or p.name.upper(), p) for p in arguments]
    named += [(" ".join([", ".join(p.opts), p.metavar or ""]), p) for p in options]
    rows = [f"| `{_cell(name)}` | {_default(p)} | {_cell(p.help or '')} |" for name, p in named]
    head = ["", "| argument or option | default | meaning |", "|---|---|---|"]
    help_text = " ".join((command.help or "").split())
    return "\n".join([f"## `{path}`", "", f"`{usage}`", "", help_text, *(head if rows else []), *rows])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False:
        return ""
    return f"`{parameter.default}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def main() -> None:
    """Writes the pages to docs/reference/, or to the folder named."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
