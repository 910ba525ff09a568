"""Projects: what is asked, by which guideline, of whom. All functions want a connection; changes want the write lock.

A guideline is content: the same text is the same guideline in every project. A project's versions of it are numbered
from 1, the newest is in force, and an annotator acknowledges it before working by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import Connection, Integer, bindparam, delete, exists, insert, select, update

from tether.config.problems import first_problem
from tether.errors import InputError
from tether.feedback.facts import add_guideline, next_id
from tether.feedback.records import ItemKind, Missing, ProjectState
from tether.feedback.schema import (
    AnyRow,
    acknowledgements,
    guidelines,
    items,
    members,
    project_guidelines,
    projects,
)

# Every request asks these. They are made once: building a statement takes longer than running it.
_user, _of = bindparam("user", type_=Integer), bindparam("project", type_=Integer)
_newer = project_guidelines.alias("newer")
_is_newest = ~exists().where(
    _newer.c.project_id == project_guidelines.c.project_id, _newer.c.version > project_guidelines.c.version
)
_PROJECTS = (
    select(
        projects,
        project_guidelines.c.version,
        project_guidelines.c.created.label("since"),
        guidelines.c.id.label("guideline"),
        guidelines.c.text,
    )
    .outerjoin_from(projects, project_guidelines, (project_guidelines.c.project_id == projects.c.id) & _is_newest)
    .outerjoin(guidelines)
)
_ONE = _PROJECTS.where(projects.c.id == _of)
_MEMBER = select(exists().where(members.c.project_id == _of, members.c.user_id == _user))
_in_force = (
    select(project_guidelines.c.guideline_id)
    .where(project_guidelines.c.project_id == _of, _is_newest)
    .scalar_subquery()
)
_ACKNOWLEDGED = select(
    _in_force.is_(None)
    | exists().where(
        acknowledgements.c.user_id == _user,
        acknowledgements.c.project_id == _of,
        acknowledgements.c.guideline_id == _in_force,
    )
)

SKIP_REASONS = ("I do not know enough to judge", "The prompt makes no sense", "I would rather not read this")
FLAG_REASONS = ("Harmful", "Personal data", "Broken or cut off", "Other")


class Attribute(BaseModel):
    """A quality that is rated on a scale of whole numbers, such as InstructGPT's overall quality from 1 to 7."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=40)
    low: int = Field(default=1, ge=-10, le=10)
    high: int = Field(default=7, ge=-10, le=10)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class Settings(BaseModel):
    """How a project asks. Frozen; a bad value is refused with its field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap: int = Field(default=3, ge=1, le=1000)
    """How many annotators answer each item."""
    shown: int = Field(default=2, ge=1, le=9)
    """Responses an item shows."""
    ties: bool = True
    """Whether responses may be called equal."""
    all_bad: bool = True
    """Whether annotators may say that no response is acceptable."""
    strength: bool = True
    """Whether pairs ask how clear the difference is, from 0 (none) to 3."""
    attributes: tuple[Attribute, ...] = ()
    """What is rated of each response: the question of a rating project, an addition to the others."""
    rationale: Literal["off", "optional", "required"] = "optional"
    """Whether annotators say why."""
    correction: bool = False
    """Whether annotators may write a better answer."""
    rendering: Literal["markdown", "plain"] = "markdown"
    """How prompts and responses are shown."""
    quota: int | None = Field(default=None, ge=1)
    """The most items one annotator gets; None: no limit."""
    lease: float = Field(default=1800.0, gt=0, allow_inf_nan=False)
    """Seconds an annotator has for an item before somebody else may get it; working on it renews them."""
    gold_share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of an annotator's items that are gold, as long as there are gold ones they have not seen."""
    repeat_share: float = Field(default=0.0, ge=0, le=0.2)
    """Share of a person's items that they have answered before: do they say the same? It counts as no vote."""
    skip_reasons: tuple[str, ...] = Field(default=SKIP_REASONS, min_length=1)
    """Reasons to skip an item."""
    flag_reasons: tuple[str, ...] = Field(default=FLAG_REASONS, min_length=1)
    """What may be wrong with an item."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) < len(names):
            raise ValueError("attributes: each needs a name of its own")
        return self


@dataclass(frozen=True, slots=True)
class Guideline:
    """What annotators are told to look for."""

    version: int
    """1, 2, … within the project."""
    id: int
    text: str
    created: float


@dataclass(frozen=True, slots=True)
class Project:
    """One labelling job."""

    id: int
    name: str
    kind: ItemKind
    state: ProjectState
    settings: Settings
    guideline: Guideline | None
    """The version in force."""
    created: float

    @property
    def guideline_version(self) -> int:
        """The version of the guideline in force; 0 where there is none."""
        return self.guideline.version if self.guideline else 0


def settings_of(values: Any) -> Settings:
    """Checked settings; InputError naming the first field that is wrong."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InputError(f"project settings, {first_problem(error.errors())}") from None


