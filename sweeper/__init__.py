"""Sweep fine-tuning strategies and their hyperparameters, and keep every measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__version__ = "0.1.0"


def load_results(path: str | Path = "results") -> pd.DataFrame:
    """Return the results store at ``path`` as a frame with one row a trial.

    The columns are documented in ``results/README.md``. Rows of stores that lie in sub-folders are
    read along; of several rows with one ``trial_id`` the newest counts, a final one before a crash. Damaged
    rows are left out, with a warning that names them.

    Raises:
        ValueError: ``path`` is not a results store.
    """
    import warnings

    from sweeper.results import read_store, to_frame  # keeps `import sweeper` free of pandas

    contents = read_store(path)
    for damage in contents.damage:
        warnings.warn(str(damage), stacklevel=2)
    return to_frame(contents.results)
