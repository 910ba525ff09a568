"""Artifacts: a stage's folder, the manifest that says how it came to be, and the key that says whether it still holds.

An artifact's key is the hash of the stage's section, of the content of every file it read, and of the keys of the
stages it read from. The same key means: done. `content` is the hash of what it produced.
"""

from __future__ import annotations

import contextlib
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


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished artifact; None when the stage is not done."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def begin(folder: Path, key: str, section: Mapping[str, Any]) -> None:
    """Readies a stage's folder: what another key left is removed, what this key left unfinished is kept."""
    marker = folder / "started.json"
    started = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
    if started is not None and started["key"] != key:
        # The manifest goes first: a kill in between must not leave a half that looks whole. The marker goes last.
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name not in (marker.name, LOCK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif started is None and folder.exists() and any(p.name != LOCK for p in folder.iterdir()):
        raise InputError(f"{folder} holds files Tether did not write; choose an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, {"key": key, "section": section})


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder for one process.

    Raises:
        InputError: the folder cannot be written, or another process runs in it.
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
        yield
