"""Tether: the human-feedback loop of language models.

>>> import tether
>>> folder = tether.run("quickstart")                                      # doctest: +SKIP
>>> tether.show(folder)["stages"]["reward"]["metrics"]                     # doctest: +SKIP

`run` runs a recipe (a TOML file, a shipped name, or the same as a table), `show` says what it came to, `write_report`
writes its report again. A mistake in a recipe or in data raises `tether.errors.InputError`, a sentence for the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tether.pipeline.run import run as run
    from tether.pipeline.show import show as show
    from tether.pipeline.show import write_report as write_report

__all__ = ["__version__", "run", "show", "write_report"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On first use: `import tether` costs nothing, and neither does the command line's help.
    if name in ("run", "show", "write_report"):
        from tether import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'tether' has no attribute {name!r}")
