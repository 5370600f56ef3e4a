"""The ways to run a list of trials that are compared. Each returns the scores of each trial by its id."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from sweeper.tune import OBJECT_STORE_BYTES, launch  # before ray: it says how Ray is to behave

# isort: split
import ray
from ray import tune

from sweeper.results import ResultsStore
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.trial import run_pack
from tests.benchmarks import hand

Found = dict[str, hand.Scores]
"""Trial id -> its scores."""
Contender = Callable[[Sequence[TrialSpec]], Found]


class NotHereError(Exception):
    """What a contender needs is not installed."""


class Rows:
    """A listener that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[TrialResult] = []

    def start(self, trials: int) -> None:
        """Hear that trials have started."""

    def finish(self, results: list[TrialResult]) -> None:
        """Keep rows that are in the store."""
        self.rows += results


def sweep(specs: Sequence[TrialSpec], **how: Any) -> Found:
    """Launch the trials as a user does, into a store of their own."""
    heard = Rows()
    with tempfile.TemporaryDirectory() as folder:
        store = ResultsStore(Path(folder) / "results", create=True)
        launch(specs, store, heard, **how)
        store.close()
    return {row.trial_id: scores_of(row) for row in heard.rows}


def scores_of(row: TrialResult) -> hand.Scores:
    """Return what is compared of a row; nothing of one that is not complete."""
    if row.status is not Status.COMPLETE:
        return {}
    found = {name: row.metrics[name] for name in ("valid_score", "test_score", "train_seconds")}
    if "valid_loss" in row.curve[-1]:
        found["valid_loss"] = row.curve[-1]["valid_loss"]
    return found


def alone(spec: TrialSpec) -> hand.Scores:
    """Run one trial as a pack of one."""
    (row,) = run_pack([spec], {})
    return scores_of(row)


RUN: dict[str, Callable[[TrialSpec], hand.Scores]] = {
    "run_pack": alone,
    "hand": hand.run,
    "features": hand.head_on_features,
}


class OneTrial(tune.Trainable):
    """One trial for each Tune trial, as one writes it for Ray Tune."""

    def setup(  # type: ignore[override]  # Tune hands over what `with_parameters` was given
        self, config: dict[str, Any], specs: Sequence[TrialSpec], run: str
    ) -> None:
        """Remember the trials; `config` names one of them by its number."""
        torch.set_num_threads(1)
        self.specs, self.own_run = specs, RUN[run]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run the trial and return its scores."""
        spec = self.specs[self.config["trial"]]
        return {"trial": spec.trial_id, "scores": self.own_run(spec), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing."""


def ray_tune(specs: Sequence[TrialSpec], run: str = "run_pack", tuned: bool = True) -> Found:
    """Run each trial as a trial of Ray Tune: with its defaults, or tuned (actors stay, no automatic loggers)."""
    with tempfile.TemporaryDirectory() as folder, _environment("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", str(int(tuned))):
        trainable = tune.with_parameters(OneTrial, specs=list(specs), run=run)
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"trial": tune.grid_search(list(range(len(specs))))},
            tune_config=tune.TuneConfig(reuse_actors=tuned),
            run_config=tune.RunConfig(name="sweep", storage_path=folder, verbose=0),
        ).fit()
    ended = [results[i].metrics or {} for i in range(len(results))]
    return {metrics["trial"]: metrics["scores"] for metrics in ended}


def loop(specs: Sequence[TrialSpec], run: str = "run_pack", threads: int = 1) -> Found:
    """Run one trial after the other in this process."""
    with torch_threads(threads):
        hand.forget()
        return {spec.trial_id: RUN[run](spec) for spec in specs}


def optuna_pool(specs: Sequence[TrialSpec]) -> Found:
    """Let Optuna say which trial is next, to a pool of a process for each core."""
    if importlib.util.find_spec("optuna") is None:
        raise NotHereError("optuna is not installed")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for number in range(len(specs)):
        study.enqueue_trial({"trial": number})
    found: Found = {}
    running: dict[Future[hand.Scores], Any] = {}
    waiting = iter(range(len(specs)))
    with ProcessPoolExecutor(cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        while len(found) < len(specs):
            for _ in itertools.islice(waiting, cores() - len(running)):
                trial = study.ask()
                spec = specs[trial.suggest_int("trial", 0, len(specs) - 1)]
                running[pool.submit(alone, spec)] = (trial, spec)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                trial, spec = running.pop(done)
                found[spec.trial_id] = done.result()
                study.tell(trial, found[spec.trial_id].get("valid_score", 0.0))
    return found


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


OURS = "sweep"
CONTENDERS: dict[str, Contender] = {
    OURS: sweep,
    "unpacked": partial(sweep, pack_size=1),
    "Ray Tune default": partial(ray_tune, tuned=False),
    "Ray Tune tuned": ray_tune,
    "Ray Tune tuned, loop by hand": partial(ray_tune, run="hand"),
    "sequential": loop,
    "sequential, all threads": partial(loop, threads=cores()),
    "loop by hand": partial(loop, run="hand"),
    "loop by hand, all threads": partial(loop, run="hand", threads=cores()),
    "loop by hand, features once": partial(loop, run="features"),
    "Optuna, process pool": optuna_pool,
}


@contextmanager
def local_ray() -> Iterator[None]:
    """Start the Ray that all contenders share, as `sweeper.tune` starts it."""
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        num_cpus=cores(),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Give torch this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before: Mapping[str, str] = dict(os.environ)
    os.environ[name] = value
    try:
        yield
    finally:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
