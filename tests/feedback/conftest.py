"""Where stores are tested: SQLite files, and databases of a PostgreSQL server that the tests start for themselves."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from tether.feedback import connect
from tether.feedback.schema import secrets

_SERVER_OPTIONS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c shared_buffers=16MB"


def _programs() -> Path | None:
    """The folder of the newest PostgreSQL server installed; None when there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return folders[-1].parent if folders else None


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(where: str | os.PathLike[str]) -> None:
    """A store that holds nothing, and draws the same lots in every run of the tests."""
    engine = connect.connect(where)
    with connect.writing(engine) as db:
        db.execute(update(secrets).values(value="0" * 64))
    engine.dispose()


class PostgreSQL:
    """A server that listens on a socket in a temporary folder. As root it refuses to run, so it runs as another."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._data = self._folder / "data"
        self._user: str | None = None
        if os.getuid() == 0:
            self._user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
            shutil.chown(self._folder, self._user)
        self._made = 0
        self._there: list[str] = []

    def start(self) -> None:
        self._run("initdb", "--auth=trust", "--username=tether", "--encoding=UTF8", "--no-locale", "--no-sync")
        self._start()
        self._sql("CREATE DATABASE empty_one", "CREATE DATABASE template")
        make(self.url("template"))

    def restart(self) -> None:
        """As when the server crashes and comes back: every connection is lost."""
        self._run("pg_ctl", "stop", "--mode=immediate")
        self._start()

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate")
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        return f"postgresql://tether@/{database}?host={self._folder}"

    def new(self, empty: bool, encoding: str = "UTF8") -> str:
        self._made += 1
        self._there.append(name := f"store_{self._made}")
        template = ("empty_one" if empty else "template") if encoding == "UTF8" else "template0"
        self._sql(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING '{encoding}'")
        return self.url(name)

    def drop_all(self) -> None:
        while self._there:
            self._sql(f"DROP DATABASE {self._there.pop()} WITH (FORCE)")

    def _start(self) -> None:
        options = f"{_SERVER_OPTIONS} -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}", f"--options={options}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), f"--pgdata={self._data}", *arguments]
        other = {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}
        # Not to a pipe: the server would hold it open.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **other)

    def _sql(self, *statements: str) -> None:
        import psycopg

        with psycopg.connect(host=str(self._folder), user="tether", dbname="postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    programs = _programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server: neither initdb on PATH nor /usr/lib/postgresql/*/bin")
    server = PostgreSQL(programs)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store in an SQLite file, to be copied."""
    file = tmp_path_factory.mktemp("template") / "store.db"
    make(file)
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Makes databases, each the file or URL of a store that holds nothing; with `empty=True`, not even tables."""
    if request.param == "sqlite":
        template = request.getfixturevalue("migrated_file")
        made: list[Path] = []

        def new(empty: bool = False) -> str:
            made.append(tmp_path / f"store_{len(made)}.db")
            if not empty:
                shutil.copy(template, made[-1])
            return str(made[-1])

        yield new
    else:
        server = request.getfixturevalue("postgresql_server")
        yield lambda empty=False: server.new(empty)
        server.drop_all()


@pytest.fixture
def database(new_database: Callable[..., str]) -> str:
    """The file or URL of a store that holds nothing: the test runs on SQLite and on PostgreSQL."""
    return new_database()
