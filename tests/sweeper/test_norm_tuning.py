"""Scale and shift of every kind of normalisation; and the biases that BitFit finds there."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from sweeper.models import LoadedModel, tiny_transformer
from sweeper.models.base import NotApplicableError, seeded
from sweeper.strategies.bitfit import Biased, BitFit
from sweeper.strategies.norm_tuning import NormTuned, NormTuning
from tests import small

D = 32


class OffsetRMSNorm(nn.Module):
    """As Gemma's: it multiplies by 1 + weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class LayerNorm2d(nn.LayerNorm):
    """As torchvision's: over the channels of ``(batch, c, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def used(norm: nn.Module) -> nn.Module:
    """The layer with statistics and parameters as training leaves them: not zero and one."""
    with torch.no_grad():
        for name, value in norm.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 2) if name.endswith(("weight", "var")) else value.normal_()
    return norm.eval()


NORMS = [
    (nn.LayerNorm(6), (5, 6)),
    (nn.LayerNorm(6, bias=False), (5, 6)),
    (nn.BatchNorm1d(6), (6,)),
    (nn.BatchNorm2d(6), (6, 4, 4)),
    (nn.GroupNorm(2, 6), (6, 4, 4)),
    (nn.RMSNorm(6), (5, 6)),
    (OffsetRMSNorm(6), (5, 6)),
    (LayerNorm2d(6), (6, 4, 4)),
]


@pytest.mark.filterwarnings("error")  # vmap warns where it falls back to a loop
@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=lambda value: type(value).__name__)
def test_each_member_is_the_base_with_its_own_scale_and_shift(norm: nn.Module, shape: tuple[int, ...]) -> None:
    base = used(norm)
    layer = NormTuned(base, 3)
    x = torch.randn(3 * 4, *shape)
    torch.testing.assert_close(layer(x), base(x))
    with torch.no_grad():
        for p in layer.own_parameters():
            p.normal_()
    statistics = {name: value.clone() for name, value in base.named_buffers()}
    for k, (got, part) in enumerate(zip(layer(x).chunk(3), x.chunk(3), strict=True)):
        alone = copy.deepcopy(base)
        alone.load_state_dict({**base.state_dict(), **{n: p[k] for n, p in layer.named_parameters(recurse=False)}})
        torch.testing.assert_close(got, alone(part))
        torch.testing.assert_close(layer.merged(k)(part), got)
    for name, value in base.named_buffers():
        assert torch.equal(value, statistics[name])


def test_what_it_costs() -> None:
    model = tiny_transformer.build((8,), n_classes=3, seed=0)
    next(NormTuning().adapt(model, [NormTuning()]))
    assert model.trainable_params(0) == 2 * 2 * (D + D) == 256  # two layers, two norms each, scale and shift
    assert model.total_params(0) == model.loaded_params


class NormalisedCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False), used(nn.BatchNorm2d(6)), nn.ReLU(), used(nn.GroupNorm(2, 6)), nn.Flatten()
        )
        self.head = nn.Linear(216, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def cnn(seeds: Sequence[int]) -> LoadedModel:
    network = seeded(0, NormalisedCNN)
    return LoadedModel(network, "head", ("body",), (6,), {"body.0": "conv"}, seeds=tuple(seeds))


@pytest.mark.parametrize("strategy", [NormTuning(), BitFit()])
def test_a_convolutional_network_with_norms_keeps_the_promises_of_additions(strategy: NormTuning | BitFit) -> None:
    x = small.data().splits["train"].x[:16]
    small.check_what_is_added(cnn, x, [strategy] * 3)  # type: ignore[list-item]


def test_bitfit_finds_the_biases_of_norms() -> None:
    model = cnn([0])
    next(BitFit().adapt(model, [BitFit()]))
    assert {path for path, m in model.network.named_modules() if isinstance(m, Biased)} == {"body.1", "body.3"}
    assert model.trainable_params(0) == 6 + 6


def test_bitfit_without_a_bias_is_refused() -> None:
    model = cnn([0])
    for module in model.network.modules():
        module.register_parameter("bias", None)
    with pytest.raises(NotApplicableError, match="bitfit does not apply: there is no bias"):
        next(BitFit().adapt(model, [BitFit()]))
