"""Memory and time of a strategy on a model: a formula for each part, corrected by what was measured.

`python -m advisor.fit_costs` learns the correction, and says how far the estimates are from rows that it left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from advisor.devices import Device, find_device
from advisor.shapes import ModelShape
from advisor.trainable import Trained, is_known, shared, trained

PACKAGED = Path(__file__).with_name("costs.json")
CONTEXT = 0.82e9
"""Bytes of the CUDA context and libraries' kernels beside torch's own memory: 0.80 to 0.82 GB on an H200."""
GENERATES = ("causal", "encoder_decoder")


@dataclass(frozen=True)
class Precision:
    """Bytes of a value.

    Attributes:
        blocks: Of the weights of the blocks' linears.
        rest: Of all other weights.
        compute: Of activations.
        state: Of gradients and optimizer states of the model's own weights.
        casts: Whether weights are copied to the type of the activations as they are used.
    """

    blocks: float
    rest: float
    compute: float
    state: float
    casts: bool = False


# 4 bits with a float32 scale for each 64 weights, whose scales are quantised again to 8 bits in blocks of 256
# (QLoRA, arXiv 2305.14314, section 3): 0.127 bits a weight. 8 bits with a scale a row (arXiv 2208.07339).
PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision(4, 4, 4, 4),
    "mixed": Precision(4, 4, 2, 4, casts=True),
    "bf16": Precision(2, 2, 2, 2),
    "8bit": Precision(1.01, 2, 2, 2, casts=True),
    "4bit": Precision(0.5 + 0.127 / 8, 2, 2, 2, casts=True),
}


@dataclass(frozen=True)
class Interval:
    """An estimate; what was measured of 9 in 10 methods that were left out lies from low to high."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Costs:
    """What a strategy costs on a model.

    Attributes:
        memory_bytes: What the device must have at the worst moment of a step.
        parts: The same by what it is for, before the correction; two moments, of which the worse counts.
        adapter_bytes: What must be kept on disk for a task, in the type it trains in.
        flops_per_step: A multiplication and an addition counted as two.
        traffic: Bytes of weights, gradients and optimizer states that a step moves.
        known: Whether the strategy has formulas of its own here; others are taken for methods like LoRA.
        layers: Blocks, times the passes through them; ``attached`` linears that something stands beside, likewise.
    """

    memory_bytes: Interval
    parts: Mapping[str, float]
    trainable_params: int
    adapter_bytes: int
    flops_per_step: float
    traffic: float
    layers: float
    attached: float
    precision: str
    known: bool


def estimate(
    strategy: str,
    hparams: Mapping[str, Any],
    shape: ModelShape,
    batch_size: int,
    seq_len: int,
    precision: str = "bf16",
    checkpointing: bool = False,
) -> Costs:
    """Return what a strategy costs with AdamW.

    Args:
        strategy: A strategy of the sweeper, or a method of peft.
        hparams: By the sweeper's names or peft's; ``optimizer`` may be "adamw8bit".
        shape: The model.
        batch_size: Rows of a step.
        seq_len: Tokens of a row; of images what the model makes of them, if it says so.
        precision: "fp32"; "mixed" (float32 weights, bfloat16 activations); "bf16" (all of the model, what is added in
            float32, as in peft); "8bit" or "4bit" (frozen weights, the rest as under bf16).
        checkpointing: Whether activations are computed again, block by block, instead of kept.

    Raises:
        ValueError: no such precision, or one in which the strategy's weights do not train.
    """
    if strategy == "qlora" and precision != "8bit":
        precision = "4bit"
    if precision not in PRECISIONS:
        raise ValueError(f"no precision named {precision!r:.50}. Available: {', '.join(PRECISIONS)}")
    if batch_size < 1 or seq_len < 1:
        raise ValueError(f"batch size and sequence length must be at least 1, got {batch_size} and {seq_len}")
    own = trained(strategy, hparams, shape)
    if own.weights and precision in ("4bit", "8bit"):
        raise ValueError(f"{strategy} trains weights that {precision} keeps frozen: choose bf16, or qlora")
    parts = memory_parts(own, hparams, shape, batch_size, seq_len, precision, checkpointing)
    if checkpointing:  # it pays for no strategy that keeps less without it
        without = memory_parts(own, hparams, shape, batch_size, seq_len, precision, False)
        parts = min(parts, without, key=peak)
    mean, known = peak(parts), is_known(strategy)
    low, high = _fitted()["memory"]["known" if known else "others"]
    fixed = parts["weights"] + parts["optimizer"]  # these are counted, not estimated
    weight = 4 if own.added else PRECISIONS[precision].state
    flops, passes = _flops(own, shape, batch_size, seq_len, checkpointing)
    moved = parts["weights"] * passes + 3 * (parts["gradients"] + parts["optimizer"])
    return Costs(
        memory_bytes=Interval(mean, fixed + low * (mean - fixed), fixed + high * (mean - fixed)),
        parts=parts,
        trainable_params=round(own.params),
        adapter_bytes=round(weight * (own.params if own.kept is None else own.kept)),
        flops_per_step=flops,
        traffic=moved,
        layers=shape.layers * passes,
        attached=own.attached * passes,
        precision=precision,
        known=known,
    )


