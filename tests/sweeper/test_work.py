"""Losses and what is kept of outputs, against torch's own; a pack of regressions against single ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sweeper import trial
from sweeper.spec import Status, TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES, hparams_of
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED, REGRESSION, TAGGING, WORK

RNG = torch.Generator().manual_seed(0)


def test_classification_keeps_class_probability_and_loss() -> None:
    outputs = torch.randn(2, 5, 3, generator=RNG)
    y = torch.randint(3, (2, 5), generator=RNG)
    kept = WORK[CLASSIFICATION].keep(outputs, y)
    for member in range(2):
        loss = F.cross_entropy(outputs[member], y[member])
        torch.testing.assert_close(WORK[CLASSIFICATION].loss(outputs, y)[member], loss)
        torch.testing.assert_close(kept[member, :, 2].mean(), loss)
    assert torch.equal(kept[..., 0], outputs.argmax(-1).float())
    torch.testing.assert_close(kept[..., 1], outputs.softmax(-1).max(-1).values)


@pytest.mark.parametrize("work", [TAGGING, GENERATION])
def test_ignored_tokens_count_for_nothing_and_columns_left_out_are_padding(work: str) -> None:
    outputs = torch.randn(2, 3, 4, 7, generator=RNG)  # 4 of 6 columns: the rest is padding in every row
    y = torch.full((2, 3, 6), IGNORED)
    y[:, :, :3] = torch.randint(7, (2, 3, 3), generator=RNG)
    y[0, 0, 1] = IGNORED
    for member in range(2):
        expected = F.cross_entropy(outputs[member].flatten(0, 1), y[member, :, :4].flatten(), ignore_index=IGNORED)
        torch.testing.assert_close(WORK[work].loss(outputs, y)[member], expected)
    kept = WORK[work].keep(outputs, y)
    assert kept.shape == (2, 3, 6, 2)
    assert torch.equal(kept[:, :, :4, 0], outputs.argmax(-1).float())
    assert not kept[:, :, 4:].any()
    assert not kept[..., 1][y == IGNORED].any()


def test_regression_is_the_mean_squared_error_of_each_member() -> None:
    outputs, y = torch.randn(2, 5, 1, generator=RNG), torch.randn(2, 5, generator=RNG)
    expected = torch.stack([F.mse_loss(outputs[member, :, 0], y[member]) for member in range(2)])
    torch.testing.assert_close(WORK[REGRESSION].loss(outputs, y), expected)
    assert torch.equal(WORK[REGRESSION].keep(outputs, y)[..., :1], outputs)


def test_a_pack_of_regressions_gives_what_they_give_alone_and_errors_are_in_the_targets_unit() -> None:
    specs = [
        TrialSpec("mlp", "diabetes", 60, name, hparams_of(STRATEGIES[name]()), TrainArgs(lr=lr, steps=30), 0)
        for name, lr in (("lora", 3e-3), ("lora", 1e-2))
    ]
    pack = trial.run_pack(specs, {})
    for spec, row in zip(specs, pack, strict=True):
        (alone,) = trial.run_pack([spec], {})
        assert row.status is Status.COMPLETE, row.error
        assert row.metrics["test_score"] == pytest.approx(alone.metrics["test_score"], abs=1e-3)
        assert row.context["work"] == REGRESSION
        # The standard deviation of the target is 77; a model that knows something errs by less.
        assert 30 < row.metrics["test_rmse"] < 75
        assert row.metrics["test_score"] > row.metrics["untouched_test_score"]
