"""LoRA and its variants against the weight they stand for, and against peft."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sweeper.models.base import LoadedModel, generators
from sweeper.strategies import STRATEGIES
from sweeper.strategies.low_rank import LowRank, MemberDropout
from tests import small

RANKS, SCALES = (1, 4, 2), (16.0, 0.5, 2.0)

LAYERS = pytest.mark.parametrize(
    ("base", "shape"),
    [
        (nn.Linear(6, 8), (6,)),
        (nn.Linear(6, 8, bias=False), (5, 6)),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 7, 7)),
        (nn.Conv2d(3, 8, (3, 1), stride=2, dilation=2, padding=(2, 0), bias=False), (3, 9, 9)),
    ],
)
# What a layer may be made of; the second member starts at the principal components.
FORMS = pytest.mark.parametrize("dora", [False, True])
PISSA = pytest.mark.parametrize("principal", [(), (False, True, False)])
HOW = pytest.mark.parametrize("parametrized", [False, True])


def low_rank(base: nn.Module, **variant: Any) -> LowRank:
    return LowRank(base, RANKS, SCALES, generators([0, 1, 2], "lora"), **variant)


def moved(layer: LowRank) -> LowRank:
    """Move what trains, as training would: nothing beyond a member's rank."""
    with torch.no_grad():
        for k, rank in enumerate(RANKS):
            layer.a[k, :, :rank] += 0.1 * torch.randn(layer.a.shape[1], rank)
            layer.b[k, :rank] += torch.randn(rank, layer.b.shape[2])
        if layer.magnitude is not None:
            layer.magnitude *= torch.rand_like(layer.magnitude) + 0.5
    return layer


def stands_for(layer: LowRank, base: nn.Module, k: int) -> Tensor:
    """Return one member's weight, by the papers' formulas."""
    update = SCALES[k] * (layer.a[k] @ layer.b[k]).T
    if layer.a0 is not None and layer.b0 is not None:
        update = update - SCALES[k] * (layer.a0[k] @ layer.b0[k]).T
    v = base.weight.flatten(1) + update  # type: ignore[union-attr,operator]
    if layer.magnitude is not None:
        v = layer.magnitude[k][:, None] * v / torch.linalg.norm(v, dim=1, keepdim=True)
    return v.reshape(base.weight.shape)  # type: ignore[arg-type]


@LAYERS
@FORMS
@PISSA
@HOW
def test_each_member_is_the_base_with_its_own_weight(
    base: nn.Module, shape: tuple[int, ...], principal: tuple[bool, ...], dora: bool, parametrized: bool
) -> None:
    torch.manual_seed(0)
    layer = low_rank(base, principal=principal, dora=dora, parametrized=parametrized)
    x = torch.randn(3 * 4, *shape)
    torch.testing.assert_close(layer(x), base(x), rtol=1e-5, atol=1e-5)  # starts there
    moved(layer)
    got = layer(x).chunk(3)
    for k, part in enumerate(x.chunk(3)):
        expected = torch.func.functional_call(base, {"weight": stands_for(layer, base, k)}, (part,))
        torch.testing.assert_close(got[k], expected, rtol=1e-4, atol=1e-4)
        merged = layer.merged(k)
        assert type(merged) is type(base)
        torch.testing.assert_close(merged(part), expected, rtol=1e-4, atol=1e-4)
    layer.enabled = False
    assert torch.equal(layer(x), base(x))