def memory_parts(
    own: Trained,
    hparams: Mapping[str, Any],
    shape: ModelShape,
    batch_size: int,
    seq_len: int,
    precision: str,
    checkpointing: bool,
) -> dict[str, float]:
    """Return bytes by what they are for, uncorrected.

    Activations follow arXiv 2205.05198, section 4.1: a block of GPT-3 keeps 34 bytes for each token and unit of width
    in 16 bits. Of these, linears keep 12 as inputs for their weights' gradients: 2 of query, key and value, 2 of the
    feed-forward's first layer, 8 of its second. Where weights are frozen only the other 22 are kept: what the
    normalisations, attention and the nonlinearity need. What is added keeps its own inputs, in float32 as it trains in
    float32. Attention keeps no scores (flash attention), but for T5 and for grouped queries in float32.
    """
    p = PRECISIONS[precision]
    tokens, compute = batch_size * (seq_len + own.virtual), p.compute
    in_blocks, rest = shape.in_blocks, shape.params - shape.in_blocks
    added, base = 4 * own.added, p.state * own.base
    moments = 0.5 if hparams.get("optimizer") == "adamw8bit" else 2  # one byte each, or as the gradient
    norm = 4 if shape.rms or p.casts else compute
    kept = norm * shape.norms * shape.hidden + 4 * compute * shape.attention + compute * shape.inner_kept * shape.inner
    if not shape.rms and shape.kind != "image":
        kept += 2 * shape.hidden * shape.layers  # masks of two dropouts
    kept *= own.reach
    kept += own.weights * compute * max(0.0, shared(shape.linears) - shape.attention)
    if own.norms and shape.rms:
        kept += compute * shape.norms * shape.hidden * own.reach
    scores = 0.0
    if shape.writes_scores or (compute == 4 and shape.kv * shape.layers < 0.99 * shape.attention):
        scores = (5 + compute) * shape.heads * (seq_len + own.virtual) * shape.layers * own.reach
        scores *= 1.5 if shape.writes_scores else 4 / (5 + compute)  # T5's decoder attends twice
    activations = tokens * (kept + scores)
    extra = tokens * ((4 * own.inputs if compute < 4 else 4 * own.shared) + 4 * own.outputs)
    extra += own.prefix * batch_size * shape.layers * compute * 2 * (shape.kv + shape.hidden)
    dense, cast = 4 * (own.dense + own.forming), 0.0
    if p.casts:  # 4-bit weights are expanded one at a time, others kept for backward
        most = max((lin.inputs * lin.outputs for lin in shape.linears), default=0)
        cast = min(2 * most, (2 - p.blocks) * in_blocks) if p.blocks < 2 else 2 * in_blocks * own.reach
    again = 0.0
    if checkpointing:
        block = largest_block(shape)
        again = tokens * compute * shape.hidden * shape.layers * own.reach + activations * block
        activations, extra, dense = 0.0, extra * block, 4 * (own.dense_block + own.forming)
        cast = cast if p.blocks < 2 else cast * block
    generates = shape.kind in GENERATES
    return {
        "weights": p.blocks * in_blocks + p.rest * rest + added + 4 * own.stored,
        "optimizer": moments * (base + added),
        "gradients": base + added,
        "update": base + added,  # torch's AdamW makes one copy of all moments to divide by
        "activations": activations,
        "checkpoints": again,
        "adapters": extra,
        "formed": dense,
        "logits": 12 * tokens * shape.vocab if generates else 0.0,  # and their log-probabilities and gradient, float32
        "casts": cast,
        "head": p.state * shape.vocab * shape.hidden if generates and own.base >= shape.params else 0.0,
    }


