"""The notebook runs from top to bottom, and its stored outputs are of the shape that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"
MOST_BYTES = 100_000


def kinds(cells: list[Any]) -> list[list[str]]:
    """Return the kinds of output of each cell, talk on stderr left out: how much there is depends on the machine."""
    found = []
    for cell in cells:
        outputs = [one for one in cell.get("outputs", ()) if one.get("name") != "stderr"]
        found.append([one["output_type"] if "data" not in one else "+".join(sorted(one["data"])) for one in outputs])
    return found


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    assert NOTEBOOK.stat().st_size <= MOST_BYTES
    stored = nbformat.read(NOTEBOOK, as_version=4)
    ran = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(ran.cells) == kinds(stored.cells)
    shown = "".join(str(one.get("data", "")) for cell in ran.cells for one in cell.get("outputs", ()))
    assert "image/png" in shown
    assert "12 trials" not in shown, "of 24 trials"
    assert "24 complete" in shown
    talk = "".join(
        one.get("text", "") for cell in ran.cells for one in cell.get("outputs", ()) if one.get("name") == "stderr"
    )
    assert "24 trials to run, 0 already in" in talk
    assert len(talk.splitlines()) < 40, "a line now and then"
    assert "Warning" not in talk, talk
    assert not list(tmp_path.iterdir()), "nothing is left where the notebook lies"
