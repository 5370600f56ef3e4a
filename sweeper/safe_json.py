"""Plain files and JSON from strangers, read within limits; light enough for the advisor's answers.

Whatever is wrong is one ValueError that names the file.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON = 2**20


def open_inside(folder: Path, name: str) -> BinaryIO:
    """Open a plain file that lies in a folder, and not behind a link that leads out of it.

    Raises:
        ValueError: there is no such file, or it is elsewhere, or no plain file.
    """
    path = folder / name
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise ValueError(f"{path} is a link that leads out of its folder: put the file itself there")
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ValueError(f"{path} is not a plain file: put the file itself there")
        return path.open("rb")
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read: {reason}. Check the path, or copy the file anew") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of a folder.

    Raises:
        ValueError: it is larger than 1 MiB, or no JSON object; a key stands there twice; a number is not finite.
    """
    with open_inside(folder, name) as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise ValueError(f"{folder / name} is larger than {MAX_JSON:,} bytes")
    return parse_object(content, str(folder / name))


def parse_object(content: bytes | str, where: str) -> dict[str, Any]:
    """Return the object that a JSON text holds; ValueError names ``where`` it stands."""
    try:
        found = json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {' '.join(str(error).split())[:200]}. Copy or save it anew") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not a JSON object but a {type(found).__name__}: copy or save it anew")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
