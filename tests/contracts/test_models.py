"""Promises of every model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sweeper.models import MODELS
from tests import small

OF_TEXTS = {"minilm", "minilm_l3", "tiny_gpt", "tiny_t5"}
every = pytest.mark.parametrize("name", [name for name in MODELS if name not in OF_TEXTS])
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@every
def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, same, other = (MODELS[name]((1, 8, 8), 10, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.network(IMAGES), same.network(IMAGES))
    assert not torch.allclose(one.network(IMAGES), other.network(IMAGES))


@every
@pytest.mark.parametrize("side", [8, 28])
def test_logits_have_a_column_for_each_class(name: str, side: int) -> None:
    loaded = MODELS[name]((1, side, side), 7, 0)
    assert loaded.network(torch.rand(3, 1, side, side)).shape == (3, 7)


@every
def test_the_anatomy_is_true(name: str) -> None:
    loaded = MODELS[name]((1, 8, 8), 10, 0)
    assert not loaded.trainable()
    assert isinstance(loaded.get(loaded.head), nn.Linear)
    assert loaded.embedding is None or loaded.get(loaded.embedding)
    for path in loaded.roles:
        assert isinstance(loaded.get(path), nn.Linear | nn.Conv2d)
        assert any(path.startswith(f"{block}.") for block in loaded.blocks), "roles lie inside the blocks"
    inside = {
        path
        for path, module in loaded.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and any(path.startswith(f"{b}.") for b in loaded.blocks)
    }
    assert inside == set(loaded.roles), "every linear and convolution of the blocks has a role"

    order: list[str] = []
    for path, width in zip(loaded.blocks, loaded.widths, strict=True):

        def check(module: nn.Module, args: object, out: torch.Tensor, path: str = path, width: int = width) -> None:
            order.append(path)
            assert out.shape[1 if out.dim() == 4 else -1] == width

        loaded.get(path).register_forward_hook(check)
    loaded.network(IMAGES)
    assert tuple(order) == loaded.blocks, "blocks run in their order"


@every
def test_members_with_equal_weights_give_what_the_plain_network_gives(name: str) -> None:
    plain = MODELS[name]((1, 8, 8), 10, 0).network(IMAGES)
    wide = small.model(name, [0, 1, 2])
    wide.wake("")
    got = wide.logits(torch.cat([IMAGES] * 3))
    torch.testing.assert_close(got, torch.stack([plain] * 3), rtol=1e-4, atol=1e-5)
    assert all(p.shape[0] == 3 for p in wide.trainable().values())


@every
def test_a_fresh_head_is_each_members_own(name: str) -> None:
    loaded = small.model(name, [0, 1, 0])
    loaded.wake_fresh_head()
    weight = loaded.trainable()["head.weight"]
    assert torch.equal(weight[0], weight[2])
    assert not torch.allclose(weight[0], weight[1])
    bound = weight.shape[-1] ** -0.5
    assert 0.9 * bound < weight.abs().max() <= bound
