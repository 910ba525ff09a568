"""Admins: how a project goes, its disputed and flagged items, and its export."""

from __future__ import annotations

import secrets
import tempfile
from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Request
from fastapi import Query as Param
from fastapi.responses import Response

from tether.errors import InputError
from tether.feedback.dataset import make_dataset, receipts
from tether.feedback.records import Dispute, Missing, Query, UserKind
from tether.feedback.schema import LARGEST
from tether.feedback.shapes import Options
from tether.feedback.store import Store
from tether.feedback.web.answers import order_said
from tether.feedback.web.figures import Board
from tether.feedback.web.project_pages import ranks_from, shown_items, turns
from tether.feedback.web.render import rendered
from tether.feedback.web.session import Admin, Form, Id, Stored, form_fields, go, page, text

router = APIRouter(prefix="/admin/projects/{project}")
_DISPUTES, _FLAGS = 200, 50
_TYPES = {".jsonl": "application/jsonl", ".parquet": "application/vnd.apache.parquet", ".csv": "text/csv"}


@router.get("")
def dashboard(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """How far the project is, how well annotators agree, how each of them works."""
    found, board = store.project(project), _board(request)
    figures, progress = board.of(project), store.progress(project)
    names = {person.id: person.name for person in store.users()}
    most = max((count for _, count in figures.days), default=0)
    efforts = [(names.get(effort.user, "?"), effort, figures.quality.get(effort.user)) for effort in progress.by_user]
    context = {"progress": progress, "figures": figures, "efforts": efforts, "most": most, "names": names}
    return page(request, "admin-project.html", project=found, **context)


@router.get("/flags")
def flags(
    request: Request, user: Admin, store: Stored, project: Id, after: Annotated[int, Param(ge=0, le=LARGEST)] = 0
) -> Response:
    """The items that annotators flagged, the newest first; `after` so many."""
    found, every = store.project(project), _board(request).of(project).flagged
    flagged = every[after : after + _FLAGS]
    items = {item["id"]: item for item in shown_items(store, [f.item for f in flagged], found.settings.rendering)}
    names = {person.id: person.name for person in store.users()}
    rows = [(flag, items[flag.item]) for flag in flagged]
    more = after + _FLAGS if len(every) > after + _FLAGS else None
    return page(request, "admin-flags.html", project=found, rows=rows, names=names, total=len(every), more=more)


@router.get("/disputes")
def disputes(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """Items that annotators do not agree on: the unsettled first, the most divided first."""
    found, divided = store.project(project), store.disputed(project, _DISPUTES)
    return page(request, "admin-disputes.html", project=found, disputes=divided, most=_DISPUTES)


@router.get("/disputes/{item}")
def dispute(request: Request, user: Admin, store: Stored, project: Id, item: Id) -> Response:
    """A disputed item, to be decided: nothing says which checkpoint wrote what."""
    return _dispute(request, store, project, item)


@router.post("/disputes/{item}", openapi_extra=form_fields("rank_1", "rank_2", "rationale", "submit_key", "guideline"))
def decide(request: Request, user: Admin, store: Stored, form: Form, project: Id, item: Id) -> Response:
    """The last word on an item; the next one is shown."""
    _disputed(store, project, item)
    current = store.project(project).guideline
    try:
        ranks = ranks_from(form)
        key = text(form, "submit_key") or secrets.token_urlsafe(16)
        guideline = current.id if current else store.add_guideline("")
        why = text(form, "rationale").strip() or None
        store.adjudicate(item, user.id, ranks, key, guideline=guideline, rationale=why)
    except InputError as error:
        return _dispute(request, store, project, item, str(error))
    store.record(user.id, "adjudicated", project=project, item=item)
    rest = [d.item for d in store.disputed(project, _DISPUTES) if d.adjudication is None]
    return go(f"/admin/projects/{project}/disputes{f'/{rest[0]}' if rest else ''}")


@router.get("/export")
def export_page(request: Request, user: Admin, store: Stored, project: Id) -> Response:
    """What can be downloaded, and what has been."""
    return _export(request, store, project)


@router.post("/export", openapi_extra=form_fields("shape", "kind", "people_only", "min_votes"))
def export(request: Request, user: Admin, store: Stored, form: Form, project: Id) -> Response:
    """A file of the judgements so far, remembered with its hash."""
    found, shape, kind = store.project(project), text(form, "shape", "preferences"), text(form, "kind", ".jsonl")
    least = text(form, "min_votes", "1") or "1"
    try:
        if kind not in _TYPES:
            raise InputError(f"file {kind[:20]!r}: is none of {', '.join(_TYPES)}")
        if not (least.isascii() and least.isdigit() and len(least) < 10):
            raise InputError(f"votes {least[:20]!r}: must be a whole number")
        kinds: tuple[UserKind, ...] = ("human",) if "people_only" in form else get_args(UserKind)
        query = Query(projects=(project,), user_kinds=kinds)
        with tempfile.TemporaryDirectory(prefix="tether-") as folder:
            path = Path(folder) / f"export{kind}"
            make_dataset(store, path, shape, query=query, options=Options(min_votes=int(least)), by=user.id)
            content = path.read_bytes()
    except InputError as error:
        return _export(request, store, project, str(error))
    store.record(user.id, "exported", project=project, shape=shape)
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in found.name)[:60]
    told = {"content-disposition": f'attachment; filename="{name}-{shape}-{date.today()}{kind}"'}
    return Response(content, media_type=_TYPES[kind], headers=told)


def _board(request: Request) -> Board:
    board: Board = request.app.state.board
    return board


def _disputed(store: Store, project: int, item: int) -> Dispute:
    found = store.disputed(project, among=(item,))
    if not found:
        raise Missing(f"item {item}: is not disputed in this project")
    return found[0]


def _dispute(request: Request, store: Store, project: int, item: int, wrong: str = "") -> Response:
    found, disputed = store.project(project), _disputed(store, project, item)
    how = found.settings.rendering
    context: dict[str, Any] = {
        "item": item,
        "prompt": turns(disputed.prompt, disputed.messages, how),
        "responses": [{"id": r.id, "html": rendered(r.text, how)} for r in disputed.responses],
        "orders": [order_said([(j.ranking or {}).get(r.id) for r in disputed.responses]) for j in disputed.judgements],
        "reasons": [j.rationale for j in disputed.judgements if j.rationale],
        "before": disputed.adjudication,
        "submit_key": secrets.token_urlsafe(16),
    }
    return page(request, "admin-dispute.html", 422 if wrong else 200, project=found, wrong=wrong, **context)


def _export(request: Request, store: Store, project: int, wrong: str = "") -> Response:
    done = [r for r in receipts(store) if r.query.get("projects") == [project]][:20]
    names = {person.id: person.name for person in store.users()}
    context = {"endings": _TYPES, "receipts": done, "names": names}
    found = store.project(project)
    return page(request, "admin-export.html", 422 if wrong else 200, project=found, wrong=wrong, **context)
