"""What ``trl sft --config FILE`` takes: supervised fine-tuning of a language model."""

from __future__ import annotations

from typing import Any

from advisor.emit.job import EPOCHS, LOW_RANK, WARMUP, Job, header, modules, require, to_yaml, whole


def emit(job: Job) -> str:
    """Return the YAML."""
    settings = dict.fromkeys(("rank", "alpha", "targets", "dropout", "dora"))
    require(job, "trl", ("full", *LOW_RANK), {**settings, "scaling": ("rslora",), "double_quant": None})
    at_once, summed = job.rows
    content: dict[str, Any] = {
        "model_name_or_path": job.model or "YOUR_MODEL",
        "dtype": "bfloat16" if job.bf16 else "float32",
        **({"datasets": [{"path": "csv", "data_files": job.data}]} if job.data else {"dataset_name": "YOUR_DATA"}),
        "output_dir": "adapted",
        "learning_rate": job.lr,
        "lr_scheduler_type": "linear",
        "warmup_steps": WARMUP,  # below 1 it is a share
        "weight_decay": job.weight_decay,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": summed,
        "gradient_checkpointing": job.checkpointing,
        "max_length": job.tokens,
        "bf16": job.bf16,
    }
    if "steps" in job.settings:
        content["max_steps"] = job.settings["steps"]
    else:
        content["num_train_epochs"] = job.settings.get("epochs", EPOCHS)
    if job.strategy in LOW_RANK:
        content |= {
            "use_peft": True,
            "lora_r": job.settings["rank"],
            "lora_alpha": whole(job, "alpha"),
            "lora_dropout": job.settings.get("dropout", 0.0),
            "lora_target_modules": modules(job) or ["all-linear"],
            "use_rslora": job.own.get("scaling") == "rslora",
            "use_dora": bool(job.own.get("dora")),
        }
    if job.strategy == "qlora":
        double = bool(job.settings.get("double_quant", True))
        content |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": double}
    columns = (job.text, job.label)
    renamed = f"name the columns {columns[0]!r} and {columns[1]!r} prompt and completion" if job.data else ""
    todo = [
        "" if job.model else "model_name_or_path, a folder or a name on the Hub",
        renamed if columns != ("prompt", "completion") else "",
        "" if job.data else "dataset_name, rows with prompt and completion, or messages",
    ]
    return header(job, "trl sft --config FILE", *todo) + to_yaml(content)
