"""Stages, artifacts and runs: what the command line calls, and `tether.run` from Python."""

from tether.pipeline.run import run, run_single
from tether.pipeline.sections import sections
from tether.pipeline.show import show, write_report

__all__ = ["run", "run_single", "sections", "show", "write_report"]
