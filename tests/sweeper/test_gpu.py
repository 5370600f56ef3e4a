"""A pack on a GPU gives what it gives on a CPU, but for rounding."""

from __future__ import annotations

import pytest
import torch

from sweeper import trial
from sweeper.models import MODELS
from sweeper.spec import Status
from sweeper.strategies import STRATEGIES
from tests import small


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pack_trains_on_a_gpu(model: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    specs = [replace(small.spec(strategy, lr=lr), model=model) for lr in (1e-3, 1e-2)]
    on_gpu = trial.run_pack(specs, {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = trial.run_pack(specs, {})
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.status is Status.COMPLETE, gpu.error
        assert gpu.context["device"] == "cuda"
        assert gpu.context["memory_kind"] == "device"
        assert gpu.metrics["valid_score"] == pytest.approx(cpu.metrics["valid_score"], abs=0.02)
