"""The verbs that work on a preference store: label, export, import. A part of the command line (cli.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tether.printing import facts_lines

StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="A preference store: a file or postgresql://… address.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_verbs(app: typer.Typer) -> None:
    """Makes them verbs of the command line."""
    app.command()(label)
    app.command()(export)
    app.command("import")(import_)


def label(
    store: StorePath,
    project: Annotated[str, typer.Option(help="Name of the project whose open items they answer.")],
    annotators: Annotated[
        str, typer.Option(help="vader (ten simulated raters), or a TOML file that describes an AI judge.")
    ] = "vader",
    noise: Annotated[float, typer.Option(min=0, help="Spread of what is added to each rater's opinion.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same labels.")] = 0,
    as_json: Json = False,
) -> None:
    """Have programs label a project, by its guideline and overlap; again, they go on where they were."""
    from tether.pipeline import stores
    from tether.pipeline.label_stage import told

    found = stores.label_store(store, project, annotators, noise=noise, seed=seed)
    print(json.dumps(found, indent=2) if as_json else told(found))


def export(
    store: StorePath,
    out: Annotated[
        Path, typer.Option(help="A .jsonl, .parquet or .csv (for spreadsheets) file, or a new folder with a card.")
    ],
    shape: Annotated[
        str, typer.Option(help="preferences, rankings, unpaired, ratings, demonstrations or judgements.")
    ] = "preferences",
    project: Annotated[list[str] | None, typer.Option(help="Only this project; repeatable.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only annotators of this kind: human, ai, simulated; repeatable.")
    ] = None,
    guideline: Annotated[
        list[int] | None, typer.Option(help="Only answers by this version of the project's guideline; repeatable.")
    ] = None,
    until: Annotated[int | None, typer.Option(min=0, help="The last judgement to know of; the newest if none.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the prompts that go to the split `test`.")] = 0.0,
    min_votes: Annotated[int, typer.Option(help="Leave out rows of fewer annotators.")] = 1,
    min_agreement: Annotated[float, typer.Option(help="Leave out rows with a smaller share of votes for them.")] = 0.0,
    margin: Annotated[str, typer.Option(help="Of preferences: log_odds, strength, davidson or crowd.")] = "log_odds",
    order: Annotated[str, typer.Option(help="Of rankings: worth or mean_rank.")] = "worth",
    format: Annotated[str, typer.Option(help="What a folder holds: jsonl, csv, parquet or datasets.")] = "jsonl",
    license: Annotated[str | None, typer.Option(help="The card's licence, as hubs spell it: cc-by-4.0 …")] = None,
    salt_file: Annotated[
        Path | None, typer.Option(help="A text that pseudonyms are hashed with; the store's own when not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a dataset from the judgements of a store, annotators under pseudonyms."""
    from tether.pipeline import stores

    shaping = {"margin": margin, "order": order, "held_out": held_out, "min_votes": min_votes}
    made = stores.export_store(
        store,
        out,
        shape,
        shaping | {"min_agreement": min_agreement},
        projects=project or (),
        kinds=kind or (),
        versions=guideline or (),
        until=until,
        salt_file=salt_file,
        format=format,
        license=license,
    )
    _show(made, as_json)


def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON, JSONL, CSV, Parquet, a datasets folder, a hub id.")
    ],
    store: Annotated[str, typer.Option(help="A preference store, made when missing.")],
    project: Annotated[str, typer.Option(help="Name of the project, made when missing.")],
    format: Annotated[
        str, typer.Option(help="auto, argilla, label-studio, judgements, ultrafeedback or plain.")
    ] = "auto",
    kind: Annotated[
        str | None, typer.Option(help="Kind of a new project: pair, ranking, rating, edit; found out when not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split of a dataset.")] = "train",
    prompt_field: Annotated[str | None, typer.Option(help="The field that is answered.")] = None,
    response_field: Annotated[
        list[str] | None, typer.Option(help="A field that answers it, or lists the answers; repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A question to pass over; repeatable.")] = None,
    suggestions: Annotated[
        bool, typer.Option("--suggestions", help="Take models' suggestions as answers of AI annotators.")
    ] = False,
    annotator: Annotated[str, typer.Option(help="Whose the answers are where the file does not say.")] = "imported",
    guideline: Annotated[Path | None, typer.Option(help="Text file of what the annotators were told.")] = None,
    overlap: Annotated[
        int | None, typer.Option(min=1, help="Answers each item wants; as many as the file has when not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add answers given elsewhere to a store; a file imported again adds nothing."""
    from tether.pipeline import stores

    told = {
        "prompt": prompt_field,
        "responses": tuple(response_field or ()),
        "ignore": tuple(ignore or ()),
        "suggestions": suggestions,
        "annotator": annotator,
    }
    found = stores.import_file(
        store, file, project, told, split=split, format=format, kind=kind, guideline=guideline, overlap=overlap
    )
    _show(found, as_json)


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    print(json.dumps(found, indent=2) if as_json else "\n".join(facts_lines(found)))
