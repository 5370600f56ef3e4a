"""The parameter counts of SPEC S1, each derived in sight."""

from __future__ import annotations

import pytest

from sweeper.models import LoadedModel, mlp, tiny_transformer
from sweeper.spec import TrainArgs
from sweeper.strategies import STRATEGIES, Stage
from sweeper.train import optimizer_for

# TinyTransformer(d=32, 4 heads, 2 layers, vocabulary 100, 4 classes)
D, FF = 32, 4 * 32
EMBEDDING = 100 * D  # positions are fixed: no parameters
ATTENTION = 4 * (D * D + D)  # query, key, value, output
NORMS = 2 * (D + D)
FEED_FORWARD = (D * FF + FF) + (FF * D + D)
BLOCK = ATTENTION + NORMS + FEED_FORWARD
HEAD = D * 4 + 4
TRANSFORMER = EMBEDDING + 2 * BLOCK + HEAD

# MLP 20-64-64-32 + head 4
MLP = (20 * 64 + 64) + (64 * 64 + 64) + (64 * 32 + 32) + (32 * 4 + 4)


def transformer() -> LoadedModel:
    return tiny_transformer.build((16,), n_classes=4, seed=0)


def small_mlp() -> LoadedModel:
    return mlp.build((20,), n_classes=4, seed=0)


def counts(model: LoadedModel, strategy: str, **hparams: object) -> tuple[int, int]:
    chosen = STRATEGIES[strategy](**hparams)
    next(chosen.adapt(model, [chosen]))
    return model.trainable_params(0), model.total_params(0)


def test_full() -> None:
    assert TRANSFORMER == 28_740
    assert counts(transformer(), "full") == (28_740, 28_740)


@pytest.mark.parametrize(("model", "total"), [(transformer, TRANSFORMER), (small_mlp, MLP)])
def test_feature_extraction(model: object, total: int) -> None:
    assert HEAD == 132
    assert counts(model(), "feature_extraction") == (132, total)  # type: ignore[operator]


def test_feature_extraction_percentages() -> None:
    assert MLP == 7_716
    assert round(100 * 132 / TRANSFORMER, 1) == 0.5
    assert round(100 * 132 / MLP, 1) == 1.7


def test_partial_unfreeze() -> None:
    last_two = (64 * 64 + 64) + (64 * 32 + 32)  # of linear-ReLU-linear-ReLU-linear, index 2 on
    assert last_two + HEAD == 6_372
    assert counts(small_mlp(), "partial_unfreeze", blocks=2) == (6_372, 7_716)
    assert round(100 * 6_372 / 7_716, 1) == 82.6


def test_partial_unfreeze_rates() -> None:
    # 2e-4 for pretrained layers, 1e-3 for the head: a factor of 0.2.
    chosen = STRATEGIES["partial_unfreeze"](blocks=2, backbone_rate=0.2)
    model = small_mlp()
    stage = next(chosen.adapt(model, [chosen]))
    assert stage.rates == {"blocks.1": [0.2], "blocks.2": [0.2]}
    rates = {round(rate.item(), 7) for _, rate, *_ in optimizer_for(model, stage, [TrainArgs(lr=1e-3)]).state}
    assert rates == {2e-4, 1e-3}


def test_rates_of_stages_and_of_lora_plus() -> None:
    probe_first = STRATEGIES["probe_then_full"](probe_share=0.25, full_rate=0.1)
    model = small_mlp()
    stages = probe_first.adapt(model, [probe_first])
    first = next(stages)
    assert (first.share, rates_of(model, first)) == (0.25, {"head.weight": 1e-3, "head.bias": 1e-3})
    second = next(stages)
    assert second.share == 0.75
    assert set(rates_of(model, second).values()) == {1e-4}
    assert len(rates_of(model, second)) == 8

    plus = STRATEGIES["lora"](b_rate=16.0)
    model = small_mlp()
    rates = rates_of(model, next(plus.adapt(model, [plus])))
    assert {name.rpartition(".")[2]: rate for name, rate in rates.items()} == {"a": 1e-3, "b": 0.016}


