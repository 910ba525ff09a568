"""Copies of the metrics for other people's dashboards. The event log stays the record; a tracker is a convenience."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tether.errors import InputError


class Tracker(Protocol):
    """Somewhere metrics are sent as they come."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the numbers in `metrics`; anything else in it is left out."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files that `tensorboard --logdir FOLDER` shows."""

    def __init__(self, folder: Path, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "the tracker `tensorboard` needs the package tensorboard: pip install 'tether-rlhf[trackers]'"
            ) from None
        # After a resume, TensorBoard must forget the steps that are about to be done again.
        self._writer = SummaryWriter(str(folder), purge_step=start or None)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in scalars(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {"tensorboard": TensorBoard}
"""Name in the recipe → (folder, first step of this process) → tracker."""


def open_tracker(name: str, folder: str | Path, start: int = 0) -> Tracker:
    """The tracker called `name`, writing to `folder`, at step `start` of a resumed run. Raises InputError."""
    if name not in TRACKERS:
        raise InputError(f"no tracker is called `{name}`; there is: {', '.join(TRACKERS)}")
    return TRACKERS[name](Path(folder), start)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among `metrics`, scalar tensors included; texts, lists and booleans are left out."""
    numbers = {}
    for name, value in metrics.items():
        item = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
        if isinstance(item, int | float) and not isinstance(item, bool):
            numbers[name] = float(item)
    return numbers
