"""What fits on a device: every strategy at its default settings, and the way out where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.costs import Costs, Interval, estimate, seconds
from advisor.devices import Device
from advisor.rules import DEFAULTS
from advisor.shapes import ModelShape

STRATEGIES = (
    "full",
    "partial_unfreeze",
    "feature_extraction",
    "lora",
    "qlora",
    "adapter",
    "ia3",
    "norm_tuning",
    "bitfit",
    "prefix_tuning",
    "p_tuning",
    "prompt_tuning",
)
VERDICTS = ("fits", "tight", "does not fit")


@dataclass(frozen=True)
class Setup:
    """How a model is to be trained, and on what.

    Attributes:
        memory: Bytes of the device.
        device: For the time; ``None`` where only its memory is known.
        steps: Optimizer steps.
    """

    shape: ModelShape
    memory: float
    batch_size: int
    seq_len: int
    steps: float
    checkpointing: bool = False
    device: Device | None = None


@dataclass(frozen=True)
class Choice:
    """One line of the plan.

    Attributes:
        verdict: "fits" where even the upper end of the interval does, "tight" where the estimate does.
        ways_out: What would make it fit, with the memory that it then takes.
    """

    strategy: str
    precision: str
    settings: Mapping[str, Any]
    costs: Costs
    time: Interval | None
    verdict: str
    ways_out: Sequence[tuple[str, Interval]]


def plan(setup: Setup, precisions: Sequence[str] = ("bf16", "fp32")) -> tuple[list[Choice], list[str]]:
    """Return the choices, what fits first and of it what trains most; and why strategies are left out."""
    choices, left_out = [], []
    for strategy in STRATEGIES:
        for precision in ("4bit",) if strategy == "qlora" else precisions:
            try:
                choices.append(_choice(strategy, precision, setup))
            except ValueError as error:
                left_out.append(str(error))
    choices.sort(
        key=lambda own: (VERDICTS.index(own.verdict), -own.costs.trainable_params, own.costs.memory_bytes.mean)
    )
    return choices, [*dict.fromkeys(left_out)]


def settings_of(strategy: str) -> Mapping[str, Any]:
    """Return the settings to start from; what is not named there is at the sweeper's own default."""
    found = DEFAULTS.get({"qlora": "lora"}.get(strategy, strategy))
    return {
        name: value for name, value in (found.settings if found else {}).items() if name not in ("batch_size", "epochs")
    }


def verdict(memory: Interval, budget: float) -> str:
    """Return one of `VERDICTS`."""
    return VERDICTS[0 if memory.high <= budget else 1 if memory.mean <= budget else 2]


def _choice(strategy: str, precision: str, setup: Setup) -> Choice:
    settings = settings_of(strategy)
    costs = estimate(strategy, settings, setup.shape, setup.batch_size, setup.seq_len, precision, setup.checkpointing)
    own = verdict(costs.memory_bytes, setup.memory)
    return Choice(
        strategy=strategy,
        precision=precision,
        settings=settings,
        costs=costs,
        time=seconds(costs, setup.steps, setup.device) if setup.device else None,
        verdict=own,
        ways_out=[] if own == "fits" else list(_ways_out(strategy, precision, setup)),
    )


def _ways_out(strategy: str, precision: str, setup: Setup) -> Iterator[tuple[str, Interval]]:
    """Yield what would make it fit, one change before two."""
    settings = settings_of(strategy)
    found = False
    for also in () if setup.checkpointing else (True,):
        memory = _memory(strategy, precision, settings, setup, setup.batch_size, also)
        if memory.high <= setup.memory:
            found = True
            yield "checkpointing", memory
    for checkpointing in {setup.checkpointing: None, True: None}:
        if found and checkpointing != setup.checkpointing:
            break
        batch = setup.batch_size // 2
        while batch >= 1:
            memory = _memory(strategy, precision, settings, setup, batch, checkpointing)
            if memory.high <= setup.memory:
                also_checkpointing = " and checkpointing" if checkpointing and not setup.checkpointing else ""
                found = True
                yield f"batch {batch}{also_checkpointing}", memory
                break
            batch //= 2
    if found:
        return
    for other, instead, what in (
        ("lora", "4bit", "qlora"),
        ("full", precision, "8-bit AdamW, batch 1 and checkpointing"),
    ):
        if strategy == other:
            batch = setup.batch_size if strategy == "lora" else 1
            eased = {**settings, "optimizer": "adamw8bit"} if strategy == "full" else settings
            memory = _memory(strategy, instead, eased, setup, batch, setup.checkpointing or strategy == "full")
            if memory.high <= setup.memory:
                yield what, memory


def _memory(
    strategy: str, precision: str, settings: Mapping[str, Any], setup: Setup, batch: int, checkpointing: bool
) -> Interval:
    return estimate(strategy, settings, setup.shape, batch, setup.seq_len, precision, checkpointing).memory_bytes
