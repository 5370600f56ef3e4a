"""Grids, stores and fitted files of strangers are refused in one line; `tests.faults.hostile` measures all kinds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.hostile import SORTS


@pytest.mark.parametrize(("sort", "kind"), [(sort, kind) for sort, (files, *_) in SORTS.items() for kind in files])
def test_what_a_stranger_wrote_is_refused_in_one_line(sort: str, kind: str, tmp_path: Path) -> None:
    files, read, name = SORTS[sort]
    make, says = files[kind]
    make(tmp_path / name)
    with pytest.raises((ValueError, OSError)) as refused:
        read(tmp_path / name)
    assert re.search(says, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()
