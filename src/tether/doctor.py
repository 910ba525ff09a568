"""What is installed, what hardware there is, and what a run here would use. Nothing is trained, nothing downloaded."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tether import __version__

_PROJECT = "tether-rlhf"
# "fastapi>=0.115; extra == 'web'": the package, and the extra it comes with.
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*\bextra == ['\"]([\w-]+)['\"])?")


def required() -> dict[str, tuple[str, ...]]:
    """Extra → the packages `pip install 'tether-rlhf[EXTRA]'` adds; "" is what every install has."""
    found: dict[str, tuple[str, ...]] = {}
    for line in importlib.metadata.requires(_PROJECT) or ():
        if (match := _REQUIREMENT.match(line)) and (extra := match[2] or "") != "dev":
            found[extra] = (*found.get(extra, ()), match[1])
    return found


def examine() -> dict[str, Any]:
    """Facts by topic, ready for JSON: `versions`, `hardware`, `use`, `extras`, `base_model`, `warnings`."""
    from tether.config import shipped_recipes

    hardware, use = _hardware()
    base, extras = _base_model(), required()
    core = extras.pop("")
    warnings = [] if base["present"] else ["the shipped base model is missing: reinstall Tether"]
    missing = [name for name in core if _version(name) is None]
    warnings += [f"{name} is not installed: reinstall Tether" for name in missing]
    if use["free_disk_gb"] < 2:
        warnings.append(f"only {use['free_disk_gb']} GB of disk free here; checkpoints need room")
    return {
        "versions": {
            "tether": __version__,
            "python": platform.python_version(),
            **{n: _version(n) or "missing" for n in core},
        },
        "hardware": hardware,
        "use": use,
        "extras": {extra: _extra(packages) for extra, packages in extras.items()},
        "base_model": base,
        "recipes": [path.stem for path in shipped_recipes()],
        "warnings": warnings,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(packages: tuple[str, ...]) -> str:
    missing = [p for p in packages if _version(p) is None]
    return f"missing {', '.join(missing)}" if missing else "installed"


def _hardware() -> tuple[dict[str, Any], dict[str, Any]]:
    """What there is, and the device, type and threads that `auto` stands for."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    hardware: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": [
            f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GB"
            for i in range(torch.cuda.device_count())
        ],
    }
    fast = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)  # as models/load.py decides
    use = {
        "device": device,
        "dtype": "bfloat16" if fast else "float32",
        "threads": torch.get_num_threads(),
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    }
    return hardware, use


def _memory_gb() -> float | None:
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _base_model() -> dict[str, Any]:
    folder = Path(__file__).parent / "base_model"
    weights = list(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"present": bool(weights), "folder": str(folder), "size_mb": round(size / 2**20, 1)}
