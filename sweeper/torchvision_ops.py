"""Let ``import torchvision`` work beside a CPU-only torch.

The wheel of torchvision on the package index is built for CUDA. Beside a CPU-only torch its library of
compiled operators cannot be loaded, which torchvision tolerates; but it then describes operators that
nobody has declared, and the import fails with ``operator torchvision::nms does not exist``. Declaring
their signatures is enough. Only detection models and `torchvision.ops` call them, and still fail with a
clear message when they do.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_missing_ops() -> None:
    """Declare the operators that ``import torchvision`` needs, if its compiled library cannot be loaded.

    Call it before anything that imports torchvision: torchvision itself, transformers, timm, peft.
    Safe to call again.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            continue
    for schema in _MISSING:
        name = schema.split("(", 1)[0]
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema.removeprefix(name))
