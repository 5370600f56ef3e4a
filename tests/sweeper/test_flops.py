"""FLOPs, against numbers worked out by hand; and that counting changes nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sweeper import train, trial
from sweeper.flops import FlopCounter
from sweeper.models.tiny_transformer import Attention
from sweeper.spec import TrialResult
from tests import small

# MLP 64-64-64-32 + head 10: a multiplication and an addition for each weight.
MLP = 2 * (64 * 64 + 64 * 64 + 64 * 32 + 32 * 10)
# 6 steps of 16 rows out of 40: 16, 16, 8 and once more.
ROWS = 80


def count(run: Any) -> int:
    with FlopCounter() as counter:
        run()
    return counter.get_total_flops()


def rows_of(*hparams: dict[str, Any], strategy: str = "full", model: str = "mlp") -> list[TrialResult]:
    rows = trial.run_pack([replace(small.spec(strategy, **own), model=model) for own in hparams], {})
    assert not [row.error for row in rows if row.error]
    return rows


def test_full_fine_tuning_of_the_mlp() -> None:
    (row,) = rows_of({})
    # Forward; gradients of all weights; gradients of all layers' inputs but the first's.
    assert row.metrics["train_flops"] == ROWS * (MLP + MLP + (MLP - 2 * 64 * 64))
    assert row.metrics["inference_flops"] == row.context["base_inference_flops"] == MLP


def test_a_frozen_backbone_has_no_backward_pass_and_a_member_has_its_share() -> None:
    rows = rows_of({"lr": 1e-2}, {"lr": 1e-3}, strategy="feature_extraction")
    assert [row.metrics["train_flops"] for row in rows] == [ROWS * (MLP + 2 * 32 * 10)] * 2


def test_stages_are_counted_each_for_itself() -> None:
    (row,) = rows_of({}, strategy="probe_then_full")  # 3 steps of 16, 16 and 8 rows each
    head, full = MLP + 2 * 32 * 10, 3 * MLP - 2 * 64 * 64
    assert row.metrics["train_flops"] == 40 * (head + full)


def test_what_merges_costs_nothing_and_what_stays_does_whatever_its_pack() -> None:
    (lora,) = rows_of({"rank": 8}, strategy="lora")
    assert lora.metrics["inference_flops"] == MLP
    assert lora.metrics["train_flops"] > ROWS * 2 * MLP
    sizes = (2, 8)
    for pack in ([{"bottleneck": 2}], [{"bottleneck": size} for size in sizes]):
        for row, size in zip(rows_of(*pack, strategy="adapter"), sizes, strict=False):
            assert row.metrics["inference_flops"] == MLP + 2 * 2 * size * (64 + 64 + 32)
            assert row.context["base_inference_flops"] == MLP


def test_attention_on_a_cpu_is_counted() -> None:
    rows, tokens, width = 2, 6, 32
    attention, x = Attention(width, 4), torch.randn(rows, tokens, width, requires_grad=True)
    projections, product = 4 * 2 * rows * tokens * width**2, 2 * rows * tokens**2 * width
    assert count(lambda: attention(x)) == projections + 2 * product
    with torch.inference_mode():
        assert count(lambda: attention(x)) == projections + 2 * product
    # Backward: both gradients of each projection; the scores again, and two gradients of each of the two products.
    assert count(lambda: attention(x).sum().backward()) == 3 * projections + (2 + 5) * product


def test_the_gradient_of_a_grouped_convolution_costs_what_its_output_costs() -> None:
    x, weight = torch.randn(2, 6, 8, 8, requires_grad=True), torch.randn(12, 2, 3, 3, requires_grad=True)
    forward = 2 * (2 * 12 * 8 * 8) * (2 * 3 * 3)  # outputs x weights that each sees
    assert count(lambda: F.conv2d(x, weight, padding=1, groups=3)) == forward
    assert count(lambda: F.conv2d(x, weight, padding=1, groups=3).sum().backward()) == 3 * forward
    frozen = x.detach()
    assert count(lambda: F.conv2d(frozen, weight, padding=1, groups=3).sum().backward()) == 2 * forward


def test_members_as_groups_of_one_convolution_cost_what_they_cost_alone() -> None:
    (alone,) = rows_of({"lr": 1e-2}, model="small_cnn")
    pack = rows_of({"lr": 1e-2}, {"lr": 1e-3}, {"lr": 1e-4}, model="small_cnn")
    assert {row.metrics["train_flops"] for row in pack} == {alone.metrics["train_flops"]}


def test_fast_paths_of_torch_count_as_the_slow_ones() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    x = torch.randn(2, 6, 32)
    with torch.inference_mode():
        for run in (lambda: layer(x), lambda: layer.self_attn(x, x, x, need_weights=False)):
            fast = count(run)
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                assert fast == count(run) > 0
            finally:
                torch.backends.mha.set_fastpath_enabled(True)


class NoCounter(contextlib.nullcontext[None]):
    def get_total_flops(self) -> int:
        return 0


class SlowCounter(FlopCounter):
    def __enter__(self) -> FlopCounter:
        time.sleep(0.5)
        return super().__enter__()


@pytest.mark.parametrize("model", ["small_cnn", "tiny_transformer"])
@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_counting_changes_no_bit(model: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, _ = small.train_some(model, strategy, [0, 1], [0, 1])
    monkeypatch.setattr(train, "FlopCounter", NoCounter)
    plain, _ = small.train_some(model, strategy, [0, 1], [0, 1])
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, counted.network.state_dict()[name]), name


def test_counting_is_not_in_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "FlopCounter", SlowCounter)
    _, (trained,) = small.train_some("mlp", "probe_then_full", [0], [0])
    assert trained.train_seconds < 0.5
    assert trained.curve[-1]["seconds"] == trained.train_seconds


def test_counting_does_not_import_a_compiler() -> None:
    program = (
        "import sys, torch; from sweeper.flops import FlopCounter\n"
        "with FlopCounter() as counter: torch.ones(2, 3) @ torch.ones(3, 4)\n"
        "print(counter.get_total_flops(), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["48", "False"], done.stderr
