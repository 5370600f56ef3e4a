"""Which launches have not come to their end."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sweeper.launches import forget, recorded, unfinished
from sweeper.results import ResultsStore

OPTIONS = {"grid_name": "smoke", "models": (), "folder": "results", "form": "human", "budget": 60.0}


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    made = ResultsStore(tmp_path / "results", create=True)
    made.mark()
    return made


def test_a_launch_that_is_cut_off_stays_until_the_same_one_ends(store: ResultsStore) -> None:
    with contextlib.suppress(KeyboardInterrupt), recorded(store, OPTIONS):
        assert unfinished(store) == [], "it runs: its file is locked"
        raise KeyboardInterrupt
    ((_, options),) = unfinished(store)
    assert options == {"grid_name": "smoke", "models": [], "budget": 60.0}
    with recorded(store, {**OPTIONS, "budget": None}) as (_, end):
        end()
    assert len(unfinished(store)) == 1, "another launch has ended"
    with recorded(store, {**OPTIONS, "form": "json", "folder": "elsewhere"}) as (_, end):
        end()
    assert unfinished(store) == []
    assert store.read().damage == []


def test_what_was_done_by_others_is_forgotten_and_torn_records_are_let_be(store: ResultsStore) -> None:
    with recorded(store, OPTIONS):
        pass  # time was up
    (store.path / "launch-torn.json").write_text('{"grid_n')
    assert len(unfinished(store)) == 1
    forget(store, OPTIONS)
    assert unfinished(store) == []


def test_files_are_known_by_their_whole_path(
    store: ResultsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with recorded(store, {**OPTIONS, "grid_name": "own.toml"}):
        pass
    ((_, options),) = unfinished(store)
    assert options["grid_name"] == str(tmp_path / "own.toml")
