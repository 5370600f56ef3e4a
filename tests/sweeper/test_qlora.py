"""QLoRA against LoRA on a base that was rounded to 4 bits beforehand."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from sweeper.models import LoadedModel
from sweeper.models.base import NotApplicableError, UnavailableError, generators
from sweeper.strategies import STRATEGIES, qlora
from sweeper.strategies.low_rank import LowRank
from sweeper.strategies.qlora import Nf4Linear
from tests import small


def adapted(model: LoadedModel, **hparams: object) -> LoadedModel:
    chosen = STRATEGIES["qlora"](**hparams)
    next(chosen.adapt(model, [chosen]))
    return model


@pytest.fixture
def bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="qlora needs bitsandbytes, which is not installed")


def rounded(weight: Tensor) -> Tensor:
    """Return a weight with every 64 in a row rounded to the paper's levels (appendix E) times their largest."""
    below = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004]
    above = [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
    levels = torch.tensor([*below, 0.0, *above])
    blocks = weight.split(64, dim=1)
    largest = [block.abs().amax(1, keepdim=True) for block in blocks]
    nearest = [((b / m)[..., None] - levels).abs().argmin(-1) for b, m in zip(blocks, largest, strict=True)]
    return torch.cat([levels[n] * m for n, m in zip(nearest, largest, strict=True)], dim=1)


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize(("inputs", "bias"), [(96, True), (128, False), (32, True), (33, False)])
def test_a_layer_is_the_linear_of_its_rounded_weight(double_quant: bool, inputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(inputs, 40, bias=bias)
    layer = Nf4Linear(base, double_quant)
    plain = layer.merged(0)
    assert type(plain) is nn.Linear
    assert plain.weight.dtype == torch.float32
    # Scales in 8 bits move the weights of a block a little.
    torch.testing.assert_close(plain.weight, rounded(base.weight.detach()), rtol=double_quant / 60, atol=1e-6)
    x = torch.randn(7, inputs, requires_grad=True)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-5)
    (theirs,) = torch.autograd.grad(plain(x).square().sum(), x)
    (ours,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert layer.inner.weight.quant_state.nested == double_quant
    blocks = -(-inputs // 64)
    assert layer.inner.weight.untyped_storage().nbytes() == 40 * 64 * blocks / 2
    if bias:
        assert layer.bias is base.bias


@pytest.mark.usefixtures("bitsandbytes")
def test_scoring_leaves_the_4_bits_alone() -> None:
    # Some CPUs repack the weight for evaluation, in place and for bfloat16.
    layer = Nf4Linear(nn.Linear(96, 64), True)
    x = torch.randn(7, 96)
    bits, before = layer.inner.weight.data.clone(), layer(x)
    with torch.inference_mode():
        assert torch.equal(layer.eval()(x), before)
    assert torch.equal(layer.inner.weight.data, bits)


@pytest.mark.usefixtures("bitsandbytes")
def test_it_is_lora_on_a_rounded_base() -> None:
    base = nn.Linear(96, 40)
    quantised = Nf4Linear(base, True)
    ours, theirs = (
        LowRank(layer, [2, 5], [2.0, 0.5], generators([0, 1], "x")) for layer in (quantised, quantised.merged(0))
    )
    x = torch.randn(6, 96)
    for layer in (ours, theirs):
        torch.manual_seed(1)
        nn.init.normal_(layer.b)
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    for p, q in zip(ours.own_parameters(), theirs.own_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("bitsandbytes")
def test_every_linear_of_the_blocks_is_quantised_and_nothing_else() -> None:
    model = adapted(small.model("tiny_transformer", [0]), rank=4, targets="query")
    assert {path for path, module in model.network.named_modules() if isinstance(module, Nf4Linear)} == {
        f"{path}.base" if role == "query" else path for path, role in model.roles.items()
    }
    assert model.trainable_params(0) == 2 * 4 * (32 + 32)
    assert model.total_params(0) == model.loaded_params + model.trainable_params(0)

    model = adapted(small.model("small_cnn", [0]), rank=4)
    assert [type(module.base) for module in model.switches] == [nn.Conv2d, nn.Conv2d, Nf4Linear]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("bitsandbytes")
def test_off_it_is_the_rounded_network_and_says_so() -> None:
    x = small.data().splits["test"].x[:5]
    start = adapted(small.model("mlp", [0])).network(x)
    trained, _ = small.train_some("mlp", "qlora", [0], [0])
    assert not trained.can_switch_off
    assert not torch.allclose(trained.network(x), start)
    trained.switch(False)
    assert torch.equal(trained.network(x), start)


def convolutions() -> LoadedModel:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return LoadedModel(network, "3", ("0",), (4,), {"0": "conv"})


def test_a_model_of_convolutions_alone_is_refused_with_or_without_the_package() -> None:
    with pytest.raises(NotApplicableError, match=r"^qlora does not apply: this model has no linear layer"):
        adapted(convolutions())


def test_without_its_package_or_kernels_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.model("mlp", [0])
    before = list(model.network.state_dict())
    qlora._why_not.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    try:
        with pytest.raises(
            UnavailableError, match=r"^qlora needs bitsandbytes: pip install 'sweeper-advisor\[qlora\]'"
        ):
            adapted(model)

        def no_kernel(*args: object, **more: object) -> None:
            raise NotImplementedError("no kernel\nfor this device")

        monkeypatch.setattr(qlora.importlib.util, "find_spec", lambda name: name)
        monkeypatch.setattr(qlora, "Nf4Linear", no_kernel)
        qlora._why_not.cache_clear()
        with pytest.raises(UnavailableError, match=r"cannot run on cpu.*no kernel for this device.*or take lora"):
            adapted(model)
    finally:
        qlora._why_not.cache_clear()
    assert list(model.network.state_dict()) == before
    assert not model.trainable()


@pytest.mark.parametrize(
    "hparams", [{"rank": 0}, {"alpha": -1}, {"dropout": 1.0}, {"double_quant": 1}, {"targets": 3}], ids=str
)
def test_impossible_hyperparameters_are_named(hparams: dict[str, object]) -> None:
    ((name, value),) = hparams.items()
    with pytest.raises(ValueError, match=f"qlora.{name}.*{value!r}"):
        STRATEGIES["qlora"](**hparams)


def test_what_does_not_fit_is_refused_before_anything_changes() -> None:
    model = small.model("mlp", [0])
    with pytest.raises(ValueError, match=r"qlora.rank 65 is larger than the layer"):
        adapted(model, rank=65)
    assert type(model.get("blocks.0.0")) is nn.Linear
