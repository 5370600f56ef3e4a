"""A pack on a GPU gives what it gives on a CPU, but for rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from sweeper import trial
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.strategies import STRATEGIES
from tests import small

pytestmark = pytest.mark.gpu


def on_both(
    specs: Sequence[TrialSpec], monkeypatch: pytest.MonkeyPatch, judge: trial.Judge | None = None
) -> list[tuple[TrialResult, TrialResult]]:
    on_gpu = trial.run_pack(specs, {}, judge=judge)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = trial.run_pack(specs, {}, judge=judge)
    return list(zip(on_gpu, on_cpu, strict=True))


@pytest.mark.parametrize("model", small.LEFT_OUT)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pack_trains_on_a_gpu(model: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if strategy in small.LEFT_OUT[model]:
        pytest.skip("makes no sense together")
    # What is dropped is drawn where the activations are: another draw on each kind of device.
    members = [{**member, "dropout": 0.0} if "dropout" in member else member for member in small.MEMBERS[strategy]]
    specs = [
        replace(small.spec(strategy, lr=lr, **member), model=model)
        for lr, member in zip((1e-3, 1e-2, 3e-3), members, strict=True)
    ]
    for gpu, cpu in on_both(specs, monkeypatch):
        assert gpu.status is Status.COMPLETE, gpu.error
        assert gpu.context["device"] == "cuda"
        assert gpu.context["memory_kind"] == "device"
        assert gpu.metrics["valid_score"] == pytest.approx(cpu.metrics["valid_score"], abs=0.02)
        assert gpu.metrics["train_loss"] == pytest.approx(cpu.metrics["train_loss"], rel=0.01)
        for name in ("train_flops", "inference_flops", "trainable_params", "saved_bytes", "kept_blocks"):
            assert gpu.metrics[name] == cpu.metrics[name], name


@pytest.mark.parametrize("strategy", ["full", "lora", "adapter"])
def test_a_member_leaves_on_a_gpu(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [small.spec(strategy, lr=lr) for lr in (1e-3, 1e-2, 3e-3)]

    def judge(step: int, some: Sequence[TrialSpec], scores: Sequence[float]) -> Mapping[str, str]:
        return {specs[1].trial_id: "no reason"} if step >= 3 else {}

    pairs = on_both(specs, monkeypatch, judge)
    assert [gpu.status for gpu, _ in pairs] == [Status.COMPLETE, Status.PRUNED, Status.COMPLETE]
    for gpu, cpu in pairs:
        assert gpu.metrics["valid_score"] == pytest.approx(cpu.metrics["valid_score"], abs=0.02)
