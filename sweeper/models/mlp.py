"""A multilayer perceptron on flattened input."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from sweeper.models.base import LoadedModel, NotApplicableError, check_work, seeded
from sweeper.work import CLASSIFICATION, REGRESSION

HIDDEN = (64, 64, 32)


class MLP(nn.Module):
    """Blocks of linear and ReLU, then a linear head."""

    def __init__(self, sizes: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, ...)`` to logits ``(batch, classes)``."""
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build(
    input_shape: tuple[int, ...],
    n_classes: int,
    seed: int,
    work: str = CLASSIFICATION,
    hidden: tuple[int, ...] = HIDDEN,
) -> LoadedModel:
    """Return a multilayer perceptron on flattened input, random weights; its blocks are the hidden layers."""
    check_work("mlp", work, CLASSIFICATION, REGRESSION)
    if not input_shape:
        raise NotApplicableError("mlp reads numbers, and these rows are texts")
    sizes = (math.prod(input_shape), *hidden)
    network = seeded(seed, lambda: MLP(sizes, n_classes))
    places = range(len(hidden))
    return LoadedModel(
        network=network,
        head="head",
        blocks=tuple(f"blocks.{i}" for i in places),
        widths=hidden,
        roles={f"blocks.{i}.0": "linear" for i in places},
    )