@LAYERS
@FORMS
@PISSA
@HOW
def test_what_lies_beyond_a_members_rank_stays_zero(
    base: nn.Module, shape: tuple[int, ...], principal: tuple[bool, ...], dora: bool, parametrized: bool
) -> None:
    layer = low_rank(base, principal=principal, dora=dora, parametrized=parametrized)
    before = copy.deepcopy(base.state_dict())
    optimizer = torch.optim.AdamW(layer.own_parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        layer(torch.randn(12, *shape)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for k, rank in enumerate(RANKS):
        assert not layer.a[k, :, rank:].any()
        assert not layer.b[k, rank:].any()
        assert layer.a[k, :, :rank].all()
        assert layer.b[k, :rank].all()
    assert all(torch.equal(p, before[name]) for name, p in base.state_dict().items())


def test_an_output_that_is_all_zero_keeps_dora_finite() -> None:
    base = nn.Linear(6, 8)
    with torch.no_grad():
        base.weight[3] = 0
    layer = low_rank(base, dora=True)
    x = torch.randn(12, 6)
    torch.testing.assert_close(layer(x), base(x))
    layer(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.own_parameters())


@pytest.mark.parametrize(("rank", "alpha"), [(3, 6.0), (6, 2.0)])
@pytest.mark.parametrize(
    ("base", "shape"), [(nn.Linear(12, 8), (12,)), (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 7, 7))]
)
def test_dora_has_the_outputs_and_the_gradients_of_peft(
    base: nn.Module, shape: tuple[int, ...], rank: int, alpha: float
) -> None:
    ours = LowRank(base, [rank], [alpha / rank], generators([0], "lora"), dora=True)
    with torch.no_grad():
        ours.b.normal_(std=0.3)
    theirs, a, b, magnitude = in_peft(base, rank, alpha, use_dora=True)
    assert ours.magnitude is not None
    torch.testing.assert_close(magnitude.flatten(), ours.magnitude[0])
    with torch.no_grad():
        ours.magnitude *= torch.rand_like(ours.magnitude) + 0.5
        a.copy_(ours.a[0].T.reshape(a.shape))
        b.copy_(ours.b[0].T.reshape(b.shape))
        magnitude.copy_(ours.magnitude[0].reshape(magnitude.shape))
    x = torch.randn(5, *shape)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-4}
    assert ours.a.grad is not None
    assert ours.b.grad is not None
    torch.testing.assert_close(ours.a.grad[0].T.reshape(a.shape), a.grad, **close)
    torch.testing.assert_close(ours.b.grad[0].T.reshape(b.shape), b.grad, **close)
    torch.testing.assert_close(ours.magnitude.grad, magnitude.grad.reshape(1, -1), **close)  # type: ignore[union-attr]


def test_pissa_has_the_factors_and_the_outputs_of_peft() -> None:
    base = nn.Linear(12, 8)
    ours = LowRank(base, [3], [2.0], generators([0], "lora"), principal=[True])
    theirs, a, b = in_peft(base, 3, 6.0, init_lora_weights="pissa")
    assert ours.a0 is not None
    assert ours.b0 is not None
    torch.testing.assert_close(ours.a[0].T, a.data)
    torch.testing.assert_close(ours.b[0].T, b.data)
    principal = 2 * (ours.a0[0] @ ours.b0[0]).T
    left, values, right = torch.linalg.svd(base.weight, full_matrices=False)
    torch.testing.assert_close(principal, left[:, :3] @ values[:3].diag() @ right[:3])
    with torch.no_grad():
        ours.a *= 1.5
        a *= 1.5
    x = torch.randn(5, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def in_peft(base: nn.Module, rank: int, alpha: float, **config: Any) -> tuple[nn.Module, ...]:
    """Return peft's layer on a copy of the base, and what it trains."""
    from sweeper.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    peft = pytest.importorskip("peft", reason="peft is the oracle")
    wanted = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], **config)
    layer = peft.inject_adapter_in_model(wanted, nn.Sequential(copy.deepcopy(base)))[0]
    parts = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    if config.get("use_dora"):
        parts.append(layer.lora_magnitude_vector["default"].weight)
    return layer, *parts


def test_dropout_has_the_members_own_rates_in_training_only() -> None:
    dropout = MemberDropout([0.0, 0.25, 0.5], [7, 7, 8])
    x = torch.ones(3 * 200, 50)
    parts = dropout(x).chunk(3)
    assert torch.equal(parts[0], x[:200])
    for part, rate in zip(parts[1:], (0.25, 0.5), strict=True):
        assert set(part.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
        assert (part == 0).float().mean().item() == pytest.approx(rate, abs=0.02)
    alone = MemberDropout([0.25], [7])(x[:200])
    assert torch.equal(alone, parts[1])
    assert not torch.equal(MemberDropout([0.25], [8])(x[:200]), alone)
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_leaves_the_base_and_the_start_of_pissa_alone() -> None:
    base = nn.Linear(6, 8)
    dropout = MemberDropout([0.0, 0.9, 0.9], [0, 1, 2])
    layer = low_rank(base, principal=(False, True, False), dropout=dropout)
    x = torch.randn(12, 6)
    noisy, plain = layer(x).chunk(3), base(x).chunk(3)
    torch.testing.assert_close(noisy[2], plain[2])  # B is zero
    assert not torch.allclose(noisy[1], plain[1])
    torch.testing.assert_close(layer.eval()(x), base(x))


VARIANTS: list[dict[str, Any]] = [
    {"dora": True},
    {"init": "pissa"},
    {"dropout": 0.3},
    {"dora": True, "init": "pissa", "dropout": 0.3},
    {"form": "parametrized", "dropout": 0.0},
    {"form": "parametrized", "dropout": 0.0, "dora": True},
]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v))
models = pytest.mark.parametrize("model", small.LEFT_OUT)


