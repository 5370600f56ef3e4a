"""What all tests share: one torch thread, and a cache of source models that is not the user's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sweeper.torchvision_ops import declare_missing_ops
from tests import small
from tests.browser import browser

__all__ = ["browser"]  # a fixture for every test

torch.set_num_threads(1)
declare_missing_ops()  # `pytest.importorskip` of what imports torchvision would skip for want of it
# A busy machine is no reason to fail; examples are the same in every run.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep source models in a folder of this session, one for all its workers; subprocesses inherit it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["SWEEPER_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def skip_what_is_not_installed(request: pytest.FixtureRequest) -> None:
    """Skip a test of a strategy whose package is not here."""
    strategy = getattr(request.node, "callspec", None) and request.node.callspec.params.get("strategy")
    package = small.NEEDS.get(strategy)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{strategy} needs {package}, which is not installed")


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run one of the project's commands as a user would, in an empty folder."""

    def run(*args: str, cwd: Path = tmp_path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(args[0])
        return subprocess.run([str(program), *args[1:]], cwd=cwd, capture_output=True, text=True, timeout=timeout)

    return run


Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """Run `sweeper` or `advisor` in this process, which is quicker; return exit code, stdout and stderr."""
    from advisor.cli import cli as advisor_cli
    from sweeper.cli import cli as sweeper_cli
    from sweeper.command import run as run_command

    def call(*args: str, program: str = "sweeper") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [program, *args])
        with pytest.raises(SystemExit) as ended:
            run_command({"sweeper": sweeper_cli, "advisor": advisor_cli}[program], program)
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return call
