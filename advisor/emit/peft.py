"""``adapter_config.json`` of the library peft."""

from __future__ import annotations

import json
from typing import Any

from advisor.emit.job import CannotSayError, Job, modules, require

PROMPTS = {"prompt_tuning": "PROMPT_TUNING", "p_tuning": "P_TUNING", "prefix_tuning": "PREFIX_TUNING"}
STRATEGIES = ("lora", "qlora", "ia3", "norm_tuning", *PROMPTS)
IA3_TARGETS = "key+value+mlp_out"
"""Which is what peft takes by itself, by the names that each family has for them."""

NORMS = r"(?i).*(norm\d?|ln_\w+)"
"""Layers that normalise, as families call them; peft itself knows of few families."""


def emit(job: Job) -> str:
    """Return the configuration as JSON, which has no place for comments."""
    return json.dumps({"peft_type": None, "task_type": job.task_type, **config(job)}, indent=2) + "\n"


def config(job: Job) -> dict[str, Any]:
    """Return the arguments of peft's configuration, ``peft_type`` among them.

    Raises:
        CannotSayError: peft has no such strategy, or none of its configurations has the setting.
    """
    if job.strategy.startswith("peft:"):
        return {"peft_type": job.strategy.removeprefix("peft:").upper(), **job.own, **_heads(job)}
    if job.strategy in PROMPTS:
        if job.task_type is None:
            raise CannotSayError(f"peft has {job.strategy} for texts only")
        require(job, "peft", STRATEGIES, {"virtual_tokens": None, "hidden": None})
        found = {"peft_type": PROMPTS[job.strategy], "num_virtual_tokens": job.settings["virtual_tokens"]}
        return found | ({"encoder_hidden_size": job.own["hidden"]} if "hidden" in job.own else {})
    if job.strategy == "ia3":
        require(job, "peft", STRATEGIES, {"targets": (IA3_TARGETS,)})
        return {"peft_type": "IA3", **_heads(job)}
    if job.strategy == "norm_tuning":
        require(job, "peft", STRATEGIES, {})
        return {"peft_type": "LN_TUNING", "target_modules": NORMS, **_heads(job)}
    # In 4 bits or not is a matter of how the base is loaded; LoRA+'s second rate one of the optimizer.
    settings = dict.fromkeys(("rank", "alpha", "targets", "dropout", "dora", "double_quant"))
    require(job, "peft", STRATEGIES, {**settings, "scaling": ("rslora",), "init": ("pissa",)})
    return {
        "peft_type": "LORA",
        "r": job.settings["rank"],
        "lora_alpha": job.settings["alpha"],
        "lora_dropout": job.settings.get("dropout", 0.0),
        "target_modules": modules(job) or "all-linear",
        "use_rslora": job.own.get("scaling") == "rslora",
        "use_dora": bool(job.own.get("dora")),
        "init_lora_weights": job.own.get("init", True),
        **_heads(job),
    }


def _heads(job: Job) -> dict[str, Any]:
    """Return what else trains: of images peft does not know the fresh head by itself."""
    return {"modules_to_save": ["classifier"]} if job.task_type is None else {}
