"""Admins: a new project, and more prompts for one: from a file, pasted lines, or sampled live from checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from sqlalchemy import Connection, func, select
from starlette.datastructures import FormData, UploadFile

from tether.config.problems import first_problem
from tether.data.rows import READERS
from tether.errors import InputError
from tether.feedback import projects
from tether.feedback.accounts import record
from tether.feedback.facts import SIZES
from tether.feedback.intake import (
    Added,
    Question,
    add_questions,
    read_file,
    read_lines,
    read_upload,
    shown_at_once,
)
from tether.feedback.projects import Project, Settings
from tether.feedback.records import ItemKind
from tether.feedback.schema import items as items_table
from tether.feedback.schema import projects as projects_table
from tether.feedback.web.sampling import Drawing, Jobs
from tether.feedback.web.session import Admin, Form, Id, Stored, form_fields, go, page, text
from tether.feedback.web.settings_form import FIELDS, said_fields, settings_fields, settings_from

router = APIRouter(prefix="/admin/projects")
_DRAWING = ("per_checkpoint", "temperature", "max_new_tokens", "seed")
_SOURCES = ("lines", "path", "checkpoints", *_DRAWING)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """What a form brings to be asked."""

    asked: list[Question]
    checkpoints: Mapping[str, str]
    """Name → what the sampler loads; empty when the responses are there already."""
    how: Drawing


@router.get("/new")
def new_project(request: Request, user: Admin) -> Response:
    """The form of a new project."""
    fields = settings_fields(Settings()) | _blank()
    return _form(request, "admin-new.html", fields | {"name": "", "kind": "pair", "guideline": ""})


@router.post("", openapi_extra=form_fields("name", "kind", "guideline", *FIELDS, *_SOURCES, files=("file",)))
def make_project(request: Request, user: Admin, store: Stored, form: Form) -> Response:
    """Makes the project with all its file asks, or nothing and says why."""
    name, kind = text(form, "name").strip(), cast("ItemKind", text(form, "kind", "pair"))
    fields = said_fields(form) | _said_source(form) | {"guideline": text(form, "guideline"), "name": name, "kind": kind}
    try:
        if kind not in get_args(ItemKind):
            raise InputError(f"kind {kind[:20]!r} is none of {', '.join(get_args(ItemKind))}")
        settings, source = settings_from(form), source_of(form, _files(request))
        _check_sampler(request, source)
        with store.writing() as db:
            taken = select(projects_table.c.id).where(func.lower(projects_table.c.name) == name.lower())
            if db.execute(taken).first() is not None:
                raise InputError(f"project name {name!r}: is taken; choose another")
            project = projects.add_project(db, name, kind, settings, store.now())
            if fields["guideline"].strip():
                projects.add_version(db, project, fields["guideline"], store.now())
            added = _add(db, projects.one_project(db, project), source)
            record(db, user.id, "project_made", store.now(), project=project, name=name)
    except InputError as error:
        return _form(request, "admin-new.html", fields, wrong=str(error))
    _sample(request, project, source)
    return go(f"/admin/projects/{project}/prompts{_told(added, added.items if added else 0)}")


@router.get("/{project}/prompts")
def prompts_page(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """What the project asks so far, how a drawing goes, and the form for more."""
    return _prompts(request, store, project, _blank())


@router.post("/{project}/prompts", openapi_extra=form_fields(*_SOURCES, files=("file",)))
def more_prompts(request: Request, user: Admin, store: Stored, form: Form, project: Id) -> Response:
    """Adds what a form brings; what is there already is not added again."""
    store.project(project)
    try:
        source = source_of(form, _files(request))
        if not source.asked:
            raise InputError("give a file, some lines or a path of prompts")
        _check_sampler(request, source)
        with store.writing() as db:
            before = _num_items(db, project)
            added = _add(db, projects.one_project(db, project), source)
            new = _num_items(db, project) - before
            _sample(request, project, source)
            record(db, user.id, "prompts_added", store.now(), project=project, checkpoints=list(source.checkpoints))
    except InputError as error:
        return _prompts(request, store, project, _said_source(form), str(error))
    return go(f"/admin/projects/{project}/prompts{_told(added, new)}")


@router.get("/{project}/sampling")
def sampling(request: Request, user: Admin, store: Stored, project: Id) -> dict[str, Any]:
    """How far the project's drawing is, for the page that shows it."""
    store.project(project)
    job = _jobs(request).of(project)
    return {"job": job and job.as_dict()}


