"""Trackers, read back with their own readers: what they have is what the store has."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeper.loggers import Logged, digest, metrics_of, open_sink, params_of
from sweeper.progress import SweepProgress
from sweeper.results import ResultsStore
from sweeper.spec import Status, TrialResult
from tests import small
from tests.conftest import Called


@pytest.fixture(scope="module")
def rows() -> list[TrialResult]:
    """A row of a trial that ran, and one of a trial that did not."""
    made = small.row()
    stamp = {"grid": "own", "recorded_at": "2026-11-27T10:00:00.000000Z"}
    failed = TrialResult(small.spec(seed=7), Status.FAILED, provenance=stamp, error="RuntimeError: boom")
    assert made.curve
    return [replace(made, provenance={**made.provenance, **stamp}), failed]


@pytest.fixture
def store(rows: list[TrialResult], tmp_path: Path) -> Path:
    made = ResultsStore(tmp_path / "results", create=True)
    made.append(rows)
    made.close()
    return made.path


Run = Mapping[str, Any]


def from_mlflow(folder: Path) -> dict[str, Run]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("own project")
    assert experiment
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        names = [name for name in run.data.metrics if name.startswith("curve/")]
        curves = {
            name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)] for name in names
        }
        metrics = {name: value for name, value in run.data.metrics.items() if name not in names}
        tags = run.data.tags
        found[tags["trial_id"]] = {
            "params": run.data.params,
            "metrics": metrics,
            "curves": curves,
            "ok": run.info.status == "FINISHED",
            **{name: tags.get(name) for name in ("strategy", "model", "task", "grid", "status", "error")},
        }
    return found


def from_wandb(folder: Path) -> dict[str, Run]:
    found = {}
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        call = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        updates = {
            kind: [one[kind] for one in records if one["type"] == kind] for kind in ("run", "summary", "history")
        }
        config = {name: own for one in updates["run"] for name, own in one["config"]["update"].items()}
        summary = {name: own for one in updates["summary"] for name, own in one.get("update", {}).items()}
        curves: dict[str, list[tuple[int, float]]] = {}
        for point in updates["history"]:
            for name, value in point["item"].items():
                if name.startswith("curve/"):
                    curves.setdefault(name, []).append((point["step"]["num"], value))
        (code,) = [one["exit"].get("exit_code", 0) for one in records if one["type"] == "exit"]
        found[config["trial_id"]] = {
            "params": config,
            "metrics": {name: own for name, own in summary.items() if not name.startswith(("_", "curve/"))},
            "curves": curves,
            "ok": code == 0,
            **{name: config.get(name) for name in ("strategy", "model", "task", "grid", "status", "error")},
        }
    return found


def from_tensorboard(folder: Path) -> dict[str, Run]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data
    from tensorboard.util.tensor_util import make_ndarray

    found = {}
    for file in folder.glob("*/events.*"):
        events = EventAccumulator(str(file.parent))
        events.Reload()
        scalars = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        texts = {
            tag.removesuffix("/text_summary"): make_ndarray(events.Tensors(tag)[0].tensor_proto)[0].decode()
            for tag in events.Tags()["tensors"]
        }
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        started = parse_session_start_info_plugin_data(content).hparams
        found[texts["trial_id"]] = {
            "params": {name: getattr(own, own.WhichOneof("kind")) for name, own in started.items()},
            "metrics": {tag: points[-1][1] for tag, points in scalars.items() if not tag.startswith("curve/")},
            "curves": {tag: points for tag, points in scalars.items() if tag.startswith("curve/")},
            "ok": texts["status"] == "complete",
            **{name: texts.get(name) for name in ("strategy", "model", "task", "grid", "status")},
        }
    return found


READERS = {"mlflow": from_mlflow, "wandb": from_wandb, "tensorboard": from_tensorboard}


def as_32_bits(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_has_what_the_store_has_and_each_row_once(
    name: str, rows: list[TrialResult], store: Path, tmp_path: Path, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)  # what a tracker leaves beside its own files
    where = f"sqlite:///{tmp_path / 'mlflow.db'}" if name == "mlflow" else str(tmp_path)
    export = ["export", "--to", name, where, "--project", "own project", "--results", str(store)]
    code, out, talk = called(*export)
    assert (code, out) == (0, ""), talk
    assert talk.splitlines()[-1].startswith("2 trials added, 0 were there: "), talk
    found = READERS[name](tmp_path)
    exact = as_32_bits if name == "tensorboard" else float
    for row in rows:
        run = found[row.trial_id]
        assert run["metrics"] == {key: exact(value) for key, value in metrics_of(row.metrics).items()}
        curves: dict[str, list[tuple[int, float]]] = {}
        for point in row.curve:
            for key in point.keys() - {"step", "seconds"}:
                curves.setdefault(f"curve/{key}", []).append((int(point["step"]), exact(point[key])))
        assert run["curves"] == curves
        assert {key: str(run["params"][key]) for key in ("task", "hparam_rank")} == {
            "task": row.spec.task,
            "hparam_rank": str(row.spec.hparams["rank"]) + (".0" if name == "tensorboard" else ""),
        }
        assert params_of(row).keys() <= run["params"].keys()
        assert [run[key] for key in ("strategy", "model", "status", "grid")] == [
            row.spec.strategy,
            row.spec.model,
            row.status.value,
            "own",
        ]
        assert run["ok"] == (row.status is Status.COMPLETE)

    assert called(*export)[2].splitlines()[-1].startswith("0 trials added, 2 were there: ")
    assert READERS[name](tmp_path).keys() == found.keys()
    # A trial that failed and was run again: its newest row takes the place of the old one.
    again = ResultsStore(store)
    again.append([replace(rows[0], spec=rows[1].spec)])
    again.close()
    assert called(*export)[2].splitlines()[-1].startswith("1 trials added, 1 were there: ")
    now = READERS[name](tmp_path)
    assert len(now) == 2
    if name != "wandb":  # where no run is ever replaced
        assert now[rows[1].trial_id]["ok"]


def test_a_tracker_that_fails_does_not_end_a_sweep(rows: list[TrialResult]) -> None:
    class Full:
        where = "nowhere"
        asked = 0

        def add(self, row: TrialResult) -> bool:
            self.asked += 1
            raise RuntimeError("quota\nexceeded")

    heard: list[str] = []
    sink, progress = Full(), SweepProgress(2, Console(quiet=True))
    logged = Logged(progress, {"wandb": sink}, heard.append)
    for row in rows:
        logged.finish([row])
    assert progress.done == 2
    assert sink.asked == 1
    assert heard == ["wandb takes no more rows (quota exceeded); `sweeper export --to wandb` brings it the rest"]


def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, store: Path, called: Called
) -> None:
    for module in ("mlflow", "mlflow.exceptions", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, module, None)
    assert called("export", "--to", "mlflow", "--results", str(store)) == (
        2,
        "",
        'Error: mlflow is not installed: pip install "sweeper-advisor[mlflow]"\n',
    )


def test_where_mlflow_keeps_nothing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"MLflow takes nothing at 'gopher://x' \(sqlite:///mlflow.db is a file\)"):
        open_sink("mlflow", "gopher://x")


def test_rows_differ_by_what_is_in_them(rows: list[TrialResult]) -> None:
    assert digest(rows[0]) == digest(TrialResult.from_dict(rows[0].to_dict()))
    assert digest(rows[0]) != digest(replace(rows[0], provenance={}))