def add_project(db: Connection, name: str, kind: ItemKind, settings: Settings, now: float) -> int:
    """The id of the project of this name, made when new. InputError: a bad name, or one taken by another kind."""
    if not name.strip() or len(name) > 200:
        raise InputError(f"project name {name[:40]!r}: must have 1 to 200 characters")
    if kind not in get_args(ItemKind):
        raise InputError(f"project {name!r}: kind {kind!r} is none of {', '.join(get_args(ItemKind))}")
    if kind == "rating" and not settings.attributes:
        raise InputError(f"project {name!r}: a rating project needs one or more attributes to rate")
    known = db.execute(select(projects.c.id, projects.c.kind).where(projects.c.name == name)).first()
    if known is not None:
        if known.kind != kind:
            raise InputError(f"project {name!r}: is there already, of kind {known.kind}; give another name")
        return int(known.id)
    new = next_id(db, projects)
    row = {"id": new, "name": name, "kind": kind, "state": "open", "created": now}
    db.execute(insert(projects), row | {"settings": settings.model_dump(mode="json")})
    return new


def change_project(db: Connection, project: int, settings: Settings | None, state: ProjectState | None) -> None:
    """New settings, a new state, or both. Missing when there is no such project; InputError for another state."""
    before = one_project(db, project)
    if state is not None and state not in get_args(ProjectState):
        raise InputError(f"project {before.name!r}: state {state!r} is none of {', '.join(get_args(ProjectState))}")
    new: dict[str, Any] = {} if state is None else {"state": state}
    if settings is not None:
        if before.kind == "rating" and not settings.attributes:
            raise InputError(f"project {before.name!r}: a rating project needs one or more attributes to rate")
        new["settings"] = settings.model_dump(mode="json")
    if new:
        db.execute(update(projects).where(projects.c.id == project).values(new))


def one_project(db: Connection, project: int) -> Project:
    """The project of this id, or Missing."""
    row = db.execute(_ONE, {"project": project}).first()
    if row is None:
        raise Missing(f"project {project}: there is no such project")
    return _project(row)


def all_projects(db: Connection) -> list[Project]:
    """Every project by id; "default" only once something was asked in it."""
    used = (projects.c.id != 1) | exists().where(items.c.project_id == 1)
    return [_project(row) for row in db.execute(_PROJECTS.where(used).order_by(projects.c.id))]


def projects_of(db: Connection, user: int) -> list[Project]:
    """The projects a user is a member of, by id."""
    mine = exists().where(members.c.project_id == projects.c.id, members.c.user_id == user)
    return [_project(row) for row in db.execute(_PROJECTS.where(mine).order_by(projects.c.id))]


def add_version(db: Connection, project: int, text: str, now: float) -> int:
    """Puts this text in force in the project and returns its guideline id. A text that is in force stays as it is."""
    before = one_project(db, project).guideline
    identity = add_guideline(db, text, now)
    if before is None or before.id != identity:
        version = 1 if before is None else before.version + 1
        row = {"project_id": project, "version": version, "guideline_id": identity, "created": now}
        db.execute(insert(project_guidelines), row)
    return identity


def versions(db: Connection, project: int) -> list[Guideline]:
    """The project's guidelines, oldest first."""
    query = (
        select(project_guidelines.c.version, guidelines.c.id, guidelines.c.text, project_guidelines.c.created)
        .join_from(project_guidelines, guidelines)
        .where(project_guidelines.c.project_id == project)
        .order_by(project_guidelines.c.version)
    )
    return [Guideline(*row) for row in db.execute(query)]


def acknowledge(db: Connection, user: int, project: int, guideline: int, now: float) -> None:
    """Notes that the user has read the guideline. InputError unless it is the one in force."""
    current = one_project(db, project).guideline
    if current is None or current.id != guideline:
        raise InputError(f"project {project}: guideline {guideline} is not in force; read the newest version")
    if not has_acknowledged(db, user, project):
        row = {"user_id": user, "project_id": project, "guideline_id": guideline, "created": now}
        db.execute(insert(acknowledgements), row)


def has_acknowledged(db: Connection, user: int, project: int) -> bool:
    """Whether the user has read the guideline in force; True where there is none."""
    return bool(db.execute(_ACKNOWLEDGED, {"user": user, "project": project}).scalar_one())


def add_member(db: Connection, project: int, user: int, now: float) -> None:
    """Lets the user work on the project; nothing when they do already."""
    one_project(db, project)
    if not is_member(db, project, user):
        db.execute(insert(members), {"project_id": project, "user_id": user, "created": now})


def remove_member(db: Connection, project: int, user: int) -> None:
    """Takes the user off the project; what they said stays."""
    db.execute(delete(members).where(members.c.project_id == project, members.c.user_id == user))


def is_member(db: Connection, project: int, user: int) -> bool:
    """Whether the user works on the project."""
    return bool(db.execute(_MEMBER, {"user": user, "project": project}).scalar_one())


def _project(row: AnyRow) -> Project:
    said = None if row.version is None else Guideline(row.version, row.guideline, row.text, row.since)
    return Project(
        id=row.id,
        name=row.name,
        kind=cast("ItemKind", row.kind),
        state=cast("ProjectState", row.state),
        settings=settings_of(row.settings),
        guideline=said,
        created=row.created,
    )
