"""LoRA against the weight it stands for: W + (alpha / rank) B A."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sweeper.models.base import generators
from sweeper.strategies.lora import LowRank

RANKS, SCALES = (1, 4, 2), (16.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("base", "shape"),
    [
        (nn.Linear(6, 8), (6,)),
        (nn.Linear(6, 8, bias=False), (5, 6)),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 7, 7)),
        (nn.Conv2d(3, 8, (3, 1), stride=2, dilation=2, padding=(2, 0)), (3, 9, 9)),
    ],
)
def test_each_member_is_the_base_with_its_own_low_rank_update(base: nn.Module, shape: tuple[int, ...]) -> None:
    layer = LowRank(base, RANKS, SCALES, generators([0, 1, 2], "lora"))
    with torch.no_grad():
        for k, rank in enumerate(RANKS):
            layer.b[k, :rank] = torch.randn(rank, layer.b.shape[2])
    x = torch.randn(3 * 4, *shape)
    got = layer(x).chunk(3)
    for k, part in enumerate(x.chunk(3)):
        update = SCALES[k] * (layer.a[k] @ layer.b[k]).T  # (out, in)
        weight = base.weight + update.reshape(base.weight.shape)
        expected = torch.func.functional_call(base, {"weight": weight}, (part,))
        torch.testing.assert_close(got[k], expected, rtol=1e-4, atol=1e-4)


def test_what_lies_beyond_a_members_rank_stays_zero() -> None:
    layer = LowRank(nn.Linear(6, 8), RANKS, SCALES, generators([0, 1, 2], "lora"))
    optimizer = torch.optim.AdamW([layer.a, layer.b], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        layer(torch.randn(12, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for k, rank in enumerate(RANKS):
        assert not layer.a[k, :, rank:].any()
        assert not layer.b[k, rank:].any()
        assert layer.a[k, :, :rank].all()
        assert layer.b[k, :rank].all()
