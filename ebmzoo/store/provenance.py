"""What numbers were made with: versions, commit and device."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ebmzoo import __version__


@cache
def environment() -> dict[str, Any]:
    """Returns the versions and the commit that numbers were made with."""
    libraries = ("torch", "numpy", "scipy", "scikit-learn", "torch-fidelity", "torchvision")
    versions = {"ebmzoo": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {"versions": versions, "commit": _commit(), "platform": platform.platform()}


def _commit() -> str | None:
    """Returns the commit of the source tree that this package is imported from, or None outside of one."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def device_name(device: str) -> str:
    """Returns what a device is, in the words of its maker."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