def rates_of(model: LoadedModel, stage: Stage) -> dict[str, float]:
    optimizer = optimizer_for(model, stage, [TrainArgs(lr=1e-3)])
    return {
        name: round(rate.item(), 7)
        for (name, _), (_, rate, *_) in zip(model.trainable().items(), optimizer.state, strict=True)
    }


def test_bitfit() -> None:
    biases = (64 + 64 + 32), 2 * (4 * D + 2 * D + FF + D)
    assert counts(small_mlp(), "bitfit") == (biases[0], MLP)
    assert counts(transformer(), "bitfit") == (biases[1], TRANSFORMER)


def test_gradual_unfreeze_wakes_the_last_block_first() -> None:
    gradual = STRATEGIES["gradual_unfreeze"](blocks=2)
    model = small_mlp()
    seen = [sorted({name.rpartition(".")[0] for name in model.trainable()}) for _ in gradual.adapt(model, [gradual])]
    assert seen == [["head"], ["blocks.2.0", "head"], ["blocks.1.0", "blocks.2.0", "head"]]


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    model = small_mlp()
    model.seeds = (0, 0)
    members = [STRATEGIES["lora"](rank=4, alpha=8.0, scaling=scaling) for scaling in ("standard", "rslora")]
    next(members[0].adapt(model, members))
    assert [module.scale.flatten().tolist() for module in model.switches] == [[2.0, 4.0]] * 3  # type: ignore[attr-defined]


def test_adapter() -> None:
    one = (D * 4 + 4) + (4 * D + D)  # down and up, with biases
    assert 2 * one == 584
    assert counts(transformer(), "adapter", bottleneck=4) == (584, TRANSFORMER + 584)
    assert round(100 * 584 / (TRANSFORMER + 584), 1) == 2.0


@pytest.mark.parametrize("variant", [{}, {"form": "parametrized"}, {"init": "pissa"}])
def test_lora_on_the_transformer(variant: dict[str, str]) -> None:
    one = 4 * (D + FF)  # A (4 x 32) and B (128 x 4) on the first feed-forward linear of a block
    assert 2 * one == 1_280
    assert counts(transformer(), "lora", rank=4, alpha=8, targets="mlp_in", **variant) == (1_280, 30_020)
    assert TRANSFORMER + 1_280 == 30_020
    assert round(100 * 1_280 / 30_020, 1) == 4.3


def test_dora_adds_a_magnitude_for_each_output() -> None:
    added = 2 * (4 * (D + FF) + FF)
    assert counts(transformer(), "lora", rank=4, targets="mlp_in", dora=True) == (added, TRANSFORMER + added)


def test_lora_on_every_linear_of_the_large_mlp() -> None:
    base = (784 * 1000 + 1000) + (1000 * 2000 + 2000) + (2000 * 10 + 10)
    added = (784 + 1000) + (1000 + 2000) + (2000 + 10)  # rank 1: one row of A and one column of B a layer
    assert (added, base) == (6_794, 2_807_010)
    model = mlp.build((1, 28, 28), n_classes=10, seed=0, hidden=(1000, 2000))
    assert counts(model, "lora", rank=1, targets="all+head") == (6_794, 2_807_010 + 6_794)
    assert round(100 * 6_794 / 2_807_010, 3) == 0.242


def test_padding_of_a_pack_is_not_counted() -> None:
    members = [STRATEGIES["lora"](rank=rank, targets="mlp_in") for rank in (1, 4)]
    model = transformer()
    model.seeds = (0, 1)
    next(members[0].adapt(model, members))
    assert [model.trainable_params(k) for k in (0, 1)] == [2 * 1 * (D + FF), 2 * 4 * (D + FF)]
