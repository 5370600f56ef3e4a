"""How launches stand, as others see it, and how they are asked to stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sweeper import standing
from sweeper.launches import recorded
from sweeper.results import ResultsStore
from sweeper.spec import Status, TrialResult
from sweeper.standing import (
    SILENT_SECONDS,
    Reporter,
    StoppedError,
    TimeIsUpError,
    ask_to_stop,
    reporting,
    standings,
)
from tests import small
from tests.conftest import Called

ROWS = [small.row(seed=seed, lr=lr, valid=valid) for lr, valid in ((1e-2, 0.5), (1e-3, 0.7)) for seed in (0, 1)]
OPTIONS = {"grid_name": "smoke"}
SCHEMAS = Path(standing.__file__).with_name("schemas")


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    made = ResultsStore(tmp_path / "results", create=True)
    made.mark()
    return made


def failed(row: TrialResult) -> TrialResult:
    return replace(row, status=Status.FAILED, metrics={}, curve=(), error="RuntimeError: no")


def as_published(text: str, command: str) -> Any:
    """Return what a command printed, which is as its schema says."""
    found = json.loads(text)
    jsonschema.validate(found, json.loads((SCHEMAS / f"{command}.json").read_text()))
    return found


def test_others_see_what_ran_runs_is_left_and_failed(store: ResultsStore, called: Called) -> None:
    with recorded(store, OPTIONS) as (launch, end):
        with reporting(store, launch, "smoke", "Does it work?") as reporter:
            reporter.round([row.spec for row in ROWS], [ROWS[0]], todo=3)
            reporter.hear(2, 12.0, [ROWS[2], failed(ROWS[3])])
            reporter.write()
            code, out, _ = called("status", "--results", store.name, "--format", "json")
            (seen,) = as_published(out, "status")
            assert code == 3, "a trial failed"
            assert (seen["state"], seen["total"], seen["done"], seen["running"]) == ("running", 3, 2, 2)
            assert (seen["left"], seen["failed"], seen["seconds_left"]) == (0, 1, 12.0)
            assert seen["statuses"] == {"complete": 1, "failed": 1}
            assert [one["reason"] for one in seen["failures"]] == ["RuntimeError: no"]
            (best,) = seen["best"]
            assert (best["lr"], best["valid"], best["seeds"]) == (1e-3, 0.7, 1)
        end()
    code, out, _ = called("status", "--results", store.name)
    assert "smoke: done, began" in out
    assert "2/3 trials | 0 running | 1 left | 1 failed" in out
    assert "lora lr=0.001: valid 70.0, test 50.0 (1 trials)" in out
    with reporting(store, "next", "smoke", "?"):
        assert [one.launch for one in standings(store)] == ["next"], "only the last that ended is kept"


def test_a_launch_stops_when_somebody_asks_and_says_who(store: ResultsStore, called: Called) -> None:
    with (
        suppress(KeyboardInterrupt),
        recorded(store, OPTIONS) as (launch, _),
        reporting(store, launch, "g", "?") as one,
    ):
        one.every = 0.0
        one.beat()
        ask_to_stop(store, one.standing)
        with pytest.raises(StoppedError, match=f"@{socket.gethostname()}$") as asked:
            one.beat()
        raise asked.value
    (seen,) = standings(store)
    assert (seen.state, seen.by) == ("stopped", str(asked.value))
    assert not list(store.path.glob("stop-*")), "the next launch is not stopped"
    _, out, _ = called("status", "--results", store.name)
    assert f"g: stopped by {asked.value}" in out
    assert "sweeper resume" in out
    assert called("stop", "--results", store.name) == (0, "", f"Nothing runs into {store.name}.\n")


def test_a_launch_stops_when_its_time_is_up(store: ResultsStore) -> None:
    reporter = Reporter(store, "a", "g", "?", until=time.time() + 0.05)
    reporter.every = 0.0
    reporter.beat()
    time.sleep(0.06)
    with pytest.raises(TimeIsUpError):
        reporter.beat()


def test_of_a_killed_launch_the_rows_say_what_it_had_done(store: ResultsStore) -> None:
    script = (
        "import sys, time; from sweeper.results import ResultsStore; from sweeper.launches import recorded\n"
        "from sweeper.standing import Reporter; from tests.sweeper.test_status import ROWS\n"
        "store = ResultsStore(sys.argv[1])\n"
        "with recorded(store, {'grid_name': 'smoke'}) as (launch, _):\n"
        "    Reporter(store, launch, 'g', '?').round([row.spec for row in ROWS], [], 4)\n"
        "    store.append(ROWS[:3]); print('ready', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        (seen,) = standings(store)
        assert (seen.state, seen.done, seen.process) == ("running", 0, driver.pid), "it has said nothing of its rows"
        driver.kill()
    (seen,) = standings(store)
    assert (seen.state, seen.done, seen.left) == ("cut off", 3, 1)


def test_elsewhere_a_launch_has_ended_that_has_been_silent_for_long(store: ResultsStore) -> None:
    reporter = Reporter(store, "a", "g", "?")
    for silent, state in ((SILENT_SECONDS / 2, "running"), (2 * SILENT_SECONDS, "cut off")):
        updated = (datetime.now(UTC) - timedelta(seconds=silent)).isoformat()
        content = {**vars(reporter.standing), "host": "another", "updated": updated}
        (store.path / "standing-a.json").write_text(json.dumps(content))
        assert [one.state for one in standings(store)] == [state]
    (store.path / "standing-b.json").write_text('{"launch": "b", "new": 1}')
    assert len(standings(store)) == 1, "what another version wrote is let be"


def test_a_full_disk_does_not_end_a_launch(store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = Reporter(store, "a", "g", "?")
    monkeypatch.setattr(
        store.disk, "create", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    reporter.write()
    assert len(standings(store)) == 1


LONG = """
question = "Does a stopped sweep end soon?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = [0]
[[strategies]]
name = "lora"
rank = [1, 2]
[train]
lr = [1e-3, 1e-2]
steps = 10_000_000
"""


def test_stop_ends_a_launch_of_another_terminal(tmp_path: Path, called: Called) -> None:
    (tmp_path / "long.toml").write_text(LONG)
    launch = subprocess.Popen(
        [str(Path(sys.executable).with_name("sweeper")), "launch", "--grid", "long.toml", "--cpus", "1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    results, deadline = tmp_path / "results", time.monotonic() + 300
    while not (results / "store.json").exists() or not any(one.running for one in standings(ResultsStore(results))):
        assert launch.poll() is None, launch.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    code, out, said = called("stop", "--results", str(results), "--format", "json")
    assert code == 0, said
    (ended,) = as_published(out, "stop")
    assert (ended["grid"], ended["state"], ended["done"], ended["total"]) == ("long", "stopped", 0, 4)
    _, talk = launch.communicate(timeout=120)
    assert launch.returncode == 130, talk
    assert "Stopped by " in talk
    assert "`sweeper resume` goes on from there." in talk
    assert "Traceback" not in talk
    assert len(list(results.glob("launch-*.json"))) == 1, "that is what resume goes on from"


@pytest.mark.slow
def test_a_launch_has_a_hard_limit_of_time_and_resume_goes_on(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(LONG.replace("10_000_000", "200_000"))
    sweeper = str(Path(sys.executable).with_name("sweeper"))
    command = [sweeper, "launch", "--grid", "long.toml", "--cpus", "1", "--stop-after", "20s"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Stopped after " in done.stderr
    (seen,) = standings(ResultsStore(tmp_path / "results"))
    assert (seen.state, seen.total) == ("stopped", 4)
    assert seen.done < 4
    assert len(list((tmp_path / "results").glob("launch-*.json"))) == 1
