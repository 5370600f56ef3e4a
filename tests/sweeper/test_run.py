"""`sweeper.launch` from Python: what it takes, returns and refuses."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper.grid import Grid, load_grid
from sweeper.launch_cli import launch as command
from sweeper.outcome import Outcome, serve_command
from sweeper.request import RECORDED, RECORDED_FIELDS
from sweeper.results import ResultsStore
from tests import small

GRID = {
    "name": "tiny",
    "question": "Which <rank>?",
    "models": ["mlp"],
    "tasks": ["digits_shifted"],
    "n_train": 40,
    "seeds": range(2),
    "strategies": [{"name": "lora", "rank": (1, 2)}, {"name": "full"}],
    "train": {"lr": 1e-2, "steps": 10},
}

NOTEBOOK = """
import asyncio, json, logging, sys
import ray, sweeper
from tests.sweeper.test_run import GRID

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

async def cell():
    return sweeper.launch(GRID, sys.argv[1], strategies=["lora", "bitfit"], log="tensorboard=" + sys.argv[2])

first, second = asyncio.run(cell()), asyncio.run(cell())
try:
    sweeper.launch(GRID, sys.argv[1], cpus=1, quiet=True)
except ValueError as error:
    print(json.dumps([repr(first), first.statuses, len(second.ran), ray.is_initialized(), str(error)]))
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A launch as in a notebook: an event loop runs, and so does somebody's Ray."""
    folder = tmp_path_factory.mktemp("launched")
    call = [sys.executable, "-c", NOTEBOOK, str(folder / "results"), str(folder / "board")]
    root = Path(__file__).parents[2]
    return folder, subprocess.run(call, cwd=root, capture_output=True, text=True, timeout=300)


