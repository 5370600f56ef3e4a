"""What ``llamafactory-cli train FILE`` takes: supervised fine-tuning of a language model."""

from __future__ import annotations

import json
from typing import Any

from advisor.emit.job import (
    EPOCHS,
    LOW_RANK,
    WARMUP,
    CannotSayError,
    Job,
    header,
    modules,
    require,
    to_yaml,
    whole,
)

DATA = "own_rows"


def emit(job: Job) -> str:
    """Return the YAML."""
    settings = dict.fromkeys(("rank", "alpha", "targets", "dropout", "dora", "b_rate", "blocks"))
    # A lower rate for the blocks than for the head is of no matter where the head is the model's own, and frozen.
    known = {**settings, "scaling": ("rslora",), "init": ("pissa",), "double_quant": None, "backbone_rate": None}
    require(job, "llama-factory", ("full", "partial_unfreeze", *LOW_RANK), known)
    if job.strategy == "qlora" and "init" in job.own:
        raise CannotSayError(f"llama-factory has qlora.init standard only, which is {job.own['init']} here")
    at_once, summed = job.rows
    content: dict[str, Any] = {
        "model_name_or_path": job.model or "YOUR_MODEL",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": {"full": "full", "partial_unfreeze": "freeze"}.get(job.strategy, "lora"),
        "dataset_dir": ".",
        "dataset": DATA,
        "template": "default",
        "cutoff_len": job.tokens,
        "output_dir": "adapted",
        "learning_rate": job.lr,
        "lr_scheduler_type": "linear",
        "warmup_ratio": WARMUP,
        "weight_decay": job.weight_decay,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": summed,
        "bf16": job.bf16,
    }
    if not job.checkpointing:  # on, where nobody says otherwise
        content["disable_gradient_checkpointing"] = True
    if "steps" in job.settings:
        content["max_steps"] = job.settings["steps"]
    else:
        content["num_train_epochs"] = float(job.settings.get("epochs", EPOCHS))
    if job.strategy == "partial_unfreeze":
        content["freeze_trainable_layers"] = job.settings["blocks"]
    if job.strategy in LOW_RANK:
        content |= {
            "lora_rank": job.settings["rank"],
            "lora_alpha": whole(job, "alpha"),
            "lora_dropout": job.settings.get("dropout", 0.0),
            "lora_target": ",".join(modules(job) or ["all"]),
        }
    if job.strategy == "qlora":
        double = bool(job.settings.get("double_quant", True))
        content |= {"quantization_method": "bnb", "quantization_bit": 4, "double_quantization": double}
    for ours, theirs, value in (
        ("dora", "use_dora", True),
        ("scaling", "use_rslora", True),
        ("init", "pissa_init", True),
        ("b_rate", "loraplus_lr_ratio", job.own.get("b_rate")),
    ):
        if ours in job.own:
            content[theirs] = value
    entry = {DATA: {"file_name": job.data or "YOUR_DATA.csv", "columns": _columns(job)}}
    todo = [
        "" if job.model else "model_name_or_path, a folder or a name on the Hub",
        f"put into ./dataset_info.json: {json.dumps(entry)}",
        "template, that of your model where it is for chat",
    ]
    return header(job, "llamafactory-cli train FILE", *todo) + to_yaml(content)


def _columns(job: Job) -> dict[str, str]:
    return {"prompt": job.text or "prompt", "response": job.label or "completion"}
