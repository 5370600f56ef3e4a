"""Launching through a real Ray, as a user does it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import sweeper
from sweeper.grid import load_grid
from sweeper.progress import SweepProgress
from sweeper.results import ResultsStore
from sweeper.spec import TrialResult
from tests.conftest import Command

SWEEPER = str(Path(sys.executable).with_name("sweeper"))

KILL_GRID = """
question = "Does a killed sweep go on?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = [0, 1, 2]
[[strategies]]
name = "lora"
rank = [1, 2, 3, 4, 5, 6, 7, 8]
[[strategies]]
name = "full"
[train]
lr = [1e-3, 1e-2]
steps = 200
"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The grid `smoke`, launched once by its command."""
    folder = tmp_path_factory.mktemp("smoke")
    command = [SWEEPER, "launch", "--grid", "smoke", "--format", "json"]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_launch_runs_every_trial_and_says_what_came_of_it(
    smoke: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = smoke
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)  # stdout is data alone
    grid = load_grid("smoke")
    assert outcome["ran"] == outcome["trials"] == len(grid.trials)
    assert outcome["statuses"] == {"complete": len(grid.trials)}
    assert {line["strategy"] for line in outcome["lines"]} == {"lora", "full"}
    assert (folder / outcome["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "advisor fit" in outcome["next"]
    assert "Starting Ray" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr, "no bar and no colours in a pipe"

    frame = sweeper.load_results(folder / "results")
    assert set(frame["trial_id"]) == {trial.trial_id for trial in grid.trials}
    assert set(frame["status"]) == {"complete"}
    assert (frame["test_score"] > 0.2).all(), "every trial is above chance"
    assert set(frame["grid"]) == {"smoke"}
    assert not [path for path in (folder / "results").rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]


def test_a_second_launch_runs_nothing_and_says_so(
    smoke: tuple[Path, subprocess.CompletedProcess[str]], command: Command
) -> None:
    folder, _ = smoke
    before = {path: path.read_bytes() for path in (folder / "results").glob("*.jsonl")}
    done = command("sweeper", "launch", "--grid", "smoke", cwd=folder)
    assert done.returncode == 0
    assert "Nothing to run: all 18 trials are in results" in done.stderr
    assert "mlp on digits_shifted" in done.stdout
    assert {path: path.read_bytes() for path in (folder / "results").glob("*.jsonl")} == before
    plan = command("sweeper", "launch", "--grid", "smoke", "--dry-run", cwd=folder).stdout
    assert plan.splitlines()[-1] == "18 trials, 18 of them done."


def test_a_search_gives_all_steps_to_the_best_alone_and_a_budget_ends_it(command: Command, tmp_path: Path) -> None:
    launch = ["sweeper", "launch", "--grid", "smoke", "--search", "halving", "--format", "json"]
    done = command(*launch, "--budget", "0.001s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Time is up: 6 trials have not started; the same command goes on from there." in done.stderr
    assert json.loads(done.stdout)["ran"] == 0
    done = command(*launch, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frame = sweeper.load_results(tmp_path / "results")
    # 6 settings: 40 // 9 is too few steps for a rung, 13 are not; then the best 2 on all seeds.
    assert dict(frame.groupby("steps").size()) == {13: 6, 40: 6}
    first = frame[frame["steps"] == 13].sort_values("valid_score", ascending=False)
    last = frame[frame["steps"] == 40]
    assert set(last["lr"].astype(str) + last["hparams"]) == set((first["lr"].astype(str) + first["hparams"])[:2])
    assert json.loads(done.stdout)["ran"] == 12


def test_show_and_export_agree_with_the_store(
    smoke: tuple[Path, subprocess.CompletedProcess[str]], command: Command
) -> None:
    folder, _ = smoke
    frame = sweeper.load_results(folder / "results")
    rows = json.loads(command("sweeper", "show", "--strategy", "lora", "--format", "json", cwd=folder).stdout)
    assert len(rows) == (frame["strategy"] == "lora").sum()
    whole = json.loads(command("sweeper", "show", rows[0]["trial_id"][:10], cwd=folder).stdout)
    assert whole == rows[0]
    for name, read in (("out.csv", pd.read_csv), ("out.parquet", pd.read_parquet)):
        assert command("sweeper", "export", name, cwd=folder).returncode == 0
        table = read(folder / name)
        assert list(table.columns) == list(frame.columns)
        assert table["test_score"].tolist() == pytest.approx(frame["test_score"].tolist())


def test_the_advice_rests_on_the_trials_just_run(
    smoke: tuple[Path, subprocess.CompletedProcess[str]], command: Command
) -> None:
    folder, _ = smoke
    assert command("advisor", "fit", cwd=folder).returncode == 0
    flags = "--model-params 10k --n-train 50 --modality image --task-different --format json"
    answer = json.loads(command("advisor", "recommend", *flags.split(), cwd=folder).stdout)
    assert answer["spoke"] == "evidence"
    cited = [id_ for c in answer["candidates"] if c["estimate"] for id_ in c["estimate"]["trial_ids"]]
    assert len(cited) == 6
    assert set(cited) <= set(sweeper.load_results(folder / "results")["trial_id"])


def test_a_killed_sweep_goes_on_without_running_anything_twice(tmp_path: Path) -> None:
    (tmp_path / "kill.toml").write_text(KILL_GRID)
    command = [SWEEPER, "launch", "--grid", "kill.toml", "--pack", "2"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not stored(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    survived = stored(tmp_path)
    total = len(load_grid(str(tmp_path / "kill.toml")).trials)
    assert 0 < len(survived) < total

    resume = [SWEEPER, "resume"]
    done = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{total - len(survived)} trials to run, {len(survived)} already in results" in done.stderr
    nothing = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "Nothing to resume: every launch into results has come to its end.\n"
    written = Counter(
        json.loads(line)["trial_id"] for file in (tmp_path / "results").glob("*.jsonl") for line in file.open()
    )
    assert len(written) == total
    assert set(written.values()) == {1}, "no trial has two rows"


def test_a_full_disk_ends_the_sweep_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.tune import launch

    store = ResultsStore(tmp_path / "results", create=True)
    append = store.append

    def one_pack_fits(rows: list[TrialResult]) -> None:
        if store.path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(rows)

    monkeypatch.setattr(store, "append", one_pack_fits)
    with pytest.raises(OSError, match=r"takes no more rows \(No space left on device\).*launch again to go on"):
        launch(load_grid("smoke").trials, store, SweepProgress(18, Console(quiet=True)), cpus=1)
    assert 0 < len(stored(tmp_path)) < 18


def test_a_script_may_import_ray_first_and_a_cluster_elsewhere_is_let_be() -> None:
    script = "import ray, sweeper.tune as l\nwith l.connected(None, 1):\n    print(ray.cluster_resources()['CPU'])"
    env = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.split()[-1:] == ["1.0"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_sweep_soon_and_keeps_what_is_finished(tmp_path: Path, times: int) -> None:
    (tmp_path / "grid.toml").write_text(KILL_GRID)
    launch = subprocess.Popen(
        [SWEEPER, "launch", "--grid", "grid.toml", "--pack", "2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("results/rows-*.jsonl")):
        assert launch.poll() is None
        time.sleep(0.1)
    before = {row.trial_id for row in ResultsStore(tmp_path / "results").read().results}
    started = time.monotonic()
    for _ in range(times):
        launch.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, talk = launch.communicate(timeout=60)
    assert launch.returncode == 130, talk
    assert time.monotonic() - started < 10
    assert "Traceback" not in talk
    assert before <= {row.trial_id for row in ResultsStore(tmp_path / "results").read().results}


@pytest.mark.slow
def test_a_trial_beyond_its_time_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(
        KILL_GRID.replace("[1, 2, 3, 4, 5, 6, 7, 8]", "4")
        .replace("seeds = [0, 1, 2]", "seeds = [0]")
        .replace("[train]", '[[strategies]]\nname = "bitfit"\nsteps = 100_000_000\n[train]')
    )
    command = [SWEEPER, "launch", "--grid", "long.toml", "--trial-timeout", "10s", "--cpus", "1"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    assert time.monotonic() - started < 120
    frame = sweeper.load_results(tmp_path / "results")
    assert dict(frame.groupby("strategy")["status"].unique().map(list)) == {
        "bitfit": ["timed_out"],
        "full": ["complete"],
        "lora": ["complete"],
    }
    assert "longer than the limit of 10 s a trial" in done.stderr


DEADLY = """
import ctypes, os, pathlib, signal, subprocess
from dataclasses import dataclass
from sweeper.strategies.base import Stage, labelled

@dataclass(frozen=True)
class Deadly:
    \"\"\"Trains the head, ends its process, or hangs.\"\"\"

    name = "deadly"
    per_member = frozenset({"at"})
    space = {}
    at: float = 0.0

    def adapt(self, model, members):
        def objective(model, draw):
            if any(member.at == 1e-3 for member in members):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.at == 3e-3:
                child = subprocess.Popen(["sh", "-c", "trap '' TERM; while true; do sleep 1; done"])
                pathlib.Path(os.environ["DEADLY"], "child").write_text(str(child.pid))
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                ctypes.PyDLL(None).sleep(1000)  # and nobody else gets the GIL
            return labelled(model, draw)

        model.wake_fresh_head()
        yield Stage(objective=objective)
"""


def stored(folder: Path) -> list[str]:
    if not (folder / "results" / "store.json").exists():
        return []
    return [result.trial_id for result in ResultsStore(folder / "results").read().results]


@pytest.mark.slow
def test_the_same_sweep_goes_to_a_ray_cluster(tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    ray = str(Path(sys.executable).with_name("ray"))
    port = "46379"
    start = [ray, "start", "--head", "--port", port, "--num-cpus", "2", "--include-dashboard", "false"]
    subprocess.run(start, env=environment, check=True, capture_output=True, timeout=120)
    try:
        launch = [SWEEPER, "launch", "--grid", "smoke", "--address", f"127.0.0.1:{port}"]
        done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert len(stored(tmp_path)) == 18
        # Without the token nobody gets in.
        refused = subprocess.run(
            [*launch, "--results", "other"],
            cwd=tmp_path,
            env={**environment, "RAY_AUTH_TOKEN": "f" * 64},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "other").exists()
    finally:
        subprocess.run([ray, "stop", "--force"], env=environment, capture_output=True, timeout=120)


@pytest.mark.slow
def test_trials_whose_worker_is_killed_start_again_in_the_same_launch(tmp_path: Path) -> None:
    import psutil

    (tmp_path / "kill.toml").write_text(KILL_GRID.replace("200", "2000"))
    command = [SWEEPER, "launch", "--grid", "kill.toml", "--pack", "4"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not stored(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    descendants = psutil.Process(driver.pid).children(recursive=True)
    next(child for child in descendants if "ray::ResourceTrainable" in " ".join(child.cmdline())).kill()
    _, talk = driver.communicate(timeout=300)
    assert driver.returncode == 0, talk
    total = len(load_grid(str(tmp_path / "kill.toml")).trials)
    assert len(stored(tmp_path)) == total
    assert set(sweeper.load_results(tmp_path / "results")["status"]) == {"complete"}


@pytest.fixture
def deadly(tmp_path: Path) -> dict[str, str]:
    """A plugin's strategy that kills its process, or hangs; in the environment that is returned it is there."""
    folder = tmp_path / "plugin" / "deadly-1.dist-info"
    folder.mkdir(parents=True)
    (tmp_path / "plugin" / "deadly.py").write_text(DEADLY)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[sweeper.strategies]\ndeadly = deadly:Deadly\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "plugin"), "DEADLY": str(tmp_path)}


DEADLY_GRID = """question = "?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = [0]
[[strategies]]
name = "deadly"
at = {at}
[train]
lr = 1e-3
steps = 5
"""


@pytest.mark.slow
def test_a_trial_that_ends_its_worker_each_time_gets_a_row_and_takes_no_other_along(
    deadly: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "deadly.toml").write_text(DEADLY_GRID.format(at="[1e-3, 1e-2]"))
    command = [SWEEPER, "launch", "--grid", "deadly.toml", "--pack", "8"]
    done = subprocess.run(command, cwd=tmp_path, env=deadly, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    rows = sweeper.load_results(tmp_path / "results").set_index("hparam_at")
    assert rows["status"].to_dict() == {1e-3: "failed", 1e-2: "complete"}
    assert "the 2 times that it was started" in rows["error"][1e-3]
    listed = subprocess.run([SWEEPER, "ls"], env=deadly, capture_output=True, text=True, timeout=60)
    assert "[from deadly 1" in next(line for line in listed.stdout.splitlines() if line.split()[:1] == ["deadly"])


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_with_its_children(deadly: dict[str, str], tmp_path: Path) -> None:
    import psutil

    (tmp_path / "deadly.toml").write_text(DEADLY_GRID.format(at="[3e-3]"))
    command = [SWEEPER, "launch", "--grid", "deadly.toml", "--trial-timeout", "5s"]
    launch = subprocess.Popen(command, cwd=tmp_path, env=deadly, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    started = time.monotonic()
    _, talk = launch.communicate(timeout=120)
    assert launch.returncode == 3, talk
    assert time.monotonic() - started < 5 + 10
    assert "longer than the limit of 5 s" in talk
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
