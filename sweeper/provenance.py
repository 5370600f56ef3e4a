"""Where a number comes from: code, versions, hardware, time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from sweeper import __version__

PACKAGES = ("torch", "ray", "numpy", "scikit-learn", "transformers", "peft", "bitsandbytes")


def now() -> str:
    """Return the time in UTC, to the microsecond, in a form that sorts as text."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@cache
def code() -> dict[str, object]:
    """Return ``version`` and, where the package runs from a git checkout, ``commit`` and ``dirty``."""
    facts: dict[str, object] = {"version": __version__}
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return facts
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # A store that a running sweep appends to must not make the code look changed.
        dirty = bool(_git(root, "status", "--porcelain", "--", "sweeper", "advisor", "pyproject.toml"))
    except (OSError, subprocess.CalledProcessError):
        return facts
    return {**facts, "commit": commit, "dirty": dirty}


def _git(root: Path, *args: str) -> str:
    # The arguments are constants of this file.
    done = subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True)  # noqa: S603, S607
    return done.stdout.strip()


@cache
def environment() -> dict[str, object]:
    """Return the versions and the hardware that the numbers of this process were made with."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpu = _gpu_name()
    precision = {} if gpu is None else {"matmul_precision": sys.modules["torch"].get_float32_matmul_precision()}
    return {"versions": versions, "cpu": _cpu_name(), "cpu_count": os.cpu_count(), "gpu": gpu, **precision}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    # Only where torch is loaded already: finding out is not worth two seconds of import.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
