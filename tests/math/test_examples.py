"""Every public function of the maths room shows an example, and the examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import tether.math

MODULES = [f"tether.math.{module.name}" for module in pkgutil.iter_modules(tether.math.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    module = importlib.import_module(name)
    public = [f for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == name and n[0] != "_"]
    assert public
    assert [f.__name__ for f in public if ">>>" not in (f.__doc__ or "")] == []
    assert doctest.testmod(module).failed == 0
