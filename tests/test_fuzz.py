"""1,000 random command lines, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_random_command_lines() -> None:
    """Each ends with a known code, and what is wrong is said in one line with a way out (`tests/fuzz_lines.py`).

    The lines run in one process, after one another, as entry points do; what the other tests have imported, patched and
    left open there is none of theirs.
    """
    lines = Path(__file__).with_name("fuzz_lines.py")
    call = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", str(lines)]
    done = subprocess.run(call, cwd=lines.parent.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "10 passed" in done.stdout
