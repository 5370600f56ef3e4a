"""Strategies by role on a network that is not ours: a BERT of the transformers library."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from sweeper.models import LoadedModel
from sweeper.strategies import Strategy
from sweeper.strategies.adapter import PLACEMENTS, Adapter
from sweeper.strategies.bitfit import BitFit
from sweeper.strategies.ia3 import IA3
from sweeper.strategies.lora import Lora
from sweeper.strategies.norm_tuning import NormTuning
from tests import small

pytest.importorskip("transformers")
from tests.families import FAMILIES, START

IDS = torch.arange(32).view(4, 8) % START


def bert(seeds: Sequence[int]) -> LoadedModel:
    loaded = FAMILIES["bert"]((1, 8, 8), 10, 0)
    loaded.seeds = tuple(seeds)
    return loaded


@pytest.mark.parametrize(
    "members",
    [
        [IA3(), IA3()],
        [NormTuning(), NormTuning()],
        [BitFit(), BitFit()],
        [Lora(2), Lora(4)],
        *([Adapter(4, placement), Adapter(7, placement, 4.0)] for placement in PLACEMENTS),
    ],
    ids=lambda members: f"{members[0].name}-{getattr(members[0], 'placement', '')}",
)
def test_promises_of_additions(members: list[Strategy]) -> None:
    small.check_what_is_added(bert, IDS, members)


@pytest.mark.parametrize(
    ("strategy", "trainable"),
    [
        (IA3(), 2 * (32 + 32 + 64)),  # keys, values, inner activations of two layers
        (NormTuning(), (1 + 2 * 2) * (32 + 32)),  # after the embeddings, and two in each layer
        (Adapter(4, "houlsby"), 2 * 2 * (32 * 4 + 4 + 4 * 32 + 32)),
    ],
)
def test_what_they_cost(strategy: Strategy, trainable: int) -> None:
    model = bert([0])
    next(strategy.adapt(model, [strategy]))
    assert model.trainable_params(0) == trainable
