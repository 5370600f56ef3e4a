"""Where adapters go, what they compute there, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from sweeper.models import LoadedModel, small_cnn, tiny_transformer
from sweeper.models.base import NotApplicableError, generators
from sweeper.strategies import hparams_of
from sweeper.strategies.adapter import PLACEMENTS, Adapted, Adapter
from tests import small

D, FF, R = 32, 128, 4
IDS = torch.arange(32).view(4, 8) % 100


def transformer(seeds: Sequence[int] = (0,)) -> LoadedModel:
    loaded = tiny_transformer.build((8,), n_classes=3, seed=0)
    loaded.seeds = tuple(seeds)
    return loaded


def adapted(placement: str, **fields: float) -> tuple[LoadedModel, dict[str, Adapted]]:
    """The transformer with adapters whose ``up`` is no longer zero, and these by path."""
    model = transformer()
    chosen = Adapter(R, placement, **fields)
    next(chosen.adapt(model, [chosen]))
    added = {path: m for path, m in model.network.named_modules() if isinstance(m, Adapted)}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in added.values():
            for p in (module.up, module.up_bias):
                p.normal_(generator=generator)
    return model, added


def term(module: Adapted, x: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(x @ module.down[0] + module.down_bias[0])
    return hidden @ module.up[0] + module.up_bias[0]


@pytest.mark.parametrize(
    ("placement", "adapters"), [("block", 2), ("houlsby", 2 * 2), ("pfeiffer", 2), ("parallel", 2)]
)
def test_each_adapter_costs_two_matrices_and_two_biases(placement: str, adapters: int) -> None:
    one = (D * R + R) + (R * D + D)
    assert one == 292
    model, _ = adapted(placement)
    assert model.trainable_params(0) == adapters * one
    assert model.total_params(0) == model.loaded_params + adapters * one


def test_each_placement_computes_what_its_paper_draws() -> None:
    x = torch.randn(2, 8, D)

    def block(m: LoadedModel, houlsby: bool = False, parallel: bool = False) -> torch.Tensor:
        """The block of arXiv 1706.03762 written out, with an adapter at each sublayer's output."""
        b = m.get("blocks.0")
        attention, feed_forward = b.attention.out, b.mlp_out
        if houlsby:
            b.attention.out = attention.base
            h = b.attention(x)
            b.attention.out = attention
            h = b.norm1(x + h + term(attention, h))
        else:
            h = b.norm1(x + b.attention(x))
        mlp_in = b.mlp_in.base if parallel else b.mlp_in
        y = feed_forward.base(F.relu(mlp_in(h)))
        return b.norm2(h + y + (4.0 * term(feed_forward, h) if parallel else term(feed_forward, y)))

    houlsby, _ = adapted("houlsby")
    pfeiffer, _ = adapted("pfeiffer")
    parallel, _ = adapted("parallel", scale=4.0)
    for model, expected in [
        (houlsby, block(houlsby, houlsby=True)),
        (pfeiffer, block(pfeiffer)),
        (parallel, block(parallel, parallel=True)),
    ]:
        torch.testing.assert_close(model.get("blocks.0")(x), expected)


@pytest.mark.parametrize("on", [True, False])
def test_the_parallel_adapter_keeps_no_input(on: bool) -> None:
    model, added = adapted("parallel")
    model.switch(on)
    model.network(IDS)
    assert [module.seen for module in added.values()] == [[], []]


@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if name != "block"])
def test_each_placement_keeps_the_promises_of_additions(placement: str) -> None:
    chosen = [Adapter(R, placement), Adapter(2, placement, scale=4.0), Adapter(7, placement)]
    small.check_what_is_added(transformer, IDS, chosen)


@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if name != "block"])
@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_a_model_without_such_layers_is_refused(model: str, placement: str) -> None:
    chosen = Adapter(placement=placement)
    with pytest.raises(NotApplicableError, match=f"adapter.placement '{placement}' needs layers of role"):
        next(chosen.adapt(small.model(model, [0]), [chosen]))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_bottleneck_wider_than_its_layer_is_refused_before_anything_changes(placement: str) -> None:
    model, chosen = transformer(), Adapter(D + 1, placement)
    names = list(model.network.state_dict())
    with pytest.raises(ValueError, match=r"adapter.bottleneck 33 is larger than the .* 'blocks.0.*32 wide"):
        next(chosen.adapt(model, [chosen]))
    assert list(model.network.state_dict()) == names


def test_behind_a_convolution_it_works_on_channels() -> None:
    model = small_cnn.build((1, 8, 8), n_classes=3, seed=0)
    model.roles = {"blocks.0.0": "mlp_out"}
    chosen = Adapter(R, "pfeiffer")
    next(chosen.adapt(model, [chosen]))
    module = model.get("blocks.0.0")
    assert isinstance(module, Adapted)
    torch.nn.init.normal_(module.up)
    x = torch.randn(2, 16, 8, 8)
    h = module.base(x)
    torch.testing.assert_close(module(x), h + term(module, h.movedim(1, -1)).movedim(-1, 1))


def test_behind_a_linear_layer_features_are_last_whatever_the_shape() -> None:
    module = Adapted(torch.nn.Linear(6, 8), 8, 8, [R], [1.0], generators([0], "adapter"))
    torch.nn.init.normal_(module.up)
    x = torch.randn(2, 3, 4, 6)  # as in ConvNeXt and Swin: (batch, h, w, features)
    h = module.base(x)
    torch.testing.assert_close(module(x), h + term(module, h))


def test_ids_of_rows_from_before_there_were_placements_stay_true() -> None:
    assert hparams_of(Adapter()) == {"bottleneck": 16}
    assert hparams_of(Adapter(4, "parallel", 4)) == {"bottleneck": 4, "placement": "parallel", "scale": 4.0}


@pytest.mark.parametrize(("field", "value"), [("placement", "everywhere"), ("scale", 0), ("scale", float("nan"))])
def test_impossible_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"adapter.{field} must be .* got {value!r}"):
        Adapter(**{field: value})  # type: ignore[arg-type]
