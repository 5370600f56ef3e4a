"""Bad input gets one line, exit code 2, and nothing written; help and start-up are quick to come by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advisor.cli import cli as advisor_cli
from sweeper.cli import cli as sweeper_cli
from sweeper.results import ResultsStore
from tests import small
from tests.conftest import Called, Command
from tests.errors import WAY_OUT

BIG_RANK = """
question = "Does it fit?"
models = ["mlp"]
tasks = ["digits_shifted"]
[[strategies]]
name = "lora"
rank = 65
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "big_rank.toml").write_text(BIG_RANK)
    (tmp_path / "rank_0.toml").write_text(BIG_RANK.replace("65", "0"))
    (tmp_path / "unknown_key.toml").write_text(BIG_RANK.replace("rank", "rnak"))
    (tmp_path / "twice.toml").write_text(BIG_RANK + "rank = 2\n")
    (tmp_path / "no_store").mkdir()
    (tmp_path / "no_store" / "thesis.tex").write_text("mine")
    store = ResultsStore(tmp_path / "one", create=True)
    store.append([small.row()])
    return tmp_path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sweeper launch --grid lora_rank", "no grid named 'lora_rank'.*Did you mean 'lora_ranks'"),
        (
            "sweeper launch --grid big_rank.toml",
            "big_rank.toml: lora.rank 65 is larger than the layer 'blocks.0.0'.*at most 64",
        ),
        ("sweeper launch --grid rank_0.toml", "lora.rank must be a whole number of at least 1, got 0"),
        ("sweeper launch --grid unknown_key.toml", "no hyperparameter named 'rnak'"),
        ("sweeper launch --grid twice.toml", "twice.toml: Cannot overwrite a value"),
        ("sweeper launch --grid smoke --results no_store", "'no_store' is not a results store"),
        ("sweeper launch --grid smoke --results big_rank.toml", "'big_rank.toml' is not a results store"),
        ("sweeper launch --grid smoke --cpus 0", "0 is not in the range"),
        ("sweeper launch --grid smoke --cpus 2 --address auto", "--cpus is for a local Ray"),
        ("sweeper launch", "Missing option '--grid'"),
        ("sweeper launch --grid smoke --gpus-per-trial 1.5", "must be a share of one GPU or a whole number, got 1.5"),
        ("sweeper launch --grid smoke --gpus-per-trial nan", "must be a share of one GPU or a whole number, got nan"),
        ("sweeper launch --grid smoke --gpus-per-trial 1000", "1000 cannot be met: there are"),
        ("sweeper launch --grid smoke --results big_rank.toml/sub", "no results store can be made at"),
        ("sweeper show --results one 3f --seed 0", "TRIAL_ID names one row"),
        ("sweeper export nowhere/out.csv --results one", "there is no folder 'nowhere'"),
        ("sweeper show", "no results store at 'results'"),
        ("sweeper show --results one --strategy loar", "no strategy in this store named 'loar'.*Did you mean 'lora'"),
        ("sweeper show --results one zzz", "no trial whose id begins with 'zzz'"),
        ("sweeper export out.xlsx --results one", "must end in .csv or .parquet, got 'out.xlsx'"),
        ("advisor recommend --model-params many", "'many' is not a number of parameters"),
        ("advisor recommend --gpu-memory 0GB", "'0GB' is not an amount of memory"),
        ("advisor recommend --large-model --model-params 7M", "a large model contradicts 7,000,000 parameters"),
        ("advisor recommend --fitted big_rank.toml", "'big_rank.toml' is not a fitted file"),
        ("advisor recommend --fitted nowhere.json", "no fitted file 'nowhere.json'"),
        ("advisor recommend --compute none", "'none' is not one of"),
        ("advisor fit --results no_store", "'no_store' is not a results store"),
        ("advisor fit", "no results store at 'results'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    workplace: Path, called: Called, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    before = files(workplace)
    monkeypatch.chdir(workplace)
    program, *words = line.split()
    code, out, error = called(*words, program=program)
    assert code == 2, error
    last = error.splitlines()[-1]
    assert last.startswith("Error: ")
    assert re.search(says, last)
    assert WAY_OUT.search(last.removeprefix("Error: ")), "it says what to do"
    assert "Traceback" not in error
    assert out == ""
    assert files(workplace) == before


def test_a_mistake_ends_the_process_as_it_ends_a_call(workplace: Path, command: Command) -> None:
    done = command("sweeper", "show", "--results", "one", "zzz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: no trial whose id begins with 'zzz'")
    assert done.stderr.count("\n") == 1


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, command: Command) -> None:
    done = command("sweeper", "launch", "--grid", "smoke", "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: no Ray cluster to be had at '127.0.0.1:1'")
    assert "Traceback" not in done.stderr
    assert not files(tmp_path)


def test_a_corrupt_row_is_named_and_the_rest_is_shown(workplace: Path, command: Command) -> None:
    (file,) = (workplace / "one").glob("*.jsonl")
    file.write_bytes(b"{broken}\n" + file.read_bytes())
    done = command("sweeper", "show", "--results", "one")
    assert done.returncode == 0
    assert f"Warning: one/{file.name}:1: the checksum does not match" in done.stderr
    assert small.spec().trial_id in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        *(f"sweeper {name}" for name in ("", *sweeper_cli.commands)),
        *(f"advisor {name}" for name in ("", *advisor_cli.commands)),
    ],
)
def test_every_command_has_help(command: Command, line: str) -> None:
    done = command(*line.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_ls_names_everything(command: Command) -> None:
    from sweeper.grid import shipped_grids
    from sweeper.models import MODELS
    from sweeper.strategies import STRATEGIES
    from sweeper.tasks import TASKS

    listed = command("sweeper", "ls").stdout
    for table in (shipped_grids(), MODELS, STRATEGIES, TASKS):
        for name in table:
            assert f"  {name} " in listed
