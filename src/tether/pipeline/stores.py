"""Verbs on a preference store: have programs label a project, export data, import answers given elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import ValidationError

from tether.config import DataConfig, read_toml
from tether.config.judge import JudgeConfig
from tether.config.problems import problems
from tether.errors import InputError
from tether.feedback import open_store
from tether.feedback.annotators import vader_raters
from tether.pipeline.judges import asker, check_judge, judge_of
from tether.pipeline.place import model_at

if TYPE_CHECKING:
    from tether.feedback.records import ItemKind, UserKind
    from tether.feedback.store import Store


@contextmanager
def standing_store(where: str) -> Iterator[Store]:
    """A store that is there already. InputError when it is not."""
    if "://" not in where and not Path(where).is_file():
        raise InputError(f"{where}: there is no such store; give a file, or a postgresql://… address")
    with open_store(where) as store:
        yield store


def project_named(store: Store, name: str) -> int:
    """The id of a project; InputError names those there are."""
    known = {project.name: project.id for project in store.projects()}
    if name not in known:
        raise InputError(f"project {name!r}: is not in this store; there are: {', '.join(known) or 'none'}")
    return known[name]


def export_store(
    where: str,
    out: Path,
    shape: str,
    shaping: Mapping[str, Any],
    *,
    projects: Sequence[str] = (),
    kinds: Sequence[str] = (),
    versions: Sequence[int] = (),
    until: int | None = None,
    salt_file: Path | None = None,
    format: str = "jsonl",
    license: str | None = None,
) -> dict[str, Any]:
    """Writes a dataset and says what it came to. `shaping` are fields of `Options`, `versions` those of the guideline
    of the one project named.

    InputError: no such store, project or version, or as of `make_dataset`.
    """
    with standing_store(where) as store:
        from tether.feedback.dataset import make_dataset
        from tether.feedback.records import Query, UserKind
        from tether.feedback.shapes import Options

        salt = "" if salt_file is None else _text(salt_file)
        ids = tuple(project_named(store, name) for name in projects)
        for kind in kinds:
            _check_one_of("annotators of kind", kind, get_args(UserKind))
        people = cast("tuple[UserKind, ...]", tuple(kinds))
        query = Query(ids, user_kinds=people, guidelines=_guidelines(store, ids, versions), until=until)
        made = make_dataset(
            store, out, shape, query=query, options=Options(**shaping, salt=salt), kind=format, license=license
        )
    return {
        "out": str(out),
        "rows": made.num_rows,
        "shape": shape,
        "last_judgement": made.last_judgement,
        "sha256": made.sha256,
    }


def _check_one_of(what: str, given: str, valid: Sequence[str]) -> None:
    if given not in valid:
        raise InputError(f"{what} {given!r}: is none of {', '.join(valid)}")


def _guidelines(store: Store, projects: Sequence[int], versions: Sequence[int]) -> tuple[int, ...]:
    if not versions:
        return ()
    if len(projects) != 1:
        raise InputError("guideline versions are counted within a project; name one project")
    known = {guideline.version: guideline.id for guideline in store.guidelines(projects[0])}
    if strange := [str(version) for version in versions if version not in known]:
        there = ", ".join(map(str, known)) or "none"
        raise InputError(f"guideline version {', '.join(strange)}: the project has not had it; its versions: {there}")
    return tuple(known[version] for version in versions)


def import_file(
    where: str,
    file: str,
    project: str,
    told: Mapping[str, Any],
    *,
    split: str = "train",
    format: str = "auto",
    kind: str | None = None,
    guideline: Path | None = None,
    overlap: int | None = None,
) -> dict[str, Any]:
    """Adds a file's answers to a store, made when missing, and says what they came to.

    `told` are fields of `Reading`, `guideline` is a text file. InputError: as of `import_answers`, or no such text;
    then a missing store stays missing.
    """
    data = DataConfig(path=file, split=split)
    text = None if guideline is None else _text(guideline)

    def add(store: Store) -> dict[str, Any]:
        from tether.feedback.foreign import Reading
        from tether.feedback.imports import import_answers
        from tether.feedback.records import ItemKind

        if kind is not None:
            _check_one_of("kind", kind, get_args(ItemKind))
        found = import_answers(
            store,
            data,
            project,
            format=format,
            kind=cast("ItemKind | None", kind),
            reading=Reading(**told),
            guideline=text,
            overlap=overlap,
        )
        return found._asdict() | {"project": project}

    new = _new_file(where)
    if new is not None:
        # Made aside: once it is in its place another process may be writing to it, so it could not be removed.
        with TemporaryDirectory(prefix=".tether-", dir=new.parent) as folder:
            aside = Path(folder) / "store"
            with open_store(aside) as store:
                made = add(store)
            with suppress(OSError):  # somebody else has made it meanwhile, or there are no hard links here
                if os.listdir(folder) == [aside.name]:  # SQLite has put all of it into the one file
                    os.link(aside, new)
                    return made
    with open_store(where) as store:
        return add(store)


def _new_file(where: str) -> Path | None:
    """The file of a store that is not there yet and can be made; else None."""
    name = where.removeprefix("sqlite:///")
    file = Path(name)
    is_new = "://" not in name and name != ":memory:" and not file.exists() and os.access(file.parent, os.W_OK)
    return file if is_new else None


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from None
    if not text:
        raise InputError(f"{path}: is empty; write the text into it, or leave the option out")
    return text


def label_store(where: str, project: str, annotators: str, *, noise: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Has programs answer what is open in a project: the ten raters (`vader`), or the judge a TOML file describes.

    What a judge said is kept beside the store, so that nothing is paid for twice. InputError: no such store, project
    or file, or as of `label_project`.
    """
    judge = None if annotators == "vader" else _judge_config(annotators)
    with standing_store(where) as store:
        from tether.feedback.judges import JudgeAnnotator
        from tether.feedback.label import label_project

        identity = project_named(store, project)
        if judge is None:
            return label_project(store, identity, vader_raters(noise=noise), seed=seed).as_dict()
        check_judge(judge)
        with judge_of(judge, model_at, _journal(where, project)) as journal:
            judges = [JudgeAnnotator(judge.model[-200:], asker(journal), judge.tie)]
            report = label_project(store, identity, judges, seed=seed).as_dict()
            spent = journal.spent
    return report | {"spent": spent._asdict() | {"cost": spent.cost(judge.price_in, judge.price_out)}}


def _judge_config(path: str) -> JudgeConfig:
    if not path.endswith(".toml"):
        raise InputError(f"annotators {path!r}: give vader, or a TOML file that describes a judge (model, url …)")
    try:
        return JudgeConfig.model_validate(read_toml(Path(path)))
    except ValidationError as error:
        raise InputError("; ".join(problems(error, JudgeConfig, path))) from None


def _journal(where: str, project: str) -> Path:
    """Beside a store in a file; in the working directory for one on a server."""
    if "://" in where:
        return Path(f"{re.sub('[^A-Za-z0-9_.-]', '-', project)}.judge.jsonl")
    return Path(f"{where}.judge.jsonl")
