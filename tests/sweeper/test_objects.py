"""The results store on object storage, against a local server that speaks S3's API."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

import sweeper
from sweeper import upkeep
from sweeper.results import ResultsStore, read_store
from sweeper.spec import Status
from sweeper.standing import StoppedError, ask_to_stop, reporting, standings
from sweeper.sweep import failed_row
from tests.small import row, spec

SWEEPER = str(Path(sys.executable).with_name("sweeper"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket on a server of S3's API on this machine."""
    server = pytest.importorskip("moto.server")
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        ).create_dir("sweeps")
        yield "s3://sweeps"
    running.stop()


@pytest.fixture
def url(bucket: str, request: pytest.FixtureRequest) -> str:
    return f"{bucket}/{request.node.name}"


def test_what_is_written_is_read_by_another_and_counts_once(url: str) -> None:
    with pytest.raises(ValueError, match=f"no results store at '{url}'"):
        ResultsStore(url)
    first, second = ResultsStore(url, create=True), ResultsStore(url, create=True)
    first.append([row(seed=0), row(seed=1)])
    second.append([row(seed=1, when="2027-01-01"), row(seed=2)])
    second.append([failed_row(spec(seed=0), Status.PREEMPTED, "gone", {})])
    contents = read_store(url)
    assert sorted(found.spec.seed for found in contents.results) == [0, 1, 2]
    assert all(found.status is Status.COMPLETE for found in contents.results)
    assert not contents.damage
    assert len(sweeper.load_results(url)) == 3
    assert len(upkeep.row_files(first.path, first.disk)) == 3  # an object for each time something was written


def test_a_launch_into_a_bucket_is_seen_and_stopped(url: str) -> None:
    store = ResultsStore(url, create=True)
    store.mark()
    with contextlib.suppress(StoppedError), reporting(store, "a", "smoke", "?") as reporter:
        reporter.every = 0.0
        reporter.beat()
        (seen,) = standings(ResultsStore(url))
        assert (seen.grid, seen.state) == ("smoke", "running")
        ask_to_stop(ResultsStore(url), seen)
        reporter.beat()
        pytest.fail("nobody heard")
    (seen,) = standings(ResultsStore(url))
    assert seen.state == "stopped"
    assert store.disk.names(store.path) == ["standing-a.json", "store.json"]


def test_stores_below_are_read_along_and_merged(url: str, tmp_path: Path) -> None:
    ResultsStore(url, create=True).append([row(seed=0)])
    ResultsStore(f"{url}/below", create=True).append([row(seed=1)])
    assert {found.spec.seed for found in read_store(url).results} == {0, 1}
    assert {found.spec.seed for found in ResultsStore(url).read().results} == {0}
    local = ResultsStore(tmp_path / "local", create=True)
    assert upkeep.merge(local, [ResultsStore(url), ResultsStore(f"{url}/below")]) == 2


def test_compaction_beside_writers_and_readers_loses_nothing(url: str) -> None:
    store = ResultsStore(url, create=True)
    store.mark()

    def write() -> None:
        own = ResultsStore(url)
        for seed in range(20):
            own.append([row(seed=seed)])

    writer = Thread(target=write)
    writer.start()
    most = 0
    while writer.is_alive():
        upkeep.compact(ResultsStore(url))
        contents = ResultsStore(url).read()
        assert not contents.damage
        assert len(contents.results) >= most
        most = len(contents.results)
    writer.join()
    upkeep.compact(store)
    assert len(store.read().results) == 20
    assert len(upkeep.row_files(store.path, store.disk)) == 1


def test_a_damaged_object_is_named_set_aside_and_mended(url: str) -> None:
    store = ResultsStore(url, create=True)
    store.append([row(seed=0), row(seed=1)])
    (file,) = upkeep.row_files(store.path, store.disk)
    content = store.disk.read(file)
    handle = store.disk.create(file)
    store.disk.write(handle, content[:-3])
    store.disk.sync(handle)
    (damage,) = store.read().damage
    assert damage.line == 2
    assert upkeep.repair(store) == [file]
    assert [found.spec.seed for found in store.read().results] == [0]
    assert not store.read().damage


def test_what_cannot_be_a_store_is_refused_in_one_line(bucket: str) -> None:
    with pytest.raises(OSError, match="bucket") as refused:
        ResultsStore("s3://no-such-bucket/results", create=True).append([row()])
    assert "no-such-bucket" in str(refused.value)
    with pytest.raises(ValueError, match="not one of s3, gs"):
        ResultsStore("ftp://host/results", create=True)
    with pytest.raises(ValueError, match="ends up in logs"):
        ResultsStore("s3://key:secret@sweeps/results", create=True)


def test_a_storage_that_goes_away_is_an_error_and_the_row_does_not_count(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultsStore(url, create=True)
    store.append([row(seed=0)])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(OSError, match="connect"):
        ResultsStore(url, create=True).append([row(seed=1)])
    assert time.monotonic() - started < 60
    assert len(store.read().results) == 1


@pytest.mark.slow
def test_a_sweep_writes_to_object_storage_and_goes_on_from_there(url: str, tmp_path: Path) -> None:
    command = [SWEEPER, "launch", "--grid", "smoke", "--results", url]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert first.returncode == 0, first.stderr
    assert f"advisor fit --results {url}" in first.stderr
    assert len(read_store(url).results) == 18
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert f"Nothing to run: all 18 trials are in {url}" in again.stderr
    assert not [*tmp_path.iterdir()]
