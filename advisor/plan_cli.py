"""The command ``advisor plan``: what fits on a device, how long it takes, and what to change where it does not fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from advisor.costs import Interval
from advisor.devices import DEVICES, find_device
from advisor.model_files import read
from advisor.plan import Choice, Setup, plan
from advisor.shapes import from_count
from advisor.situation import parse_bytes, parse_count
from sweeper.printing import format_option, print_json, size_in_words

GB = 1e9


@click.command("plan")
@click.option("--model-params", metavar="N", help="Parameters of a typical model: 7B, 350M.")
@click.option("--model", metavar="PATH", help="config.json, safetensors file, its index, or the folder of a model.")
@click.option("--modality", type=click.Choice(["text", "image"]), default="text", help="With --model-params.")
@click.option("--gpu-memory", metavar="SIZE", help="Memory of the device: 16GB, 24GiB. [default: the device's]")
@click.option("--device", metavar="NAME", help=f"For memory and time: {', '.join(DEVICES)}.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Rows of a step.")
@click.option("--seq-len", type=click.IntRange(1), help="Tokens of the longest rows. [default: 512; an image's own]")
@click.option("--n-train", type=click.IntRange(1), help="Training rows, for the time.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), default=3.0, show_default=True, help="Of --n-train.")
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps. [default: from --n-train, else 1000]")
@click.option("--checkpointing", is_flag=True, help="Compute activations again instead of keeping them.")
@format_option
def plan_command(
    model_params: str | None,
    model: str | None,
    modality: str,
    gpu_memory: str | None,
    device: str | None,
    batch_size: int,
    seq_len: int | None,
    n_train: int | None,
    epochs: float,
    steps: int | None,
    checkpointing: bool,
    form: str,
) -> None:
    """Say which strategies fit in a device's memory, with how many trained parameters, and how long they take.

    \b
    advisor plan --model-params 7B --gpu-memory 24GB
    advisor plan --model path/to/model --device l40s --batch-size 4 --seq-len 768 --n-train 20000 --epochs 1
    """
    if (model_params is None) == (model is None):
        raise ValueError("name the model by either --model-params or --model")
    if gpu_memory is None and device is None:
        raise ValueError(f"say on what: --gpu-memory SIZE, or --device with one of {', '.join(DEVICES)}")
    shape = read(model) if model is not None else from_count(parse_count(model_params or ""), modality == "image")
    on = find_device(device) if device is not None else None
    own_steps = steps or (math.ceil(n_train / batch_size * epochs) if n_train else 1_000)
    setup = Setup(
        shape=shape,
        memory=parse_bytes(gpu_memory) if gpu_memory is not None else on.memory if on else 0,
        batch_size=batch_size,
        seq_len=seq_len or shape.tokens or 512,
        steps=own_steps,
        checkpointing=checkpointing,
        device=on,
    )
    choices, left_out = plan(setup)
    if form == "json":
        print_json(_as_json(setup, choices, left_out))
        return
    click.echo(_described(setup))
    for line in _table(choices, setup):
        click.echo(line.rstrip())
    click.echo("\nMemory and time with 90 % intervals; fits: the upper end does; tight: the estimate does.")
    for line in _ways_out(choices):
        click.echo(line)
    for reason in left_out:
        click.echo(f"Left out: {reason}")


def _described(setup: Setup) -> str:
    shape, on = setup.shape, f" on {setup.device.name}" if setup.device else ""
    vocabulary = f", vocabulary {shape.vocab:,.0f}" if shape.vocab else ""
    return (
        f"{shape.params:,.0f} parameters ({shape.said_by}): {shape.layers:.0f} blocks, {shape.hidden:,.0f} wide"
        f"{vocabulary}\n{setup.memory / GB:.1f} GB{on}; batch {setup.batch_size} x {setup.seq_len} tokens, AdamW"
        f"{', checkpointing' if setup.checkpointing else ''}; {setup.steps:,} steps"
    )


def _table(choices: list[Choice], setup: Setup) -> list[str]:
    rows = [["strategy", "precision", "memory, GB", "trainable", "on disk", *(["time"] if setup.device else []), ""]]
    for own in choices:
        time = [_duration(own.time)] if own.time else []
        costs = own.costs
        sizes = [f"{costs.trainable_params:,}", size_in_words(costs.adapter_bytes)]
        rows.append([own.strategy, own.precision, _gb(costs.memory_bytes), *sizes, *time, own.verdict])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    left = {0, 1, len(widths) - 1}
    return [
        " "
        + "  ".join(
            cell.ljust(w) if k in left else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _ways_out(choices: list[Choice]) -> Iterator[str]:
    """Yield what would make fit what does not, and in one line what nothing helps."""
    others = [own for own in choices if own.verdict != "fits"]
    for own in others:
        if own.ways_out:
            ways = "; ".join(f"{what}: {_gb(memory)} GB" for what, memory in own.ways_out)
            yield f"{own.strategy}, {own.precision}, fits with {ways}"
    never = ", ".join(f"{own.strategy} {own.precision}" for own in others if not own.ways_out)
    if never:
        yield f"Takes a smaller model or a larger device: {never}"


def _gb(memory: Interval) -> str:
    return f"{memory.mean / GB:.1f} ({memory.low / GB:.1f} to {memory.high / GB:.1f})"


def _duration(time: Interval) -> str:
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if time.mean >= s), ("s", 1))
    return f"{time.mean / size:.1f} ({time.low / size:.1f} to {time.high / size:.1f}) {unit}"


def _as_json(setup: Setup, choices: list[Choice], left_out: list[str]) -> dict[str, Any]:
    shape = setup.shape
    return {
        "model": {
            "params": round(shape.params),
            "said_by": shape.said_by,
            "layers": shape.layers,
            "hidden": shape.hidden,
            "vocab": shape.vocab,
        },
        "memory_bytes": setup.memory,
        "device": setup.device.name if setup.device else None,
        "batch_size": setup.batch_size,
        "seq_len": setup.seq_len,
        "steps": setup.steps,
        "checkpointing": setup.checkpointing,
        "choices": [
            {
                "strategy": own.strategy,
                "precision": own.precision,
                "settings": dict(own.settings),
                "verdict": own.verdict,
                "memory_bytes": asdict(own.costs.memory_bytes),
                "trainable_params": own.costs.trainable_params,
                "adapter_bytes": own.costs.adapter_bytes,
                "flops_per_step": own.costs.flops_per_step,
                "seconds": asdict(own.time) if own.time else None,
                "ways_out": [{"change": what, "memory_bytes": asdict(memory)} for what, memory in own.ways_out],
            }
            for own in choices
        ],
        "left_out": left_out,
    }
