"""Experiment trackers as sinks: MLflow, Weights & Biases and TensorBoard, fed with rows of the store.

A trial is a run. Its settings are parameters, what was measured in the end are metrics by the store's names, and what
was measured on the way are metrics ``curve/NAME`` by step. A row is added once: what a tracker has is looked up there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sweeper.spec import Status, TrialResult
from sweeper.suggest import no_such
from sweeper.sweep import Listener

if TYPE_CHECKING:
    from mlflow.entities import Run

PROJECT = "sweeper"


class Sink(Protocol):
    """Where rows go, besides the store.

    Attributes:
        where: In words, for the user.
    """

    where: str

    def add(self, row: TrialResult) -> bool:
        """Add a row that is not there yet, in place of an older one of its trial; return whether it was missing."""
        ...


def params_of(row: TrialResult) -> dict[str, Any]:
    """Return what was set, by the names of the store's columns."""
    spec = row.spec.to_dict()
    own = {f"hparam_{name}": value for name, value in row.spec.hparams.items()}
    return {**{name: spec[name] for name in ("model", "task", "n_train", "strategy", "seed")}, **spec["train"], **own}


def tags_of(row: TrialResult) -> dict[str, str]:
    """Return what a run is found by; ``row`` tells rows of one trial apart."""
    spec = row.spec
    known = {"grid": row.provenance.get("grid"), "diagnoses": ", ".join(row.metrics.get("diagnoses", ()))}
    named = {"trial_id": row.trial_id, "status": row.status.value, "strategy": spec.strategy, "model": spec.model}
    return {**named, "task": spec.task, "row": digest(row), **{name: own for name, own in known.items() if own}}


def metrics_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those of the values that are numbers; tables and texts stay in the store."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def points_of(row: TrialResult) -> list[tuple[int, float, dict[str, float]]]:
    """Return the curve: step, seconds since the start, and metrics ``curve/NAME``."""
    return [
        (
            int(point["step"]),
            float(point.get("seconds", 0.0)),
            {f"curve/{name}": own for name, own in metrics_of(point).items() if name not in ("step", "seconds")},
        )
        for point in row.curve
    ]


def name_of(row: TrialResult) -> str:
    """Return what a run is called: strategy and trial."""
    return f"{row.spec.strategy.replace(':', '-')}-{row.trial_id}"


