"""What is said of clusters: the files fit their schemas, and a sweep that is submitted comes to its end."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sweeper
from sweeper.launch_cli import launch

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"
SWEEPER = str(Path(sys.executable).with_name("sweeper"))
RAY = str(Path(sys.executable).with_name("ray"))


def content(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((CLUSTER / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_the_autoscaling_file_fits_rays_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    found = content("autoscaling.yaml")
    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, "max_wokers": 8}, schema)
    assert found["head_node_type"] in found["available_node_types"]
    for commands in (found["head_start_ray_commands"], found["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)


def test_the_manifest_launches_what_the_command_line_takes() -> None:
    found = content("rayjob.yaml")
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    program, verb, *arguments = shlex.split(found["spec"]["entrypoint"])
    assert (program, verb) == ("sweeper", "launch")
    options = launch.make_context("launch", arguments).params
    assert (options["address"], options["folder"]) == ("auto", "s3://bucket/sweeps")
    assert found["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray cluster of this machine with a job server; its address and what one has to know to use it."""
    pytest.importorskip("aiohttp_cors")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = [RAY, "start", "--head", "--port", "46391", "--num-cpus", "2", "--dashboard-host", "127.0.0.1"]
    subprocess.run([*start, "--dashboard-port", "46392"], env=environment, check=True, capture_output=True, timeout=180)
    yield "http://127.0.0.1:46392", environment
    subprocess.run([RAY, "stop", "--force"], env=environment, capture_output=True, timeout=120)


@pytest.mark.slow
def test_a_sweep_is_submitted_with_its_own_grid_and_followed_to_its_end(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, environment = cluster

    def submit(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [SWEEPER, "submit", "--address", address, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, timeout=300
        )

    (tmp_path / "own.toml").write_text(
        'question = "?"\nmodels = ["mlp"]\ntasks = ["digits_shifted"]\nn_train = 40\nseeds = [0, 1]\n'
        '[[strategies]]\nname = "full"\n[train]\nlr = [1e-3, 1e-2]\nsteps = 5\n'
    )
    store = tmp_path / "store"
    done = submit("--grid", "own.toml", "--results", str(store))
    assert done.returncode == 0, done.stderr
    assert "4 trials to run, 0 already in" in done.stdout
    assert len(sweeper.load_results(store)) == 4

    for code, arguments, more, reason in (
        (2, ["--grid", "own.toml"], {}, "would be a folder of one machine"),
        (2, ["--grid", "own.toml", "--results", str(store), "--colour"], {}, "No such option"),
        (1, ["--grid", "own.toml", "--results", str(store)], {"RAY_AUTH_TOKEN": "f" * 64}, "no job server to be had"),
    ):
        refused = submit(*arguments, **more)
        assert refused.returncode == code, refused.stderr
        assert reason in refused.stderr.splitlines()[-1]
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_cluster_that_runs_what_anybody_sends_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp_cors")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [RAY, "start", "--head", "--port", "46393", "--num-cpus", "1", "--dashboard-host", "127.0.0.1"]
    subprocess.run([*start, "--dashboard-port", "46394"], env=environment, check=True, capture_output=True, timeout=180)
    try:
        time.sleep(2)
        command = [SWEEPER, "submit", "--address", "http://127.0.0.1:46394", "--grid", "smoke"]
        command += ["--results", str(tmp_path)]
        token = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
        refused = subprocess.run(command, cwd=tmp_path, env=token, capture_output=True, text=True, timeout=120)
        assert refused.returncode == 1
        assert "runs what anybody sends it" in refused.stderr
    finally:
        subprocess.run([RAY, "stop", "--force"], env=environment, capture_output=True, timeout=120)
