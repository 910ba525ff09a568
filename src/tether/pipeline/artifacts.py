"""Artifacts: a stage's folder, the manifest that says how it came to be, and the key that says whether it still holds.

An artifact's key is the hash of the stage's section, of the content of every file it read, and of the keys of the
stages it read from. The same key means: done. `content` is the hash of what it produced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.errors import InputError

MANIFEST = "manifest.json"
LOCK = ".lock"
STARTED = "started.json"
UNFINISHED = "unfinished"
"""Within an artifact's folder: where the stage is being made."""
OWN = (LOCK, UNFINISHED)
"""What an artifact's folder may hold before there is an artifact."""
SCRATCH = ("checkpoints", "best.pt", "best.tmp")
"""What a stage needs until its manifest is written, and no longer."""


def digest(value: Any) -> str:
    """A short stable hash of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_path(path: Path) -> str:
    """Hash of a file's bytes, or of a folder's names and bytes."""
    state = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        state.update(str(file.relative_to(path) if path.is_dir() else file.name).encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                state.update(block)
    return state.hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Writes under a temporary name and renames: a reader sees the old text or the new."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One object a line, under a temporary name and renamed."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.rename(path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows `write_jsonl` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None where there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad UTF-8 is one too
        raise InputError(f"{path} is damaged ({error}); remove it and run the stage again") from None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished artifact; None when the stage is not done. InputError when it is damaged."""
    found: dict[str, Any] | None = read_json(folder / MANIFEST)
    return found


def begin(folder: Path, key: str, section: Mapping[str, Any]) -> Path:
    """Readies and returns the folder a stage is made in: what this key left unfinished is kept, another key's is not.

    It is `unfinished/` within the artifact's folder, so that nothing looks whole that is not, and what was made before
    stays until something takes its place.

    Raises:
        InputError: the artifact's folder holds files of somebody else's.
    """
    if not (folder / STARTED).is_file() and folder.exists() and any(p.name not in OWN for p in folder.iterdir()):
        raise InputError(f"{folder} holds files Tether did not write; choose an empty or a new folder")
    work = folder / UNFINISHED
    started = read_json(work / STARTED)
    if work.exists() and (started is None or started["key"] != key):
        (work / STARTED).unlink(missing_ok=True)  # first: a kill in between must not leave a half that would be resumed
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / STARTED, {"key": key, "section": section})
    return work


def publish(folder: Path, key: str) -> None:
    """Moves what was made under `key`, manifest and all, into the place of what was there; a kill is made good."""
    work = folder / UNFINISHED
    for name in SCRATCH:
        remove(work / name)
    before = read_json(folder / STARTED)
    if before is None or before["key"] != key:
        # The manifest goes first, so that no half looks whole; the marker, which says whose the rest is, goes last.
        remove(folder / MANIFEST)
        for path in folder.iterdir():
            if path.name not in (*OWN, STARTED):
                remove(path)
        remove(folder / STARTED)
    for path in sorted(work.iterdir(), key=lambda p: (p.name == MANIFEST, p.name != STARTED)):
        remove(folder / path.name)
        path.rename(folder / path.name)
    work.rmdir()


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)
"""What an operating system says of a file or folder that is not as its user thinks. (EIO, say, is not among them.)"""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for one process.

    Raises:
        InputError: the folder cannot be written, the disk is full, or another process runs in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is running in {folder}; wait for it or choose another --out") from error
        try:
            yield
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            what = error.filename or f"cannot write to {folder}"
            raise InputError(f"{what}: {error.strerror}") from error