def digest(row: TrialResult) -> str:
    """Return what tells a row from any other."""
    return hashlib.sha256(json.dumps(row.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def times_of(row: TrialResult) -> tuple[float, float]:
    """Return when a trial's training began, about, and when its row was recorded, in seconds since the epoch."""
    recorded = row.provenance.get("recorded_at")
    end = datetime.fromisoformat(recorded).timestamp() if recorded else 0.0
    return end - float(row.metrics.get("train_seconds", 0.0)), end


class Mlflow:
    """Runs of an experiment on an MLflow server or in an SQLite file."""

    def __init__(self, where: str | None, project: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient, get_tracking_uri

        for name in ("mlflow", "alembic"):  # which say how they make a database
            logging.getLogger(name).setLevel(logging.ERROR)
        place = where or get_tracking_uri()
        self.where = f"the experiment {project!r} of {place}"
        try:
            self.client = MlflowClient(place)
            found = self.client.get_experiment_by_name(project)
            self.experiment = found.experiment_id if found else self.client.create_experiment(project)
            self.runs = {run.data.tags.get("trial_id"): run for run in self._stored()}
        except (MlflowException, ImportError) as error:
            raise OSError(
                f"MLflow takes nothing at {place!r} (sqlite:///mlflow.db is a file): {_line(error, 120)}; "
                "name another place"
            ) from None

    def _stored(self) -> Iterable[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def add(self, row: TrialResult) -> bool:
        """Add a row; a run that was cut off while it was written has no tag ``row``, and is written again."""
        from mlflow.entities import Metric, Param, RunTag

        old = self.runs.get(row.trial_id)
        if old is not None and old.data.tags.get("row") == digest(row):
            return False
        if old is not None:
            self.client.delete_run(old.info.run_id)
        start, end = (round(1000 * at) for at in times_of(row))
        tags = {**tags_of(row), **({"error": row.error[:500]} if row.error else {})}
        run = self.client.create_run(
            self.experiment, start_time=start, run_name=name_of(row), tags={"trial_id": row.trial_id}
        )
        metrics = [Metric(name, value, end, row.spec.train.steps) for name, value in metrics_of(row.metrics).items()]
        for step, seconds, values in points_of(row):
            metrics += [Metric(name, value, start + round(1000 * seconds), step) for name, value in values.items()]
        params = [Param(name, str(value)) for name, value in params_of(row).items()]
        for first in range(0, max(len(metrics), len(params)), 100):  # a server takes 100 parameters at once
            part = slice(first, first + 100)
            self.client.log_batch(run.info.run_id, metrics[part], params[part])
        self.client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        ended = {Status.COMPLETE: "FINISHED", Status.PRUNED: "KILLED", Status.TIMED_OUT: "KILLED"}
        self.client.set_terminated(run.info.run_id, ended.get(row.status, "FAILED"), end)
        self.runs[row.trial_id] = self.client.get_run(run.info.run_id)
        return True


class Wandb:
    """Runs of a W&B project, or with WANDB_MODE=offline files that `wandb sync` uploads.

    A run's id is the trial's and the beginning of the row's: W&B takes no id twice, and a trial may run again.
    """

    def __init__(self, where: str | None, project: str) -> None:
        import wandb

        self.wandb, self.project = wandb, project
        self.folder = Path(where or os.environ.get("WANDB_DIR") or ".")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.where = f"the W&B project {project!r}, files in {self.folder / 'wandb'}"

    def add(self, row: TrialResult) -> bool:
        """Add a row."""
        run_id = f"{row.trial_id}-{digest(row)[:8]}"
        if any(self.folder.glob(f"wandb/*run-*-{run_id}/*.wandb")):
            return False
        tags = tags_of(row)
        quiet: dict[str, Any] = {"silent": True, "console": "off", "disable_git": True, "disable_code": True}
        try:
            run = self.wandb.init(
                project=self.project,
                id=run_id,
                name=name_of(row),
                dir=str(self.folder),
                group=tags.get("grid"),
                tags=[row.spec.strategy[:64], row.status.value],
                config={**params_of(row), **tags, **({"error": row.error} if row.error else {})},
                resume="allow",
                reinit="finish_previous",
                settings=self.wandb.Settings(x_disable_stats=True, **quiet),
            )
            known = run.resumed
            if not known:
                for step, _, values in points_of(row):
                    run.log(values, step=step)
                run.summary.update(metrics_of(row.metrics))
            run.finish(exit_code=0 if row.status.is_final else 1)
        except self.wandb.Error as error:
            raise OSError(f"W&B takes no run ({_line(error)}): `wandb login`, or WANDB_MODE=offline") from None
        return not known


class TensorBoard:
    """A folder of event files for each trial, and beside them the row that they show.

    TensorBoard keeps scalars in 32 bits; `row.json` has the store's numbers.
    """

    def __init__(self, where: str | None, project: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # before anything is written

        self.folder = Path(where) if where else Path("runs") / project
        self.where = f"{self.folder}; `tensorboard --logdir {self.folder}` shows it"

    def add(self, row: TrialResult) -> bool:
        """Add a row."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder, text = self.folder / name_of(row), json.dumps(row.to_dict(), sort_keys=True)
        file = folder / "row.json"
        if file.exists() and file.read_text() == text:
            return False
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
        start, end = times_of(row)
        metrics = metrics_of(row.metrics)
        with SummaryWriter(str(unfinished)) as writer:
            for step, seconds, values in points_of(row):
                for name, value in values.items():
                    writer.add_scalar(name, value, step, walltime=start + seconds)
            for name, value in metrics.items():
                writer.add_scalar(name, value, row.spec.train.steps, walltime=end)
            params = {name: own if isinstance(own, int | float) else str(own) for name, own in params_of(row).items()}
            for summary in hparams(params, metrics):
                writer.file_writer.add_summary(summary)
            for name, own in tags_of(row).items():
                writer.add_text(name, own, walltime=end)
        (unfinished / "row.json").write_text(text)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
        return True


SINKS: Mapping[str, Callable[[str | None, str], Sink]] = {"mlflow": Mlflow, "tensorboard": TensorBoard, "wandb": Wandb}


def open_sink(name: str, where: str | None = None, project: str = PROJECT) -> Sink:
    """Return the sink of a tracker.

    Args:
        name: In `SINKS`.
        where: MLflow's tracking URI, or a folder; if ``None``, what the tracker itself takes.
        project: MLflow's experiment, W&B's project.

    Raises:
        ValueError: there is no such tracker, or its package is not installed.
        OSError: it takes nothing there.
    """
    if name not in SINKS:
        raise no_such("tracker", name, SINKS)
    try:
        return SINKS[name](where, project)
    except ImportError:
        raise ValueError(f'{name} is not installed: pip install "sweeper-advisor[{name}]"') from None


class Logged:
    """A listener of a sweep that hands rows on to trackers; what a tracker does wrong does not end the sweep.

    Args:
        listener: Hears of everything first.
        sinks: By name.
        warn: Told of a tracker that takes no more.
    """

    def __init__(self, listener: Listener, sinks: Mapping[str, Sink], warn: Callable[[str], None]) -> None:
        self.listener, self.sinks, self.warn = listener, dict(sinks), warn

    def start(self, trials: int) -> None:
        """Hear that this many trials have started."""
        self.listener.start(trials)

    def finish(self, results: list[TrialResult]) -> None:
        """Hear of rows that are in the store."""
        self.listener.finish(results)
        for name, sink in [*self.sinks.items()]:
            try:
                for row in results:
                    sink.add(row)
            except Exception as error:  # whatever a tracker raises: the rows are in the store
                del self.sinks[name]
                self.warn(
                    f"{name} takes no more rows ({_line(error)}); `sweeper export --to {name}` brings it the rest"
                )


def split(log: Sequence[str]) -> dict[str, str | None]:
    """Return tracker -> where, from ``NAME`` or ``NAME=WHERE``.

    Raises:
        ValueError: there is no such tracker.
    """
    found = {}
    for one in log:
        name, _, where = one.partition("=")
        if name not in SINKS:
            raise no_such("tracker", name, SINKS, " for --log")
        found[name] = where or None
    return found


def _line(error: object, most: int = 300) -> str:
    return " ".join(str(error).split())[:most]
