"""What ``axolotl train FILE`` takes: supervised fine-tuning of a language model."""

from __future__ import annotations

from typing import Any

from advisor.emit.job import EPOCHS, LOW_RANK, WARMUP, Job, header, modules, require, to_yaml, whole


def emit(job: Job) -> str:
    """Return the YAML."""
    settings = dict.fromkeys(("rank", "alpha", "targets", "dropout", "dora", "b_rate"))
    known = {**settings, "scaling": ("rslora",), "init": ("pissa",), "double_quant": None}
    require(job, "axolotl", ("full", *LOW_RANK), known)
    at_once, summed = job.rows
    # Rows are put as they are: without a frame, the label follows its text.
    form = {
        "field_instruction": job.text or "prompt",
        "field_output": job.label or "completion",
        "format": "{instruction}",
        "no_input_format": "{instruction}",
    }
    content: dict[str, Any] = {
        "base_model": job.model or "YOUR_MODEL",
        "datasets": [{"path": job.data or "YOUR_DATA.csv", "ds_type": "csv", "type": form}],
        "output_dir": "adapted",
        "sequence_len": job.tokens,
        "learning_rate": job.lr,
        "lr_scheduler": "linear",
        "warmup_ratio": WARMUP,
        "weight_decay": job.weight_decay,
        "optimizer": "adamw_torch",
        "micro_batch_size": at_once,
        "gradient_accumulation_steps": summed,
        "gradient_checkpointing": job.checkpointing,
        "bf16": job.bf16,
    }
    if "steps" in job.settings:
        content["max_steps"] = job.settings["steps"]
    else:
        content["num_epochs"] = job.settings.get("epochs", EPOCHS)
    if job.strategy in LOW_RANK:
        targets = modules(job)
        content |= {
            "adapter": job.strategy,
            "lora_r": job.settings["rank"],
            "lora_alpha": whole(job, "alpha"),
            "lora_dropout": job.settings.get("dropout", 0.0),
            **({"lora_target_linear": True} if targets is None else {"lora_target_modules": targets}),
        }
    if job.strategy == "qlora":
        double = bool(job.settings.get("double_quant", True))
        content |= {"load_in_4bit": True, "bnb_config_kwargs": {"bnb_4bit_use_double_quant": double}}
    if job.own.get("dora"):
        content["peft_use_dora"] = True
    if "scaling" in job.own:
        content["peft_use_rslora"] = True
    if "init" in job.own:
        content["peft_init_lora_weights"] = job.own["init"]
    if "b_rate" in job.own:
        content["loraplus_lr_ratio"] = job.own["b_rate"]
    todo = [
        "" if job.model else "base_model, a folder or a name on the Hub",
        "" if job.data else "datasets, a CSV with the columns prompt and completion",
    ]
    return header(job, "axolotl train FILE", *todo) + to_yaml(content)
