"""Exact checkpoints: everything a run is, written under a temporary name and renamed.

A checkpoint holds trained weights, optimisers, the random states of Python, NumPy and torch, the data cursor, the
algorithm's state, the micro-batch budget and the event log's cursor. A run killed at any moment and resumed on the same
machine ends with the same bits.
"""

from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tether.errors import InputError


def random_state() -> dict[str, Any]:
    """The state of every generator a library may draw from."""
    state: tuple[Any, ...] = np.random.get_state()  # type: ignore[assignment]  # its stub also allows a dictionary
    kind, keys, place, has_gauss, gauss = state
    version, words, second = random.getstate()
    return {
        "python": [version, list(words), second],
        "numpy": [kind, torch.tensor(keys.astype(np.int64)), place, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """The reverse of `random_state`."""
    version, words, second = state["python"]
    random.setstate((version, tuple(words), second))
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep_last: int) -> None:
    """Writes `folder/step-XXXXXXXX.pt` and removes all but the newest `keep_last`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / f"step-{step:08d}.pt", state)
    for old in checkpoints(folder)[:-keep_last]:
        old.unlink()


def write_tensors(target: Path, state: dict[str, Any]) -> None:
    """Writes under a temporary name, waits for the disk, and renames."""
    temporary = target.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # what torch makes of a disk that is full
        temporary.unlink()
        raise error.__context__ if isinstance(error.__context__, OSError) else error  # noqa: B904 (it is the cause)
    temporary.rename(target)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, or None. Data only: nothing in it is executed.

    Raises:
        InputError: the file is damaged.
    """
    found = checkpoints(folder)
    if not found:
        return None
    try:
        with zipfile.ZipFile(found[-1]) as file:  # torch writes checksums but does not look at them
            broken = file.testzip()
        state: dict[str, Any] = torch.load(found[-1], map_location="cpu", weights_only=True)
        if broken or "step" not in state:
            raise ValueError(broken)
    except Exception as error:  # a damaged file raises anything, and torch's text advises to execute it
        kind = type(error).__name__
        raise InputError(
            f"checkpoint {found[-1]} is damaged ({kind}); remove it to resume from the one before"
        ) from error
    return state
