"""Files from strangers, read within limits and without pickle; and folders written whole or not at all.

Whatever is wrong is one ValueError that names the file. The safetensors reader is our own, of the format's
published layout (8 bytes header length, JSON header, data), because the package's accepts more than we do
and reports less.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from sweeper.safe_json import open_inside, parse_object

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 100_000
MAX_AXES = 16
MAX_NAME = 1_000
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Entry(NamedTuple):
    """Where a tensor lies in the data of its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class SafeTensors:
    """A safetensors file whose header has been checked; the data are read by `load`.

    Attributes:
        shapes: Name -> shape.
        metadata: The texts that the header carries beside.

    Raises:
        ValueError: the file is not what the format says, or beyond our limits.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.file = open_inside(folder, name)
        try:
            header = self._header()
            self.metadata = self._metadata(header)
            self.entries = {key: self._entry(key, value) for key, value in header.items()}
            self._check_layout()
        except BaseException:
            self.file.close()
            raise
        self.shapes = {key: entry.shape for key, entry in self.entries.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.file.close()

    def load(self) -> dict[str, Tensor]:
        """Return the tensors.

        Raises:
            ValueError: a value is not finite.
        """
        self.file.seek(self.start)
        found = {}
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].start):
            content = bytearray(self.file.read(entry.end - entry.start))
            if len(content) < entry.end - entry.start:
                raise self._wrong("is cut off")
            flat = torch.frombuffer(content, dtype=entry.dtype) if content else torch.empty(0, dtype=entry.dtype)
            if not flat.isfinite().all():
                raise self._wrong(f"has values in {name!r} that are not finite")
            found[name] = flat.view(entry.shape)
        return found

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.path} {what}. Copy or save it anew")

    def _header(self) -> dict[str, Any]:
        size = os.fstat(self.file.fileno()).st_size
        length = int.from_bytes(self.file.read(8), "little")
        if size < 8 or length > size - 8:
            raise self._wrong(f"is no safetensors file, or is cut off: {size:,} bytes, a header of {length:,}")
        if length > MAX_HEADER:
            raise self._wrong(f"has a header of {length:,} bytes; at most {MAX_HEADER:,} are read")
        self.start, self.size = 8 + length, size - 8 - length
        header = parse_object(self.file.read(length), f"the header of {self.path}")
        if len(header) > MAX_TENSORS:
            raise self._wrong(f"holds {len(header):,} tensors; at most {MAX_TENSORS:,} are read")
        return header

    def _metadata(self, header: dict[str, Any]) -> dict[str, str]:
        found = header.pop("__metadata__", {})
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise self._wrong("has metadata that are not texts")
        return found

    def _entry(self, name: str, value: Any) -> Entry:
        shown = repr(name[:100])
        if not name or len(name) > MAX_NAME or not name.isprintable() or {"/", "\\"} & {*name} or ".." in name:
            raise self._wrong(f"has a tensor with a name that is no parameter's: {shown}")
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._wrong(f"describes {shown} otherwise than by dtype, shape and data_offsets")
        if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
            raise self._wrong(f"holds {shown} as {str(value['dtype'])[:20]!r}; read are {', '.join(DTYPES)}")
        shape, offsets = value["shape"], value["data_offsets"]
        for numbers, most in ((shape, MAX_AXES), (offsets, 2)):
            if not isinstance(numbers, list) or len(numbers) > most or not all(_is_size(n) for n in numbers):
                raise self._wrong(f"has a shape or offsets of {shown} that are no sizes")
        dtype = DTYPES[value["dtype"]]
        if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
            raise self._wrong(f"has offsets of {shown} that do not fit its shape")
        return Entry(dtype, tuple(shape), *offsets)

    def _check_layout(self) -> None:
        """Raise ValueError unless the tensors fill the data without gap or overlap."""
        end = 0
        for entry in sorted(self.entries.values(), key=lambda entry: (entry.start, entry.end)):
            if entry.start != end:
                raise self._wrong("has tensors that overlap, or bytes that belong to none")
            end = entry.end
        if end != self.size:
            raise self._wrong(f"has {self.size:,} bytes of data, and its header describes {end:,}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def check_names(where: object, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless a file holds exactly the wanted tensors; the message names what is amiss."""
    for what, names in (("lacks", wanted.keys() - found.keys()), ("has unknown", found.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{where} {what} {', '.join(sorted(names)[:3])}{more}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(f"{where} has {name} of shape {list(found[name])}; here it must be {list(shape)}")


@contextmanager
def new_folder(target: Path, overwrite: bool, ours: frozenset[str]) -> Iterator[Path]:
    """Yield an empty folder that stands at ``target`` once the block has ended well, and nowhere if not.

    Args:
        target: Where to.
        overwrite: Whether a folder there may be replaced; only one that holds nothing but files named in ``ours``.
        ours: Names of files.

    Raises:
        ValueError: there is something at ``target``, and it is not to be replaced.
    """
    if target.is_symlink() or target.exists():
        if not overwrite:
            raise ValueError(f"{target} is already there: name another folder, or give --overwrite")
        if target.is_symlink() or not target.is_dir() or not {path.name for path in target.iterdir()} <= ours:
            raise ValueError(f"{target} holds other things than an adapter: it is not replaced, name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    temporary, old = (target.with_name(f".{target.name}.{mark}.{what}") for what in ("new", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