@models
@variants
def test_a_variant_keeps_the_promises_of_a_strategy(model: str, variant: dict[str, Any]) -> None:
    x = small.data().splits["test"].x[:5]
    loaded = small.model(model, [0])
    before = loaded.network(x)
    base = {name: p.clone() for name, p in loaded.network.state_dict().items()}

    together, pack = small.train_some(model, "lora", [0, 1, 2], [5, 5, 7], **variant)
    together.network.eval()
    packed = together.logits(torch.cat([x] * 3))
    for k, seed in enumerate([5, 5, 7]):
        alone, single = small.train_some(model, "lora", [k], [seed], **variant)
        alone.network.eval()
        torch.testing.assert_close(packed[k], alone.logits(x)[0], rtol=1e-3, atol=1e-4)
        assert pack[k].trainable_params == single[0].trainable_params
        merged = together.merged(k)
        assert merged is not None
        torch.testing.assert_close(merged(x), packed[k], rtol=1e-4, atol=1e-5)
        assert list(merged.state_dict()) == list(base)

    assert together.can_switch_off
    assert not torch.allclose(packed[0], before)
    together.switch(False)
    assert torch.equal(together.network(x), before)
    for name, p in together.network.state_dict().items():
        if name.replace(".base", "") in base and name not in together.trainable():
            assert torch.equal(p, base[name.replace(".base", "")])


@models
@pytest.mark.parametrize("variant", [{}, {"dora": True}, {"init": "pissa"}], ids=str)
def test_parametrized_it_trains_as_it_does_beside_the_layer(model: str, variant: dict[str, Any]) -> None:
    x = torch.cat([small.data().splits["test"].x[:5]] * 3)
    shared = {"dropout": 0.0, **variant}
    added, rows = small.train_some(model, "lora", [0, 1, 2], [0, 1, 2], **shared)
    parametrized, same = small.train_some(model, "lora", [0, 1, 2], [0, 1, 2], form="parametrized", **shared)
    torch.testing.assert_close(parametrized.logits(x), added.logits(x), rtol=1e-3, atol=1e-3)
    assert [row.trainable_params for row in same] == [row.trainable_params for row in rows]
    for layer in parametrized.switches:
        assert isinstance(layer, LowRank)
        assert layer.wide is not None
        assert parametrize.is_parametrized(layer.wide, "weight")
        base_weight = layer.base.weight
        assert layer.wide.parametrizations["weight"].original is base_weight, "shared, not copied"  # type: ignore[index,union-attr]
        assert layer.wide.weight.shape == (3, *base_weight.shape)  # type: ignore[union-attr,misc]


def test_a_thin_layer_among_others_takes_the_rank_of_all() -> None:
    def of_two_columns() -> LoadedModel:
        model = small.model("mlp", [0])
        model.replace("blocks.0.0", nn.Linear(2, 64))
        return model

    model, lora = of_two_columns(), STRATEGIES["lora"](rank=8)
    next(lora.adapt(model, [lora]))
    layer = model.get("blocks.0.0")
    _, a, b = in_peft(nn.Linear(2, 64), 8, 16.0)
    assert isinstance(layer, LowRank)
    assert layer.own_params(0) == a.numel() + b.numel()
    assert model.network(torch.randn(5, 2)).shape == (5, 10)
    pissa = STRATEGIES["lora"](rank=3, init="pissa")
    with pytest.raises(ValueError, match=r"lora.rank 3 is larger than the layer 'blocks.0.0' \(2 inputs"):
        next(pissa.adapt(of_two_columns(), [pissa]))


def test_a_grouped_convolution_takes_plain_lora_only() -> None:
    for variant in ({"dora": True}, {"init": "pissa"}, {"form": "parametrized"}, {}):
        model = small.model("small_cnn", [0])
        grouped = nn.Conv2d(16, 32, 3, padding=1, groups=2)
        model.replace("blocks.0.0", grouped)
        lora = STRATEGIES["lora"](rank=2, targets="conv", **variant)  # type: ignore[arg-type]
        if variant:
            with pytest.raises(ValueError, match="is a grouped"):
                next(lora.adapt(model, [lora]))
            assert model.get("blocks.0.0") is grouped
        else:
            next(lora.adapt(model, [lora]))
            assert model.network(torch.randn(2, 1, 8, 8)).shape == (2, 10)
            assert model.merged(0) is None


@pytest.mark.parametrize(
    "hparams",
    [
        {"dropout": 1.0},
        {"dropout": True},
        {"init": "svd"},
        {"dora": 1},
        {"form": "beside"},
        {"dropout": 0.1, "form": "parametrized"},
    ],
)
def test_impossible_variants_are_named(hparams: dict[str, Any]) -> None:
    name, value = next(iter(hparams.items()))
    with pytest.raises(ValueError, match=f"lora.{name}.*{value!r}"):
        STRATEGIES["lora"](**hparams)
