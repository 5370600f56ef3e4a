"""The Ray Serve example, deployed on a Ray of its own; skipped where ``ray[serve]`` is not installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.predict import load
from tests import asked
from tests.serving import TOKEN

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"


@pytest.mark.slow
def test_replicas_answer_as_the_local_pipeline_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", exc_type=ImportError)
    httpx = pytest.importorskip("httpx")
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "kept"))
    prices = asked.prices(tmp_path / "prices")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = (CLUSTER / "serve.yaml").read_text()
    config = re.sub(r"port: \d+", f"port: {port}", re.sub(r"mood: \S+", f"prices: {prices}", config))
    (tmp_path / "serve.yaml").write_text(config)
    shutil.copy(CLUSTER / "serve.py", tmp_path)
    program = Path(sys.executable).with_name("serve")
    # A token of Ray's own, so that none is written to the home folder.
    own = {"SWEEPER_TOKEN": TOKEN, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [str(program), "run", "serve.yaml"],
            cwd=tmp_path,
            env={**os.environ, **own, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=log,
        )
    try:
        question = {"inputs": [{"age": 40, "colour": "red"}]}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            until = time.monotonic() + 240
            while time.monotonic() < until:
                assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                try:
                    if client.get("/healthz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(1)
            assert client.post("/predict", json=question).status_code == 401
            for _ in range(4):
                answer = client.post("/predict", json=question, headers={"Authorization": f"Bearer {TOKEN}"})
                assert answer.json()["predictions"] == load(prices).predict(question["inputs"])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
