"""`sweeper doctor` finds what is really broken, and `sweeper validate` what is really wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper import doctor
from sweeper.results import ResultsStore
from tests import small
from tests.conftest import Called

ROOT = Path(__file__).parent.parent.parent

# A process in which packages cannot be imported, as if pip had lost their files.
WITHOUT = """
import sys
class Lost:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Lost())
"""
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from sweeper.cli import main
main()
"""


def test_a_broken_machine(tmp_path: Path) -> None:
    """One process where much is broken at once: nothing of it keeps the doctor from saying the rest."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(names={"torch", "safetensors", "wandb", "rich"}))
    old = tmp_path / "click-7.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: click\nVersion: 7.0\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TRANSFORMERS_OFFLINE": "1"}
    environment["SWEEPER_CACHE"] = "/proc/nothing"
    call = [sys.executable, "-c", LIMITED, "doctor", "--results", "runs"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert not done.stderr
    lines = done.stdout.splitlines()
    for begins, says, fix in (
        ("fail package safetensors", "cannot be imported", "pip install"),
        ("fail package click", "7.0 is here", "pip install"),
        ("fail package torch", "cannot be imported", "pip install"),
        ("fail devices", "No module named 'torch'", "pip install"),
        ("off  extra wandb", "cannot be imported", "pip install 'sweeper-advisor[wandb]'"),
        ("fail scratch", "No usable temporary directory", "TMPDIR"),
        ("warn open files", "at most 128", "ulimit -n"),
        ("fail results", "does not keep what is written (File too large)", "name another folder"),
        ("fail cache", "nothing can be written in '/proc'", "SWEEPER_CACHE"),
        ("warn hub", "TRANSFORMERS_OFFLINE set, and not HF_HUB_OFFLINE", "HF_HUB_OFFLINE=1"),
    ):
        (place,) = [k for k, line in enumerate(lines) if line.startswith(begins)]
        assert says in lines[place]
        assert lines[place + 1].strip().startswith("fix: ")
        assert fix in lines[place + 1]
    assert not [*tmp_path.rglob(".doctor*")], "nothing stays behind"


def test_this_machine(called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = called("doctor", "--format", "json")
    found = json.loads(out)
    assert (code, err) == (0, ""), [check for check in found["checks"] if check["level"] == "fail"]
    assert found["ok"]
    checks = {check["name"]: check for check in found["checks"]}
    assert {"python", "packages", "results", "cache", "hub", "cpu", "torchvision", "open files"} <= set(checks)
    assert all(check["fix"] for check in found["checks"] if check["level"] in ("warn", "fail"))
    assert "written, synced and locked" in checks["results"]["found"]
    assert not [*tmp_path.iterdir()]


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("sweeper.disk.fcntl.flock", none)
    results, _ = doctor.folders(str(tmp_path / "runs"))
    assert (results.level, "knows no locks" in results.found) == ("warn", True)


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    results, _ = doctor.folders(str(tmp_path))
    assert results.level == "fail"
    assert "is not a results store" in results.found
    assert "--results" in results.fix


@pytest.mark.slow
def test_ray_starts_for_the_doctor(called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called("doctor", "--ray")
    assert code == 0
    assert any(line.startswith("ok   ray starts") for line in out.splitlines())


GRID = """
question = "Does it fit?"
models = ["mlp", "mpl"]
tasks = ["digits_shifted"]
colour = 3
[[strategies]]
name = "lora"
rank = 65
[[strategies]]
name = "loar"
[[strategies]]
name = "full"
"""


def test_validate(called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "data"))
    (tmp_path / "bad.toml").write_text(GRID)
    (tmp_path / "torn.toml").write_text(GRID.replace("[[strategies]]", "[[strategies]"))
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"word {k},{k % 2}\n" for k in range(60)))
    (tmp_path / "one.csv").write_text("text,label\n" + "".join(f"word {k},a\n" for k in range(60)))
    store = ResultsStore(tmp_path / "results", create=True)
    store.append([small.row()])
    store.close()
    code, out, err = called("validate", "smoke", "rows.csv", "results")
    assert (code, err) == (0, "")
    assert [line.partition(": ok, ")[2].partition(":")[0] for line in out.splitlines()] == ["grid", "data", "store"]

    (file,) = (tmp_path / "results").glob("*.jsonl")
    file.write_bytes(b"{broken}\n" + file.read_bytes())
    code, out, err = called("validate", "smoke", "bad.toml", "torn.toml", "one.csv", "results", "nothing")
    assert (code, err) == (2, "")
    lines = out.splitlines()
    for begins, says in (
        ("smoke", "ok, grid"),
        ("bad.toml", "no key named 'colour'"),
        ("bad.toml", "lora.rank 65 is larger than the layer"),
        ("bad.toml", "no strategy named 'loar'. Did you mean 'lora'?"),
        ("bad.toml", "no model named 'mpl'. Did you mean 'mlp'?"),
        ("torn.toml", "Expected"),
        ("one.csv", "one class is nothing to tell"),
        ("results", ":1: the checksum does not match"),
        ("nothing", "no grid named 'nothing'"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{begins}: ") and says in line]
        lines.remove(line)
    assert not lines, "each problem stands there once"


def test_validate_a_grid_on_own_rows(called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "data"))
    lines = "".join(f"{k * 3 % 80}.25,{k % 5}.5,{('no', 'yes')[k % 2]}\n" for k in range(80))
    (tmp_path / "rows.csv").write_text("width,height,label\n" + lines)
    code, out, _ = called("validate", "lora_ranks", "--data", "rows.csv")
    assert code == 0
    assert "trials: What does best on rows.csv, of the grid lora_ranks?" in out
    assert called("validate", "lora_ranks", "--data", "gone.csv")[:2] == (
        2,
        "lora_ranks: there is no file or folder 'gone.csv': check the path, or hf:NAME for one of the Hub\n",
    )
