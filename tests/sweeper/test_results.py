"""The store's contract."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import sweeper
from sweeper.results import MARKER, SCHEMA, ResultsStore, read_store, to_frame
from sweeper.spec import Status, TrialResult
from tests import small


def fill(path: Path, rows: list[TrialResult]) -> Path:
    store = ResultsStore(path, create=True)
    store.append(rows)
    store.close()
    return next(iter(sorted(path.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns, reverse=True)))


def ids(path: Path) -> list[str]:
    return sorted(result.trial_id for result in ResultsStore(path).read().results)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [small.row(seed=seed) for seed in range(3)]
    fill(tmp_path / "s", rows)
    contents = ResultsStore(tmp_path / "s").read()
    assert contents.results == rows
    assert not contents.damage


def test_the_newest_row_of_an_id_counts_whatever_the_order_of_files(tmp_path: Path) -> None:
    fill(tmp_path / "s", [small.row(valid=0.9, when="2026-02-02")])
    fill(tmp_path / "s", [small.row(valid=0.1, when="2026-01-01")])
    (result,) = ResultsStore(tmp_path / "s").read().results
    assert result.metrics["valid_score"] == 0.9


def test_truncation_at_every_byte_loses_only_the_torn_row(tmp_path: Path) -> None:
    file = fill(tmp_path / "s", [small.row(seed=seed) for seed in range(2)])
    whole = file.read_bytes()
    end_of_first = whole.index(b"\n") + 1
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        contents = ResultsStore(tmp_path / "s").read()
        assert len(contents.results) == (length >= end_of_first)
        assert len(contents.damage) == (length not in (0, end_of_first))
        assert all("unfinished line" in str(damage) for damage in contents.damage)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = fill(tmp_path / "s", [small.row()])
    whole = file.read_bytes()
    for position in range(len(whole) - 1):  # without the last newline a line is torn: tested above
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            file.write_bytes(flipped)
            contents = ResultsStore(tmp_path / "s").read()
            assert contents.results == []
            assert contents.damage
    assert "checksum" in str(contents.damage[0])


def test_a_corrupt_row_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    file = fill(tmp_path / "s", [small.row(seed=seed) for seed in range(3)])
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"garbage\n" + lines[2])
    contents = ResultsStore(tmp_path / "s").read()
    assert len(contents.results) == 2
    assert str(contents.damage[0]).startswith(f"{file}:2: ")


def test_stores_merge_by_copying_files(tmp_path: Path) -> None:
    fill(tmp_path / "a", [small.row(seed=0), small.row(seed=1)])
    shutil.copy(fill(tmp_path / "b", [small.row(seed=1), small.row(seed=2)]), tmp_path / "a")
    assert ids(tmp_path / "a") == sorted(small.spec(seed=seed).trial_id for seed in range(3))


def test_nested_stores_are_read_along_but_are_not_this_stores_own(tmp_path: Path) -> None:
    fill(tmp_path / "s", [small.row(seed=0, valid=0.2, when="2026-03-01")])
    fill(tmp_path / "s" / "elsewhere", [small.row(seed=0, valid=0.7, when="2026-01-01"), small.row(seed=1)])
    assert len(ids(tmp_path / "s")) == 1
    contents = read_store(tmp_path / "s")
    assert len(contents.results) == 2
    newest = next(result for result in contents.results if result.spec.seed == 0)
    assert newest.metrics["valid_score"] == 0.2
    assert contents.stores[newest.trial_id] == str(tmp_path / "s")
    assert len(sweeper.load_results(tmp_path / "s")) == 2


def _append_many(path: str, first: int) -> None:
    store = ResultsStore(path, create=True)
    for seed in range(first, first + 25):
        store.append([small.row(seed=seed)])


def test_several_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(str(tmp_path / "s"), 25 * k)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    contents = ResultsStore(tmp_path / "s").read()
    assert len(contents.results) == 100
    assert not contents.damage


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_full_disk_is_an_error_and_costs_no_earlier_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    store = ResultsStore(tmp_path / "s", create=True)
    calls = 0
    write = os.write

    def half_then_full(file: int, content: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == refused:
            write(file, bytes(content[: len(content) // 2]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(os, "write", half_then_full)
    stored = []
    for seed in range(4):
        with contextlib.suppress(OSError):
            store.append([small.row(seed=seed)])
            stored.append(small.spec(seed=seed).trial_id)
    assert len(stored) == 3
    assert ids(tmp_path / "s") == sorted(stored)


def test_a_done_trial_is_not_undone_by_a_later_crash(tmp_path: Path) -> None:
    done, crashed = small.row(when="2026-01-01"), replace(small.row(when="2026-02-02"), status=Status.FAILED)
    fill(tmp_path / "s", [done, crashed])
    assert ResultsStore(tmp_path / "s").read().results == [done]
    fill(tmp_path / "other", [crashed, done])
    assert ResultsStore(tmp_path / "other").read().results == [done]


@pytest.mark.parametrize(
    ("name", "value"),
    [("metrics", None), ("provenance", None), ("metrics", {"valid_score": 0.5}), ("context", {}), ("spec", [])],
)
def test_a_row_of_another_shape_is_set_aside(tmp_path: Path, name: str, value: object) -> None:
    content = {"schema": 1, **small.row().to_dict(), name: value}
    body = json.dumps(content, separators=(",", ":")).encode()[:-1]
    file = fill(tmp_path / "s", [small.row(seed=1)])
    file.write_bytes(file.read_bytes() + body + b',"crc32":"%08x"}\n' % zlib.crc32(body))
    contents = read_store(tmp_path / "s")
    assert len(contents.results) == 1
    assert len(contents.damage) == 1


def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    fill(tmp_path / "s", [small.row()])
    (tmp_path / "s" / "folder.jsonl").mkdir()
    (tmp_path / "s" / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "s" / "newer").mkdir()
    (tmp_path / "s" / "newer" / MARKER).write_text('{"format": "sweeper-results", "schema": 99}')
    contents = read_store(tmp_path / "s")
    assert len(contents.results) == 1
    assert len(contents.damage) == 3


def test_a_place_where_no_folder_can_be_made_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="takes no folder"):
        ResultsStore(tmp_path / "file" / "store", create=True)


def test_opening_and_reading_write_nothing(tmp_path: Path) -> None:
    ResultsStore(tmp_path / "s", create=True).append([])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("create", [False, True])
def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, create: bool) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a results store"):
        ResultsStore(tmp_path, create=create)
    with pytest.raises(ValueError, match="is not a results store"):
        ResultsStore(tmp_path / "notes.txt", create=create)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("", "not readable"),
        ("[]", "not readable"),
        ("[" * 100_000, "not readable"),
        ('{"format": "sweeper-results", "schema": Infinity}', "not readable"),
        ('{"format": "parquet", "schema": 1}', "its format is 'parquet'"),
        ('{"format": "sweeper-results", "schema": 2}', "schema 2, this version reads up to 1"),
    ],
)
def test_a_foreign_or_newer_store_is_refused(tmp_path: Path, marker: str, message: str) -> None:
    (tmp_path / MARKER).write_text(marker)
    with pytest.raises(ValueError, match=message):
        ResultsStore(tmp_path)


def test_a_missing_store_names_the_way_to_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no results store at .*sweeper launch"):
        sweeper.load_results(tmp_path / "nowhere")


def test_numbers_that_are_not_finite_never_reach_a_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        ResultsStore(tmp_path / "s", create=True).append([small.row(valid=float("nan"))])


def test_the_frame_has_one_row_a_trial_and_a_column_for_each_hyperparameter(tmp_path: Path) -> None:
    fill(tmp_path / "s", [small.row(rank=2), small.row(strategy="adapter", bottleneck=4)])
    frame = sweeper.load_results(tmp_path / "s").set_index("strategy")
    assert frame.loc["lora", "hparam_rank"] == 2
    assert pd.isna(frame.loc["adapter", "hparam_rank"])
    assert json.loads(str(frame.loc["lora", "hparams"]))["rank"] == 2
    assert frame.loc["adapter", "lr"] == 1e-2


def test_an_empty_frame_still_has_the_columns_that_every_row_has() -> None:
    assert {"trial_id", "status", "strategy", "task", "model", "seed"} <= set(to_frame([]).columns)


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_stores_of_every_schema_ever_released_are_read(schema: int) -> None:
    contents = ResultsStore(Path(__file__).parent.parent / "golden" / f"schema{schema}").read()
    assert not contents.damage
    assert Counter(result.status for result in contents.results) == dict.fromkeys(Status, 1)
    assert len(to_frame(contents.results)) == len(Status)
