"""In a process of its own: say when the first trial is finished, or when Ray and torch are there."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path


def floor() -> None:
    """Start Ray and import torch, and nothing else."""
    import ray
    import torch  # noqa: F401

    ray.init(include_dashboard=False, log_to_driver=False)
    print(time.perf_counter(), flush=True)
    ray.shutdown()


def first() -> None:
    """Launch two trials as a user does."""
    from sweeper.results import ResultsStore
    from sweeper.spec import TrialResult
    from sweeper.tune import launch
    from tests.benchmarks.workloads import cheapest

    class First:
        """Says when it hears of the first row."""

        told = False

        def start(self, trials: int) -> None:
            """Hear that trials have started."""

        def finish(self, results: list[TrialResult]) -> None:
            """Say when, once."""
            if not self.told:
                print(time.perf_counter(), flush=True)
            self.told = True

    with tempfile.TemporaryDirectory() as folder:
        store = ResultsStore(Path(folder) / "results", create=True)
        launch(cheapest(2), store, First())
        store.close()


if __name__ == "__main__":
    {"floor": floor, "first": first}[sys.argv[1]]()