def source_of(form: FormData, files: Path) -> Source:
    """The prompts a form brings, read and checked. InputError naming file, row and field of what is wrong."""
    upload, lines, path = form.get("file"), text(form, "lines"), text(form, "path").strip()
    sent = isinstance(upload, UploadFile) and bool(upload.filename)
    if sent + bool(lines.strip()) + bool(path) > 1:
        raise InputError("give prompts in one way: a file, pasted lines or a path on the server")
    asked: list[Question] = []
    if sent and isinstance(upload, UploadFile):
        asked = read_upload(upload.file.read(), str(upload.filename))
    elif lines.strip():
        asked = read_lines(lines)
    elif path:
        asked = read_file(own_file(files, path), path)
    named = [line.strip() for line in text(form, "checkpoints").split("\n") if line.strip()]
    if len(set(named)) < len(named):
        raise InputError("checkpoints: name each once")
    if named and not asked:
        raise InputError("checkpoints: there are no prompts for them to answer; give some")
    return Source(asked, {name: checkpoint_at(files, name) for name in named}, _drawing(form))


def _add(db: Connection, project: Project, source: Source) -> Added | None:
    """Stores what comes with responses. InputError when that, or what checkpoints will write, leaves nothing to ask."""
    least, _ = SIZES[project.kind]
    if source.checkpoints:
        if len(source.checkpoints) * source.how.per_checkpoint < least:
            raise InputError(
                f"checkpoints: one response to a prompt leaves nothing to compare, a {project.kind} shows {least} or "
                "more; name another checkpoint, or have each write more responses"
            )
        return None
    if not source.asked:
        return None
    added = add_questions(db, project, source.asked)
    if not added.items:
        raise InputError(
            f"prompts: none of the {added.prompts} comes with as many responses as kind {project.kind} shows at "
            f"least ({least}), so there is nothing to ask; name checkpoints that answer them"
        )
    return added


def own_file(files: Path, given: str) -> Path:
    """A data file under the folder `files`. InputError for anything else, whether it is there or not."""
    root = files.resolve()
    try:
        path = (root / given).resolve()
        inside = path.is_relative_to(root) and path.is_file() and path.suffix.lower() in READERS
    except (OSError, ValueError):  # a loop of links, a NUL
        inside = False
    if not inside:
        ends = ", ".join(READERS)
        raise InputError(f"path {given[:200]!r}: is no file under the server's folder that ends in {ends}")
    return path


def checkpoint_at(files: Path, given: str) -> str:
    """What to load for a checkpoint: `base`, a folder under `files`, or a hub id. InputError for anything else."""
    root = files.resolve()
    try:
        path = (root / given).resolve()
        if path.is_relative_to(root) and path != root and path.is_dir():
            return str(path)
        elsewhere = path.exists() or Path(given).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        elsewhere = True
    if given != "base" and (elsewhere or not _HUB_ID.fullmatch(given) or len(given) > 200):
        raise InputError(f"checkpoint {given[:200]!r}: is neither base, nor a folder under the server's, nor a hub id")
    return given


def _drawing(form: FormData) -> Drawing:
    said = {name: value for name in _DRAWING if (value := text(form, name).strip())}
    try:
        return Drawing.model_validate(said)
    except ValidationError as error:
        raise InputError(first_problem(error.errors())) from None


def _blank() -> dict[str, Any]:
    return {"lines": "", "path": "", "checkpoints": "", **Drawing().model_dump()}


def _said_source(form: FormData) -> dict[str, Any]:
    return {name: text(form, name) for name in _SOURCES}


def _check_sampler(request: Request, source: Source) -> None:
    if source.checkpoints and not _jobs(request).can_sample:
        raise InputError("this server cannot sample; give prompts with their responses")


def _sample(request: Request, project: int, source: Source) -> None:
    if source.checkpoints:
        _jobs(request).start(project, source.checkpoints, source.asked, source.how)


def _num_items(db: Connection, project: int) -> int:
    return int(db.execute(select(func.count()).where(items_table.c.project_id == project)).scalar_one())


def _told(added: Added | None, new: int) -> str:
    """The counts, for the page that is shown next."""
    if added is None:
        return ""
    return "?" + "&".join(f"{name}={count}" for name, count in (*added._asdict().items(), ("new", new)))


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def _files(request: Request) -> Path:
    files: Path = request.app.state.files
    return files


def _form(request: Request, name: str, fields: Mapping[str, Any], wrong: str = "", **context: Any) -> Response:
    can = {"can_sample": _jobs(request).can_sample, "endings": ", ".join(READERS)}
    return page(request, name, 422 if wrong else 200, fields=fields, wrong=wrong, **can, **context)


def _prompts(request: Request, store: Stored, project: int, fields: Mapping[str, Any], wrong: str = "") -> Response:
    counts = [request.query_params.get(name, "") for name in (*Added._fields, "new")]
    *sums, new = map(int, counts) if all(re.fullmatch("[0-9]{1,9}", count) for count in counts) else (0,)
    told = Added(*sums) if sums else None
    found = store.project(project)
    about = {"project": found, "job": _jobs(request).of(project), "told": told, "new": new}
    at_once = shown_at_once(found.kind, found.settings.shown)
    return _form(request, "admin-prompts.html", fields, wrong, at_once=at_once, **about)
