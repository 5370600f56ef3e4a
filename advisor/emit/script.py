"""A training script that stands by itself: transformers, peft, and a plain loop over a CSV of texts and labels."""

from __future__ import annotations

import textwrap
from typing import Any

from advisor.emit.job import EPOCHS, WARMUP, CannotSayError, Job, header, require
from advisor.emit.peft import STRATEGIES as OF_PEFT
from advisor.emit.peft import config

OF_TORCH = ("full", "feature_extraction", "bitfit", "partial_unfreeze")

TEMPLATE = """
import argparse, csv, random
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup{imports}

parser = argparse.ArgumentParser()
for name, default in {options}:
    parser.add_argument(f"--{{name}}", default=default, required=default is None, type=int if name == "steps" else str)
args = parser.parse_args()
random.seed(0), torch.manual_seed(0)
with open(args.data, newline="", encoding="utf-8-sig") as file:
    rows = [(row[args.text], row[args.label]) for row in csv.DictReader(file)]
names = sorted({{label for _, label in rows}})
random.shuffle(rows)
test, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
tokenizer = AutoTokenizer.from_pretrained(args.model)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(names){load})
model.config.pad_token_id = tokenizer.pad_token_id
{adapt}
device = model.to("cuda" if torch.cuda.is_available() else "cpu").device

def read(rows):
    texts = [text for text, _ in rows]
    inputs = tokenizer(texts, truncation=True, max_length={max_tokens}, padding=True, return_tensors="pt").to(device)
    return inputs, torch.tensor([names.index(label) for _, label in rows], device=device)

{groups}
optimizer = torch.optim.AdamW(groups, lr={lr!r}, weight_decay={weight_decay!r})
steps = args.steps or max(1, {epochs} * len(train) // {batch})
rate = get_linear_schedule_with_warmup(optimizer, round({warmup} * steps), steps)
model.train()
for step in range(steps):
{step}
    optimizer.step(), rate.step(), optimizer.zero_grad()
    print(f"step {{step + 1}} of {{steps}}: loss {{loss.item():.3f}}")
model.eval()
with torch.no_grad():
    parts = [read(test[i : i + {at_once}]) for i in range(0, len(test), {at_once})]
    right = sum((model(**inputs).logits.argmax(-1) == labels).sum().item() for inputs, labels in parts)
model.save_pretrained(args.output), tokenizer.save_pretrained(args.output)
print(f"test accuracy {{right / max(1, len(test)):.3f}} on {{len(test)}} rows; saved in {{args.output}}")
"""
STEP = """
inputs, labels = read(random.sample(train, min({at_once}, len(train))))
loss = torch.nn.functional.cross_entropy(model(**inputs).logits.float(), labels)
{backward}"""


def emit(job: Job) -> str:
    """Return the script.

    Raises:
        CannotSayError: it is no work for it, or has no way to say the strategy or a setting.
    """
    if job.situation.modality in ("image", "tabular") or job.work not in (None, "classification"):
        what = job.work if job.work not in (None, "classification") else job.situation.modality
        raise CannotSayError(f"the script classifies texts, and this is {what}")
    groups = "groups = [own for own in model.parameters() if own.requires_grad]"
    imports, load = "", ", dtype=torch.bfloat16" if job.bf16 else ""
    if job.strategy in OF_TORCH:
        adapt, groups = _by_torch(job, groups)
    else:
        require(job, "script", [*OF_PEFT, job.strategy] if job.strategy.startswith("peft:") else OF_PEFT, _any(job))
        own = {**config(job), "task_type": "SEQ_CLS"}
        imports = "\nfrom peft import get_peft_config, get_peft_model"
        adapt = f"model = get_peft_model(model, get_peft_config({own!r}))\nmodel.print_trainable_parameters()"
        if job.strategy == "qlora":
            imports = f", BitsAndBytesConfig{imports}, prepare_model_for_kbit_training"
            double = bool(job.settings.get("double_quant", True))
            bits = f"load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant={double}"
            bits += ", bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=['classifier', 'score']"  # fresh
            load += f",\n    quantization_config=BitsAndBytesConfig({bits})"
            kept = f"use_gradient_checkpointing={job.checkpointing}"
            adapt = f"model = prepare_model_for_kbit_training(model, {kept})\n{adapt}"
    if job.checkpointing and job.strategy != "qlora":
        adapt += "\nmodel.gradient_checkpointing_enable()"
        adapt += "\nmodel.enable_input_require_grads()" if job.strategy not in OF_TORCH else ""
    at_once, summed = job.rows
    options = {"data": job.data, "model": job.model, "text": job.text or "text", "label": job.label or "label"}
    options |= {"steps": job.settings.get("steps", 0), "output": "adapted"}
    body = TEMPLATE.format(
        imports=imports,
        options=[*options.items()],
        load=load,
        adapt=adapt,
        groups=groups,
        lr=job.lr,
        weight_decay=job.weight_decay,
        warmup=WARMUP,
        epochs=job.settings.get("epochs", EPOCHS),
        max_tokens=job.tokens,
        batch=at_once * summed,
        at_once=at_once,
        step=_step(at_once, summed),
    )
    bits = " bitsandbytes" if job.strategy == "qlora" else ""
    needs = f"pip install torch transformers{' peft' if imports else ''}{bits}"
    return header(job, f"python FILE --data reviews.csv --model FOLDER   ({needs})") + body


def _step(at_once: int, summed: int) -> str:
    """Return the lines of a step: over one batch, or over some whose gradients are summed."""
    if summed == 1:
        return textwrap.indent(STEP.format(at_once=at_once, backward="loss.backward()").strip(), " " * 4)
    lines = STEP.format(at_once=at_once, backward=f"(loss / {summed}).backward()").strip()
    return f"    for _ in range({summed}):\n{textwrap.indent(lines, ' ' * 8)}"


def _any(job: Job) -> dict[str, Any]:
    """Return that any setting will do: peft's configuration says which do not."""
    return dict.fromkeys(job.own)


def _by_torch(job: Job, groups: str) -> tuple[str, str]:
    """Return the lines that say what trains, and at which rates."""
    require(job, "script", OF_TORCH, {"blocks": None, "backbone_rate": None})
    if job.strategy == "full":
        return "", groups
    head = "head = getattr(model, 'classifier', None) or model.score  # fresh, so it always trains"
    lines = [head, "model.requires_grad_(False), head.requires_grad_(True)"]
    if job.strategy == "bitfit":
        lines.append("[own.requires_grad_(True) for name, own in model.named_parameters() if name.endswith('bias')]")
    if job.strategy == "partial_unfreeze":
        lines.append("blocks = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)")
        lines.append(f"[block.requires_grad_(True) for block in blocks[-{job.settings['blocks']} :]]")
        if "backbone_rate" in job.own:
            groups = (
                "new = {*head.parameters()}\n"
                "old = [own for own in model.parameters() if own.requires_grad and own not in new]\n"
                f"groups = [{{'params': [*new]}}, {{'params': old, 'lr': {job.lr * job.own['backbone_rate']!r}}}]"
            )
    return "\n".join(lines), groups
