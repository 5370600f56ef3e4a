"""Every strategy on every family of transformers: each cell trains, or is refused with a reason."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import pytest
import torch

from sweeper.members import CannotPackError
from sweeper.models import MODELS, LoadedModel
from sweeper.spec import Status, TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES
from sweeper.train import train_pack
from sweeper.trial import run_pack
from tests import small

pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is missing")
if importlib.util.find_spec("transformers") is not None:
    from tests.families import FAMILIES

# One encoder and one decoder in every run, the others with the slow tests.
OFTEN = ("bert", "gpt2")
cells = pytest.mark.parametrize(
    ("family", "strategy"),
    [
        pytest.param(family, strategy, marks=[] if family in OFTEN else pytest.mark.slow)
        for family, left_out in small.LEFT_OUT_OF_FAMILIES.items()
        for strategy in STRATEGIES
        if strategy not in left_out
    ],
)
refused = pytest.mark.parametrize(
    ("family", "strategy"), [(f, s) for f, names in small.LEFT_OUT_OF_FAMILIES.items() for s in sorted(names)]
)
# Where the members share an embedding of positions, whole networks train singly.
NO_PACK = {(family, strategy) for family in ("gpt2", "t5") for strategy in ("full", "probe_then_full")} | {
    ("t5", "gradual_unfreeze")
}

# As in peft, virtual tokens take the first positions. Where positions are learned by number, the pixels then stand
# where others stood when the source model was trained, and a few labels do not make up for that.
MOVES_PIXELS = {(family, s) for family in ("bert", "roberta", "distilbert", "gpt2") for s in small.OF_TEXTS}


def inputs() -> torch.Tensor:
    return small.data().splits["test"].x[:5]


def train_some(family: str, strategy: str, members: Sequence[int], seeds: Sequence[int]) -> LoadedModel:
    loaded = FAMILIES[family]((1, 8, 8), 10, 0)
    loaded.seeds, rows = tuple(seeds), small.data().splits
    train_pack(
        loaded,
        small.strategies(strategy, members),
        [small.train_args(k, steps=4) for k in members],
        [rows["train"]] * len(members),
        [rows["valid"].rows(torch.arange(20))] * len(members),
        "accuracy",
        {"source_train": rows["source_train"]},
    )
    return loaded


@cells
def test_a_pack_gives_what_its_members_give_alone(family: str, strategy: str) -> None:
    if (family, strategy) in NO_PACK:
        with pytest.raises(CannotPackError):
            train_some(family, strategy, [0, 1], [5, 7])
        return
    packed = train_some(family, strategy, [0, 1], [5, 7]).logits(torch.cat([inputs()] * 2))
    for k, seed in enumerate([5, 7]):
        alone = train_some(family, strategy, [k], [seed])
        torch.testing.assert_close(packed[k], alone.logits(inputs())[0], rtol=1e-3, atol=1e-4)
        merged = alone.merged(0)
        assert (merged is None) == (strategy in small.STAYS_BESIDE)
        if merged is not None:
            torch.testing.assert_close(merged(inputs()), alone.logits(inputs())[0], rtol=1e-4, atol=1e-4)


@refused
def test_what_makes_no_sense_is_refused_with_a_reason(family: str, strategy: str) -> None:
    small.check_refused(FAMILIES[family]((1, 8, 8), 10, 0), strategy)


@pytest.mark.slow
@cells
def test_it_learns_more_than_the_frozen_source_model_knows(
    family: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, family, FAMILIES[family])
    hparams = small.spec(strategy).hparams
    rates = (small.LEARNS_AT.get(strategy, 1e-2), 3e-3, 3e-2)
    scores = []
    for lr in rates:  # the first rate that does is enough
        (row,) = run_pack([TrialSpec(family, small.TASK, 100, strategy, hparams, TrainArgs(lr=lr, steps=120), 0)], {})
        assert row.status is Status.COMPLETE, row.error
        start = 0.1 if strategy == "feature_extraction" else row.metrics["untouched_test_score"]
        assert row.metrics["untouched_source_test_score"] > 0.5
        scores.append(row.metrics["test_score"] - start)
        if scores[-1] > 0.02:
            return
        if (family, strategy) in MOVES_PIXELS and row.curve[-1]["train_loss"] < row.curve[0]["train_loss"]:
            pytest.skip("it trains, from a start below the frozen source model: virtual tokens move the pixels")
    raise AssertionError(f"points above the frozen model at rates {rates}: {scores}")