def test_a_launch_runs_inside_an_event_loop_on_a_ray_that_is_there(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = launched
    assert done.returncode == 0, done.stderr
    short, statuses, ran, still_there, refusal = json.loads(done.stdout)
    assert short == f"<Outcome of tiny: 6 trials, 6 complete, in {folder / 'results'}>"
    assert statuses == {"complete": 6}
    assert ran == 0, "the second launch finds all in the store"
    assert still_there, "Ray is the caller's"
    assert refusal.startswith("cpus is for a Ray yet to be started")
    talk = [line for line in done.stderr.splitlines() if "WARNING" not in line.split("--")[0]]
    assert talk[:2] == [
        "tiny: Which <rank>?",
        f"6 trials to run, 0 already in {folder / 'results'}. Starting Ray ...",
    ], done.stderr
    assert "experiment_analysis" not in done.stderr
    assert "\x1b" not in done.stderr, "plain lines, no bar"


def test_rows_reach_a_tracker_while_the_sweep_runs(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = launched
    kept = {json.loads(file.read_text())["trial_id"]: file for file in (folder / "board").glob("*/row.json")}
    rows = ResultsStore(folder / "results").read().results
    assert len(kept) == 6
    assert all(json.loads(kept[row.trial_id].read_text()) == row.to_dict() for row in rows)


def test_the_outcome_has_the_rows_and_what_they_say(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = launched
    outcome = sweeper.launch({**GRID, "strategies": GRID["strategies"][:1]}, folder / "results", quiet=True)  # type: ignore[index]
    assert outcome.ran == {}
    assert len(outcome.frame) == 4
    assert set(outcome.frame["trial_id"]) == {trial.trial_id for trial in outcome.grid.trials}
    summary = outcome.summary()
    assert sorted(summary["settings"]) == ["rank=1", "rank=2"]
    two = outcome.frame[outcome.frame["hparam_rank"] == 2]["test_score"]
    line = summary[summary["settings"] == "rank=2"].iloc[0]
    assert (line["test_score"], line["test_score_std"]) == pytest.approx((two.mean(), two.std()))
    shown = outcome._repr_html_()
    assert "<td>rank=2</td>" in shown
    assert "<p>Scores in per cent, mean ± standard deviation over seeds." in shown
    assert "&lt;Outcome of tiny" in shown
    assert outcome.statuses == {"complete": 4}


def test_a_dict_is_the_grid_that_its_file_is_and_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    shipped = load_grid("smoke")
    planned = sweeper.launch(Path("smoke"), tmp_path / "none", dry_run=True, quiet=True)
    assert planned.grid.trials == shipped.trials
    assert planned.done == frozenset()
    assert sweeper.launch(shipped, tmp_path / "none", dry_run=True).grid == shipped
    by_name = sweeper.launch("smoke", tmp_path / "none", strategies="lora", dry_run=True).grid.trials
    assert {trial.strategy for trial in by_name} == {"lora"}
    assert not (tmp_path / "none").exists()


def test_every_option_of_the_command_is_an_argument_with_its_default() -> None:
    ours = inspect.signature(sweeper.launch).parameters
    theirs = {str(option.name) for option in command.params} - {"quiet", "verbose"}  # which every command has
    names = {RECORDED.get(name, name): name for name in ours} | {"folder": "results"}
    assert {RECORDED.get(name, name) for name in RECORDED_FIELDS} | {"folder", "form"} == theirs
    made = command.make_context("launch", ["--grid", "smoke"]).params
    for name in theirs - {"form", "grid_name"}:
        assert ours[names[name]].default == made[name], name


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ("lora_rank", {}, "no grid named 'lora_rank'.*Did you mean 'lora_ranks'"),
        ({"question": "?"}, {}, "^grid: the grid has no models and no tasks and no strategies"),
        ("smoke", {"search": "halfing"}, "no search named 'halfing'. Did you mean 'halving'"),
        ("smoke", {"objectives": "sped"}, "no objective named 'sped'"),
        ("smoke", {"early_stop": "mean"}, "no early stop named 'mean'"),
        ("smoke", {"cpus": 0}, "^cpus must be a whole number of at least 1, got 0"),
        ("smoke", {"budget": "10"}, "'10' is no time"),
        ("smoke", {"trial_timeout": -1}, "-1 is no time"),
        ("smoke", {"gpus_per_trial": 1.5}, "^gpus_per_trial must be a share of one GPU"),
        ("smoke", {"models": "mlp"}, "^models is for data DATA; a grid names its own"),
        ("smoke", {"log": "mlfow"}, "no tracker named 'mlfow' for log. Did you mean 'mlflow'"),
        ("smoke", {"address": "ray://head"}, "^address ray://head .*`sweeper submit --address http"),
        (Grid("own", "?", (small.spec(),)), {"strategies": "full"}, "^strategies and data are for a grid that is"),
    ],
)
def test_what_is_wrong_is_a_value_error_in_the_words_of_python(
    grid: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        sweeper.launch(grid, tmp_path / "results", **options)
    assert not (tmp_path / "results").exists()


def test_where_time_is_limited_each_strategy_has_its_first_seed_before_any_has_its_second() -> None:
    from sweeper.tune import packs_of

    trials = [small.spec(strategy=name, seed=seed) for name in ("full", "bitfit", "lora") for seed in (3, 1, 2)]
    order = [pack[0] for pack in packs_of(trials, 1, 2, None, limited=True)]
    assert [trial.seed for trial in order] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [trial.strategy for trial in order] == ["full", "bitfit", "lora"] * 3
    assert sorted(map(str, order)) == sorted(map(str, trials))


def test_a_launch_says_how_to_use_its_best_trial(tmp_path: Path) -> None:
    found = {("full", 0): 0.9, ("full", 1): 0.1, ("lora", 0): 0.7, ("lora", 1): 0.8}  # full had one lucky seed
    rows = [small.row(valid=valid, strategy=name, seed=seed) for (name, seed), valid in found.items()]
    store = ResultsStore(tmp_path / "my results", create=True)
    outcome = Outcome(Grid("own", "?", tuple(one.spec for one in rows)), store, rows)
    best = rows[3].trial_id
    folder = tmp_path / "my results"
    assert serve_command(outcome) == (
        f"sweeper adapters save {best} --results '{folder}' && sweeper serve '{folder}/adapters/{best}'"
    )
    (folder / "adapters" / best).mkdir(parents=True)
    assert serve_command(outcome) == f"sweeper serve '{folder}/adapters/{best}'"
    assert serve_command(Outcome(outcome.grid, store, [])) is None