def largest_block(shape: ModelShape) -> float:
    """Return the share of all activations that the largest block has; FLUX has blocks of two kinds."""
    joint = sum(linear.count for linear in shape.linears if linear.role == "joint_out")
    if not joint or joint >= shape.layers:
        return 1 / shape.layers
    total = sum(linear.outputs * linear.count for linear in shape.linears)
    single = sum(linear.outputs * linear.count for linear in shape.linears if linear.role.startswith("joint"))
    return max(single / joint, (total - single) / (shape.layers - joint)) / total


BACKWARD = ("activations", "checkpoints", "adapters", "formed", "logits", "casts", "head")
UPDATE = ("gradients", "update")


def peak(parts: Mapping[str, float], factors: Mapping[str, float] | None = None) -> float:
    """Return the bytes at the worse of two moments: backward at the loss, and the optimizer's update after it.

    What one moment leaves in torch's allocator does not all serve the other, so that both count where they are near.
    """
    own = _fitted()["memory"]["coefficients"] if factors is None else factors
    backward, update = (sum(own.get(name, 1.0) * parts[name] for name in names) for names in (BACKWARD, UPDATE))
    return float(parts["weights"] + parts["optimizer"] + worse(backward, update) + own.get("runtime", 0.0) + CONTEXT)


def worse(backward: Any, update: Any) -> Any:
    """Return the larger of two numbers or arrays, more where they are near: the cube root of the sum of their cubes."""
    return (backward**3 + update**3) ** (1 / 3)


def _flops(own: Trained, shape: ModelShape, batch_size: int, seq_len: int, checkpointing: bool) -> tuple[float, float]:
    """Return the FLOPs of a step, and how many times weights are passed through.

    2 a weight and token forwards, as many for the gradient of what went in, as many for the weight's own (Kaplan et
    al., arXiv 2001.08361, section 2.1): 6 where all trains, 4 where a frozen base lies above what trains, 2 where
    nothing does.
    """
    length = seq_len + own.virtual
    tokens = batch_size * length
    generates = shape.kind in GENERATES
    blocks = 2 * shape.in_blocks + 4 * (length + own.prefix) * shape.attention
    out = 2 * shape.vocab * shape.hidden if generates else 0.0
    forward = blocks + out
    backward = own.reach * blocks + (out if own.reach or own.base else 0)
    weights = own.weights * 2 * shape.in_blocks + (out if generates and own.base >= shape.vocab * shape.hidden else 0)
    again = blocks if checkpointing and own.reach else 0.0
    adapters = 6 * own.added if not own.virtual and not own.prefix else 0.0
    total = tokens * (forward + backward + weights + again + adapters)
    return total, 1 + own.reach + (1 if again else 0)


def seconds(costs: Costs, steps: float, device: Device | str) -> Interval:
    """Return how long so many steps take on a device, evaluation and loading left out.

    Arithmetic at a share of the device's peak, weights and optimizer states at a share of its bandwidth, and a time to
    launch each block, one after the other; the three are learned.
    """
    device = find_device(device) if isinstance(device, str) else device
    time = _fitted()["cpu" if device.name == "cpu" else "time"]
    mean = steps * sum(time["coefficients"].get(name, 0.0) * own for name, own in time_parts(costs, device).items())
    low, high = time["known" if costs.known else "others"]
    return Interval(mean, mean * low, mean * high)


def time_parts(costs: Costs, device: Device) -> dict[str, float]:
    """Return the seconds of a step at a device's best, by what bounds it; "launch" and "attached" count passes."""
    peak_flops = device.float_flops if costs.precision == "fp32" else device.half_flops
    return {
        "arithmetic": costs.flops_per_step / peak_flops,
        "memory": costs.traffic / device.bandwidth,
        "launch": costs.layers,
        "attached": costs.attached,
    }


@lru_cache
def _fitted() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PACKAGED.read_text(encoding="utf-8"))
    return found
