"""Measured memory and time, with what the formulas say of them: peft's published tables, and runs of our own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from advisor.configs import from_config
from advisor.costs import Costs, estimate
from advisor.devices import DEVICES, Device, find_device
from advisor.shapes import ModelShape
from advisor.trainable import is_known, trained


@dataclass(frozen=True)
class Experiment:
    """What peft's ``method_comparison`` fixes for a model (its ``default_training_params.json`` and model's config).

    Attributes:
        longest: Tokens of the longest rows, which decide the memory (``max_seq_length``; of images 32 x 32 latents and
            512 tokens of text).
        mean: Tokens of a row on average, which decide the time ("train total tokens": 4,198,051 of 20,000 rows).
        targets: Roles where methods attach, as the experiments' own files say.
    """

    shape: ModelShape
    longest: int
    mean: int
    targets: str


LLAMA = {
    "model_type": "llama",
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
FLUX = {
    "num_layers": 5,
    "num_single_layers": 20,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "in_channels": 128,
    "joint_attention_dim": 7680,
    "mlp_ratio": 3.0,
}
EXPERIMENTS: Mapping[str, Experiment] = {
    "meta-llama/Llama-3.2-3B": Experiment(from_config(LLAMA), 768, 210, "query+value"),
    "black-forest-labs/FLUX.2-klein-base-4B": Experiment(
        from_config(FLUX), 1536, 1536, "query+key+value+attn_out+mlp_in+mlp_out+joint_in"
    ),
}


@dataclass(frozen=True)
class Row:
    """One measurement with the formulas' parts.

    Attributes:
        method: What is left out together.
        memory: Measured bytes that torch's allocator took; the device holds `CONTEXT` beside them.
        seconds: Measured, of a step.
        beside: Name of a time that the source's clock includes and that is no training, a run's share a step.
    """

    source: str
    model: str
    method: str
    memory: float
    seconds: float
    costs: Costs
    device: Device
    beside: Mapping[str, float] = field(default_factory=dict)


def read(folder: Path, plain: bool = False) -> list[Row]:
    """Return the rows of ``cited/peft.csv`` and of ``costs/*.csv`` in a store's folder.

    Args:
        folder: The store.
        plain: Whether methods without a rule of their own are all taken for LoRA.
    """
    return [
        *_published(folder / "cited" / "peft.csv", plain),
        *(row for f in sorted(folder.glob("costs/*.csv")) for row in _own(f)),
    ]


def _published(file: Path, plain: bool) -> Iterable[Row]:
    for cells in _cells(file):
        own = EXPERIMENTS[cells["backbone"]]
        # A zero is peft's "not used"; what a method trains is given, for not every method's rule is known here.
        given = {name: value for name, value in json.loads(cells["hparams"]).items() if value not in (0, None)}
        hparams = {**given, "targets": own.targets, "trainable_params": float(cells["trainable_params"])}
        if "target-mlp" in given["experiment"] or "-mlp-" in given["experiment"]:
            hparams["targets"] = "mlp_in+mlp_out"
        if cells["strategy"] in ("ia3", "beft"):
            hparams["targets"] = {"ia3": "key+value+mlp_out", "beft": "value"}[cells["strategy"]]
        strategy = "any" if plain and not is_known(cells["strategy"]) else cells["strategy"]
        call = (strategy, hparams, own.shape, given["batch_size"])
        checkpointing = bool(given.get("gradient_checkpointing"))
        at_most, mean = (estimate(*call, tokens, "bf16", checkpointing) for tokens in (own.longest, own.mean))
        yield Row(
            source="peft",
            model=cells["backbone"].split("/")[1],
            method=cells["strategy"],
            memory=float(cells["peak_memory_bytes"]),
            seconds=float(cells["train_seconds"]) / given["steps"],
            costs=replace(at_most, flops_per_step=mean.flops_per_step),
            device=find_device("l40s"),
            beside={cells["backbone"]: 1 / given["steps"]},  # the test after training
        )


def _own(file: Path) -> Iterable[Row]:
    for cells in _cells(file):
        shape = from_config(json.loads(cells["config"]), cells["model"])
        hparams = json.loads(cells["hparams"])
        count = trained(cells["strategy"], hparams, shape).params
        if abs(count - float(cells["trainable_params"])) > 0.01 * count:
            continue  # the last block of a language model without its head: no strategy of ours
        costs = estimate(
            cells["strategy"],
            hparams,
            shape,
            int(cells["batch_size"]),
            int(cells["seq_len"]),
            cells["precision"],
            cells["checkpointing"] == "True",
        )
        device = next(own for own in DEVICES.values() if own.name in cells["device"].lower())
        memory, time = float(cells["peak_memory_bytes"]), float(cells["step_seconds"])
        yield Row("own", cells["model"], cells["strategy"], memory, time, costs, device)


def _cells(file: Path) -> Iterable[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)
