"""What a plan says before anything runs. How far it is from what then happens: `python -m tests.benchmarks.plans`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeper import plan as planning
from sweeper.day import A_PACK, Day, alike, kind_of
from sweeper.grid import load_grid
from sweeper.machine import tree_bytes
from sweeper.pack import make_packs
from sweeper.plan import _disk, _in_turn
from sweeper.rehearse import Pace, Rehearsal, points, spread
from sweeper.tasks.base import Split
from sweeper.trial import run_pack
from tests.conftest import Called
from tests.sweeper.test_status import as_published

GRID = """
question = "?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = [0, 1]
[[strategies]]
name = "lora"
rank = [1, 2]
[[strategies]]
name = "feature_extraction"
[train]
lr = [1e-3, 1e-2]
steps = 200
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    file = tmp_path / "grid.toml"
    file.write_text(GRID)
    return file


def test_a_rehearsal_needs_the_memory_of_the_run_and_few_of_its_steps(grid: Path) -> None:
    for pack in make_packs(load_grid(str(grid)).trials, 4):
        pace = Rehearsal().pace(pack, plan=False)
        rows = run_pack(pack, {})
        assert pace.members == len(pack)
        assert pace.row_peak_bytes == pytest.approx(rows[0].metrics["peak_memory_bytes"], rel=0.15)
        assert pace.saved_bytes == rows[0].metrics["saved_bytes"]
        assert points(pack[0].train.steps) == len(rows[0].curve)
        # Loose, since the machine may be busy; a pace in milliseconds, or of a step too many, is caught.
        spent = sum(row.metrics["train_seconds"] for row in rows)
        assert spent / 5 < pace.step * pack[0].train.steps < 5 * spent


def test_workers_take_packs_as_they_come_and_wait_for_a_source_model(grid: Path) -> None:
    packs = make_packs(load_grid(str(grid)).trials, 4)
    one, other = [pack for pack in packs if pack[0].strategy == "lora"]
    assert kind_of(one) == kind_of(other), "seeds take as long as each other"
    pace = Pace(members=4, cold=1.0, planning=0.5, source=10.0, facts=2.0, fixed=3.0, step=0.01, point=0.1)
    whole = A_PACK + 1.0 + 0.5 + 3.0 + 200 * 0.01 + 6 * 0.1
    made = {("mlp", "digits_shifted", 40, one[0].seed)}
    day = Day({kind_of(one): pace}, 2, 5.0, made)
    day.train(one)
    assert day.end == pytest.approx(5.0 + whole), "the rehearsal has made its source model and facts"
    day.train(other)
    assert day.end == pytest.approx(5.0 + whole + 10.0 + 2.0)
    day.train(other)
    assert day.end == pytest.approx(5.0 + whole + 12.0), "the first worker is free, and all is there"
    alone = Day({kind_of(one): replace(pace, members=1)}, 1, 0.0, made)
    alone.train(one)
    assert alone.end == pytest.approx(whole + 3 * (3.0 + 2.0 + 0.6)), "one after the other"


def test_what_was_not_rehearsed_is_as_slow_as_its_strategy_on_its_task(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(GRID.replace('["digits_shifted"]', '["digits_shifted", "digits_weak_class"]'))
    packs = {kind_of(pack): pack for pack in make_packs(load_grid(str(tmp_path / "two.toml")).trials)}
    by_name = {(pack[0].task, pack[0].strategy): kind for kind, pack in packs.items()}
    lora, unseen = (by_name[task, "lora"] for task in ("digits_shifted", "digits_weak_class"))
    heads = by_name["digits_weak_class", "feature_extraction"]
    found = {lora: Pace(members=4, step=1.0, row=0.1, fixed=5.0), heads: Pace(members=2, step=0.3, row=0.2, fixed=7.0)}
    guess = alike(packs[unseen], packs, found)
    assert (guess.members, guess.step, guess.fixed) == (4, 2.0, 7.0), "twice as slow a task"
    full = [replace(spec, strategy="full", hparams={}) for spec in packs[lora]]
    assert alike(full, packs, found) == found[lora], "of a strategy that nobody has seen the most is feared"
    assert [packs[kind][0].strategy for kind in _in_turn(packs)][-2:] == ["feature_extraction"] * 2


def test_the_longest_text_is_among_those_that_a_rehearsal_trains_on() -> None:
    texts = ("a", "a longer text", "b", "c", "d", "e")
    split = Split(torch.arange(6).reshape(6, 1), torch.zeros(6), texts)
    assert "a longer text" not in spread(split, 3).texts
    assert spread(split, 3, 1).texts.count("a longer text") == 1
    assert spread(split, 3, 2).texts == ("a longer text", "a longer text", "e")


def test_a_checkpoint_takes_disk_where_there_will_be_one(grid: Path) -> None:
    trials = load_grid(str(grid)).trials
    packs = make_packs(trials, 4)
    for step, bytes_ in ((0.3, 0), (0.31, 60)):
        paces = {kind_of(pack): Pace(members=1, step=step, checkpoint_bytes=30) for pack in packs}
        assert _disk(trials, packs, paces, False, 2)["checkpoints"] == bytes_, f"200 steps of {step} s, 2 workers"


def test_the_command_tells_trials_time_memory_and_disk_and_what_does_not_fit(
    grid: Path, tmp_path: Path, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "free_bytes", lambda: 10**6)
    code, out, said = called(
        "plan", "--grid", str(grid), "--results", str(tmp_path / "results"), "--cpus", "1", "--format", "json"
    )
    assert code == 4, said
    found = as_published(out, "plan")
    assert (found["trials"], found["workers"], found["rehearsed"], found["kinds"]) == (12, 1, 2, 2)
    for name in ("seconds", "worker_bytes", "memory_bytes"):
        assert 0 < found[name]["low"] < found[name]["expected"] < found[name]["high"]
    assert found["memory_bytes"]["expected"] > found["worker_bytes"]["expected"] > 10**8
    assert found["disk_bytes"]["rows"] > 0
    (line,) = found["does_not_fit"]
    assert line.startswith("memory: ")
    assert "--max-concurrent 1" in line
    assert not (tmp_path / "results").exists(), "nothing is written"


def test_what_a_child_holds_counts_once() -> None:
    script = "import sys; held = b'x' * 10**8; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    before = tree_bytes()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert 10**8 < tree_bytes() - before < 1.5 * 10**8
        assert abs(tree_bytes(without=[child.pid]) - before) < 10**8 / 2
        child.communicate("")
    assert tree_bytes(without=[os.getpid()]) < before
