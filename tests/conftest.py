"""Settings of every test: no network, few threads, repeatable examples."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch or the hub client: a test never downloads, and several workers share the cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What one test run has computed is not another's: a stale log-prob would hide a bug.
os.environ["TETHER_CACHE"] = tempfile.mkdtemp(prefix="tether-cache-")

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

# A shared machine makes single examples slow now and then; that is no failure. The same examples every time.
settings.register_profile("tether", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tether")
# Hypothesis mixes in constants of whatever modules of ours are loaded, which depends on the tests that ran before in
# the same process: the examples would be others each time.
if hasattr(providers, "_get_local_constants") and hasattr(providers, "_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants  # none


CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A real browser, the one of this process: a second driver beside it would be refused."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["TETHER_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
