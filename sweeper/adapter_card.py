"""The model card of an adapter: a README that says what it is and how to use it, as the Hub reads it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sweeper.adapter_facts import Facts

IN_SWEEPER = """```
sweeper adapters load FOLDER        its score on the test rows of its task
sweeper predict FOLDER "an input"   its answer
sweeper serve FOLDER                its answers over HTTP
```"""
IN_PEFT = """```python
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained({base!r}{classes})
model = PeftModel.from_pretrained(base, "FOLDER")
```"""
IN_TRANSFORMERS = """```python
from transformers import {auto}

model = {auto}.from_pretrained("FOLDER")
```"""
# peft's task type -> the class of transformers.
AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}


def card(facts: Facts, tensors: Mapping[str, Tensor], config: Mapping[str, Any], task_type: str = "") -> str:
    """Return the card as Markdown.

    Args:
        facts: About the adapter.
        tensors: Those of the folder.
        config: Its configuration, where that is peft's.
        task_type: What a network of transformers does, where the folder holds a whole one: peft's name for it.
    """
    head: dict[str, Any] = {"library_name": "peft" if facts.layout == "peft" else "transformers"}
    if facts.layout == "parameters" or (facts.layout == "model" and not task_type):
        head = {"library_name": "sweeper-advisor"}
    if config.get("base_model_name_or_path") and not Path(config["base_model_name_or_path"]).exists():
        head["base_model"] = config["base_model_name_or_path"]
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    what = "The whole network" if facts.layout == "model" else "An adapter"
    lines += [f"# {facts.strategy} on {facts.base}", "", f"{what}, fine-tuned by `{facts.strategy}`.", ""]
    table: dict[str, Any] = {"base model": facts.base, "base fingerprint": facts.fingerprint}
    trial = facts.trial
    if trial is not None:
        table |= {"task": trial.task, "training rows": trial.n_train, "seed": trial.seed, "trial": trial.trial_id}
        table |= {"learning rate": trial.train.lr, "steps": trial.train.steps, "batch size": trial.train.batch_size}
    table |= {f"{facts.strategy}.{name}": value for name, value in facts.hparams.items()}
    table |= {"numbers in this folder": f"{sum(t.numel() for t in tensors.values()):,}"}
    table |= {name.replace("_", " "): f"{value:.4g}" for name, value in facts.scores.items() if name.endswith("_score")}
    lines += ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in table.items()), ""]
    lines += ["## Use", "", "Here:", "", IN_SWEEPER, ""]
    if facts.layout == "peft":
        heads = [len(t) for name, t in tensors.items() if name.endswith(("classifier.weight", "score.weight"))]
        classes = f", num_labels={heads[0]}" if heads else ""
        base = config.get("base_model_name_or_path") or "BASE"
        lines += ["In peft:", "", IN_PEFT.format(auto=AUTO[config["task_type"]], base=base, classes=classes), ""]
    elif task_type:
        lines += ["In transformers:", "", IN_TRANSFORMERS.format(auto=AUTO[task_type]), ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
