"""1,000 random command lines: each ends with a known code, and what is wrong is said in one line with a way out."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.evidence import PACKAGED
from sweeper.command import run
from sweeper.results import ResultsStore
from tests import asked, fuzz, small
from tests.errors import WAY_OUT

CODES = {0, 1, 2, 3, 4, 130}
# Their findings are their data: what is wrong with a file is no error of the command.
FINDERS = ("sweeper store check", "sweeper doctor", "sweeper validate", "sweeper adapters ls")
# What packages leave until the process ends.
OTHERS = r"torchinductor|tmp\w+wandb"
GRID = """
question = "Does it run?"
models = ["mlp"]
tasks = ["digits_shifted"]
n_train = 40
seeds = 0
[[strategies]]
name = "lora"
rank = 2
[train]
steps = 2
"""


def _refuse(what: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(f"{what} is not for a fuzz: leave it out")

    return refuse


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An adapter that can be asked; it is trained before training is replaced."""
    folder = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_DATA", str(folder / "kept"))
        yield asked.prices(folder / "priced")


@pytest.fixture
def workplace(tmp_path: Path, priced: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a little of everything, and the real actions replaced where they begin.

    What would train for minutes, start Ray, or ask the network is replaced at its own door: everything before it, and
    how a refusal there is reported, is the real thing.
    """
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside, here / "empty", here / "thesis", tmp_path / "home", tmp_path / "scratch"):
        folder.mkdir()
    (beside / "mine").write_text("as it was")
    (here / "thesis" / "thesis.tex").write_text("mine")
    (here / "grid.toml").write_text(GRID)
    (here / "bad.toml").write_text(GRID.replace("rank", "rnak") + "= 3")
    (here / "rows.csv").write_text("text,label\n" + "".join(f"word {k} again,{k % 2}\n" for k in range(60)))
    (here / "pairs.jsonl").write_text("".join(json.dumps({"prompt": f"p {k}", "answer": "a"}) + "\n" for k in range(9)))
    shutil.copy(PACKAGED, here / "advisor.json")
    shutil.copytree(priced, here / "priced")
    store = ResultsStore(here / "results", create=True)
    store.append([small.row(seed=seed) for seed in range(3)])
    store.close()
    for folder in ("torn", "adapter", "model"):
        (here / folder).mkdir()
    shutil.copy(here / "results" / "store.json", here / "torn")
    (here / "torn" / "rows-1.jsonl").write_bytes(b'{"schema":1,"crc32":"00000000"}\n\xff\xfe')
    (here / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": "many"}')
    (here / "adapter" / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    (here / "model" / "config.json").write_text('{"hidden_size": "x", "model_type": []}')
    (here / "bytes.csv").write_bytes(bytes(range(256)) * 3)
    (here / "long.csv").write_text("task,strategy,score\nimdb,lora,0.9\nimdb,full,high\nsst2,lora,0.8\nsst2,full,0.7\n")
    monkeypatch.chdir(here)
    places = {"HOME": "home", "SWEEPER_CACHE": "cache", "SWEEPER_DATA": "data", "TMPDIR": "scratch"}
    for name, place in places.items():
        monkeypatch.setenv(name, str(tmp_path / place))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("MLFLOW_TRACKING_URI", "WANDB_DIR", "SWEEPER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sweeper.tune.launch", _refuse("training"))
    monkeypatch.setattr("sweeper.tune.connected", _refuse("Ray"))
    monkeypatch.setattr("sweeper.plan.connected", _refuse("Ray"))
    monkeypatch.setattr("sweeper.live.LivePage.serve_forever", _refuse("a page"))
    for package, door in (("uvicorn", "Server.run"), ("wandb", "init")):
        if importlib.util.find_spec(package) is not None:
            monkeypatch.setattr(f"{package}.{door}", _refuse(package))
    ask = socket.getaddrinfo  # what is no address would be looked up in the network
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *given, flags=0, **rest: ask(*given, flags=flags | socket.AI_NUMERICHOST, **rest)
    )
    monkeypatch.setattr("sweeper.trial.run_pack", _refuse("training"))
    monkeypatch.setattr("advisor.probe.probe", _refuse("a probe"))
    monkeypatch.setattr("sweeper.submit_cli._client", _refuse("a cluster"))
    monkeypatch.setattr("sweeper.fetch._download", _refuse("a download"))
    return tmp_path


def called(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run a command line here, as its entry point does."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "argv", words)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            run(fuzz.PROGRAMS[words[0]], words[0])
        except SystemExit as ended:
            code = ended.code
    out, err = (stream.buffer.getvalue().decode("utf-8") for stream in streams)  # type: ignore[attr-defined]
    assert isinstance(code, int)
    return code, out, err


def wrong(words: list[str], code: int, out: str, err: str) -> str:
    """Return what is not as it should be."""
    errors = [line for line in err.split("\n") if line.startswith("Error: ")]
    last = err.rstrip("\n").rpartition("\n")[2]
    if code not in CODES:
        return f"code {code}"
    if "Traceback" in out + err or "internal:" in err:
        return "a traceback"
    if code == 0:
        return f"an error, and code 0: {errors}" if errors else ""
    if " ".join(word for word in words if not word.startswith("-")).startswith(FINDERS) and not errors:
        return ""
    if err.startswith("Usage:") and not out:  # a group without a verb
        return ""
    if len(errors) != 1 or not (errors[0] == last or "ends with" in last):  # -v says afterwards how long it took
        return f"not one line: {err[-600:]!r}"
    return "" if WAY_OUT.search(errors[0].removeprefix("Error: ")) else f"no way out: {errors[0]!r}"


@pytest.mark.parametrize("seed", range(10))
def test_random_command_lines(workplace: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    dice = random.Random(seed)
    offenders = []
    for _ in range(100):
        words = fuzz.arguments(dice)
        found = called(words, monkeypatch)
        what = wrong(words, *found)
        if what:
            offenders.append(f"{words}\n   {what}\n   {found[2][-300:]}")
    assert not offenders, "\n".join(offenders[:20])
    assert (workplace / "beside" / "mine").read_text() == "as it was"
    assert {place.name for place in workplace.iterdir()} <= {"here", "beside", "home", "scratch", "cache", "data"}
    for place in ("home", "scratch"):
        assert not [left for left in (workplace / place).rglob("*") if not re.match(OTHERS, left.name)]
