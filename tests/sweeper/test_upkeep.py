"""What keeps a store in order, by its functions and by its commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.results import ResultsStore
from sweeper.spec import Status
from sweeper.upkeep import check, compact, merge, repair
from tests import small
from tests.conftest import Command


def store(path: Path, *seeds: int) -> ResultsStore:
    """A store with a file for each seed."""
    for seed in seeds:
        writer = ResultsStore(path, create=True)
        writer.append([small.row(seed=seed)])
        writer.close()
    return ResultsStore(path, create=True)


def seeds_of(path: Path) -> list[int]:
    return sorted(row.spec.seed for row in ResultsStore(path).read().results)


def flip(path: Path, file: int = 0) -> Path:
    """Change one byte in the middle of a file of rows."""
    target = sorted(path.glob("*.jsonl"))[file]
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    return target


def test_many_files_become_one_and_what_counts_stays(tmp_path: Path) -> None:
    whole = store(tmp_path, 0, 1, 2)
    crashed = replace(small.row(seed=0, when="2030-01-01"), status=Status.FAILED)
    whole.append([crashed])
    whole.close()
    before = whole.read().results
    assert compact(ResultsStore(tmp_path)) == 4
    assert sorted(map(str, whole.read().results)) == sorted(map(str, before))
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    assert check(whole).rows == 3
    assert compact(ResultsStore(tmp_path)) == 0


def test_a_file_that_a_writer_holds_and_one_that_is_damaged_stay(tmp_path: Path) -> None:
    store(tmp_path, 0, 1, 2)
    damaged = flip(tmp_path)
    writer = ResultsStore(tmp_path)
    writer.append([small.row(seed=3)])
    assert compact(ResultsStore(tmp_path)) == 2
    writer.append([small.row(seed=4)])
    assert damaged.exists()
    assert seeds_of(tmp_path) == [1, 2, 3, 4]


def test_repair_keeps_whole_rows_and_the_damaged_file(tmp_path: Path) -> None:
    writer = ResultsStore(tmp_path, create=True)
    writer.append([small.row(seed=seed) for seed in range(3)])
    writer.close()
    damaged = flip(tmp_path)
    assert len(check(writer).damage) == 1
    content = damaged.read_bytes()
    assert repair(ResultsStore(tmp_path)) == [damaged]
    assert not check(writer).damage
    assert seeds_of(tmp_path) == [0, 2]
    assert damaged.with_name(damaged.name + ".damaged").read_bytes() == content
    assert repair(ResultsStore(tmp_path)) == []


def test_merge_takes_what_counts_for_more_once(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours", 0, 1)
    theirs = store(tmp_path / "theirs", 1, 2)
    theirs.append([replace(small.row(seed=0, when="2030-01-01"), status=Status.FAILED)])
    theirs.close()
    assert merge(ours, [theirs]) == 1
    assert seeds_of(tmp_path / "ours") == [0, 1, 2]
    assert merge(ours, [theirs]) == 0


def test_the_commands_say_what_they_found_and_did(command: Command, tmp_path: Path) -> None:
    store(tmp_path / "results", 0, 1, 2)
    done = command("sweeper", "store", "check", "--format", "json", cwd=tmp_path)
    assert json.loads(done.stdout)["statuses"] == {"complete": 3}
    shutil.copytree(tmp_path / "results", tmp_path / "copy")
    flip(tmp_path / "results")
    done = command("sweeper", "store", "check", cwd=tmp_path)
    assert done.returncode == 1
    assert "the checksum does not match" in done.stdout
    assert "1 files mended" in command("sweeper", "store", "repair", cwd=tmp_path).stdout
    assert command("sweeper", "store", "check", cwd=tmp_path).returncode == 0
    assert "1 rows are new" in command("sweeper", "store", "merge", "copy", cwd=tmp_path).stdout
    assert "are one now" in command("sweeper", "store", "compact", cwd=tmp_path).stdout
    assert seeds_of(tmp_path / "results") == [0, 1, 2]
    for verb in ("check", "repair", "compact"):
        done = command("sweeper", "store", verb, "--results", "nowhere", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no results store at 'nowhere'" in done.stderr


@pytest.mark.parametrize("what", ["check", "repair", "compact", "merge"])
def test_every_command_has_an_example(command: Command, tmp_path: Path, what: str) -> None:
    assert f"sweeper store {what}" in command("sweeper", "store", what, "--help", cwd=tmp_path).stdout


def test_a_name_is_no_formula_in_a_spreadsheet(command: Command, tmp_path: Path) -> None:
    row = small.row()
    hostile = replace(row, spec=replace(row.spec, task="=1+1"))
    writer = ResultsStore(tmp_path / "results", create=True)
    writer.append([hostile])
    assert command("sweeper", "export", "out.csv", cwd=tmp_path).returncode == 0
    assert ",'=1+1," in (tmp_path / "out.csv").read_text()
