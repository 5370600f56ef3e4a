"""The cache: files named after what they were made from. What cannot be read is made again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cache_folder() -> Path:
    """Return where the cache is: ``$SWEEPER_CACHE``, else ``~/.cache/sweeper``."""
    return Path(os.environ.get("SWEEPER_CACHE") or Path.home() / ".cache" / "sweeper")


def digest_of(start: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a key made of a text and of the names, types, shapes and contents of tensors, in their order."""
    import torch  # the folder's name is asked for without it, too

    digest = hashlib.sha256(start.encode())
    for name, value in tensors:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
