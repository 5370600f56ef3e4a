"""The benchmarks run, at their smallest, and what they compare is the same work. Nothing here is about time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.spec import Status
from sweeper.strategies import STRATEGIES
from sweeper.tasks import TASKS
from sweeper.trial import run_pack
from tests.benchmarks import __main__ as command
from tests.benchmarks import measure, scaling
from tests.benchmarks.contenders import CONTENDERS, OURS, loop
from tests.benchmarks.no_op import NoOp
from tests.benchmarks.no_op_task import TASK
from tests.benchmarks.table import markdown
from tests.benchmarks.workloads import WORKLOADS, Against, Workload, heads, lora_grid, no_ops

ROOT = Path(__file__).parent.parent


@pytest.fixture
def no_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, NoOp.name, NoOp)
    monkeypatch.setitem(TASKS, TASK.name, TASK)


@pytest.mark.parametrize("run", ["hand", "features"])
def test_heads_by_hand_are_the_same_trials(run: str) -> None:
    specs = heads("small_cnn", "digits_shifted", 100, 32, quick=True)
    same = measure.compare(specs, loop(specs), loop(specs, run))
    assert same["compared"] == len(specs)
    assert same["swapped"] == 0
    assert same["apart"]["test_score"] == pytest.approx(0, abs=0.006)  # two rows of 400
    assert same["apart"]["valid_loss"] == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_lora_by_hand_is_the_same_trials() -> None:
    specs = lora_grid(quick=True)
    same = measure.compare(specs, loop(specs), loop(specs, "hand"))
    assert same["compared"] == len(specs)
    assert same["apart"]["test_score"] == pytest.approx(0, abs=0.006)
    assert same["apart"]["valid_loss"] == pytest.approx(0, abs=1e-3)


def test_a_trial_that_trains_nothing_is_a_complete_row(no_op: None) -> None:
    rows = run_pack(no_ops(3), {})
    assert [row.status for row in rows] == [Status.COMPLETE] * 3, rows[0].error
    assert rows[0].metrics["test_score"] == rows[1].metrics["test_score"]


def test_a_workload_is_measured_and_becomes_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SETTLE_SECONDS", 0)
    monkeypatch.setitem(CONTENDERS, OURS, loop)
    against = {"loop by hand": Against(target=2), "loop by hand, features once": Against(most=2)}
    workload = Workload("heads", lambda quick: heads("small_cnn", "digits_shifted", 100, 32, quick), against)
    found = measure.measure(workload, repeats=2, quick=True)
    assert [len(pair["ratios"]) for pair in found["pairs"]] == [2, 2]
    assert [pair["trials"] for pair in found["pairs"]] == [4, 2]
    report = {
        "versions": {"torch": "2"},
        "cpu": "CPU",
        "cores": 2,
        "date": "2026-01-01T",
        "quick": True,
        "repeats": 2,
    }
    report |= {"workloads": {"heads": found}, "scaling": {"rows": [scaling.figure("rows", "ms", [1.0, 3.0])]}}
    table = markdown(json.loads(json.dumps(report)))
    assert "| loop by hand | 4 |" in table
    assert "≥ 2x" in table
    assert "0 of 6 swapped" in table
    assert "| rows | 2 ms | 1 to 3 |" in table


def test_scores_that_differ_show() -> None:
    specs = heads("small_cnn", "digits_shifted", 100, 32, quick=True)[:2]
    a, b = (spec.trial_id for spec in specs)
    ours = {a: {"valid_score": 0.5, "test_score": 0.5}, b: {"valid_score": 0.6, "test_score": 0.5}}
    theirs = {a: {"valid_score": 0.7, "test_score": 0.5}, b: {"valid_score": 0.6, "test_score": 0.5}}
    same = measure.compare(specs, ours, theirs)
    assert (same["pairs"], same["swapped"]) == (1, 1)
    assert same["apart"]["valid_score"] == pytest.approx(0.2)


def test_stores_grow() -> None:
    assert {line["unit"] for line in scaling.rows(repeats=1, quick=True)} == {"ms"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_trials_differ_and_the_quick_ones_are_fewer(name: str, no_op: None) -> None:
    quick, whole = (WORKLOADS[name].specs(quick) for quick in (True, False))
    assert 0 < len(quick) < len(whole)
    assert len({spec.trial_id for spec in whole}) == len(whole)


def test_names_are_those_of_the_tables() -> None:
    assert set(command.WORKLOAD_NAMES) == set(WORKLOADS)
    assert set(command.SCALING_NAMES) == set(scaling.SCALING)
    assert {name for workload in WORKLOADS.values() for name in workload.against} <= set(CONTENDERS)


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    some = ["--only", "no_op", "--only", "trials", "--against", "Ray Tune tuned", "--against", "unpacked"]
    run = [sys.executable, "-m", "tests.benchmarks"]
    done = subprocess.run(
        [*run, "--quick", "--repeats", "1", *some, "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| Ray Tune tuned | 16 |" in done.stdout
    assert "missing in the store | 0 rows" in done.stdout
    again = subprocess.run([*run, "--table", str(output)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
