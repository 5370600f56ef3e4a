"""Sweep fine-tuning strategies and their hyperparameters, and keep every measurement."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from sweeper.grid import Grid, load_grid
    from sweeper.outcome import Outcome
    from sweeper.run import launch

__all__ = ["Grid", "Outcome", "launch", "load_grid", "load_results"]

__version__ = "0.1.0"

# Found when they are first asked for: `import sweeper` stays free of torch and the like.
_HOMES = {"Grid": "grid", "load_grid": "grid", "Outcome": "outcome", "launch": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sweeper' has no attribute {name!r}")
    return getattr(import_module(f"sweeper.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
