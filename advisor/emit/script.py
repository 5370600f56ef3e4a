"""A training script that stands by itself: a `Trainer` of transformers, and peft, over a CSV of texts and labels."""

from __future__ import annotations

from typing import Any

from advisor.emit.job import EPOCHS, WARMUP, CannotSayError, Job, header, require
from advisor.emit.peft import STRATEGIES as OF_PEFT
from advisor.emit.peft import config

OF_TORCH = ("full", "feature_extraction", "bitfit", "partial_unfreeze")

TEMPLATE = """
import argparse, csv, random, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import Trainer, TrainingArguments, set_seed{imports}

parser = argparse.ArgumentParser()
for name, default in {options}:
    parser.add_argument(f"--{{name}}", default=default, required=default is None, type=int if name == "steps" else str)
args = parser.parse_args()
set_seed(0)
with open(args.data, newline="", encoding="utf-8-sig") as file:
    rows = [(row[args.text], row[args.label]) for row in csv.DictReader(file)]
random.shuffle(rows)
names = sorted({{label for _, label in rows}})
tokenizer = AutoTokenizer.from_pretrained(args.model)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
rows = [{{**tokenizer(text, {cut}), "labels": names.index(label)}} for text, label in rows]
model = AutoModelForSequenceClassification.from_pretrained(args.model, id2label=dict(enumerate(names)){load})
model.config.pad_token_id = tokenizer.pad_token_id{adapt}
training = TrainingArguments(args.output, max_steps=args.steps or -1, num_train_epochs={epochs},
    per_device_train_batch_size={batch}, gradient_accumulation_steps={summed}, per_device_eval_batch_size={batch},
    learning_rate={lr!r}, weight_decay={weight_decay!r}, warmup_steps={warmup},
    {checkpointing}logging_steps=10, save_strategy="no", report_to="none")
test, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
trainer = Trainer(model, training, train_dataset=train, eval_dataset=test, processing_class=tokenizer,{loss}
    {optimizers}compute_metrics=lambda found: {{"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()}})
trainer.train()
trainer.save_model()
print(f"test accuracy {{trainer.evaluate()['eval_accuracy']:.3f}} on {{len(test)}} rows; saved in {{args.output}}")
"""
# Left to itself, `Trainer` adds up the mean losses of classifiers instead of averaging them (transformers 5.23).
LOSS = """
    compute_loss_func=lambda found, labels, num_items_in_batch=None: torch.nn.functional.cross_entropy(
        found.logits.float(), labels, reduction="sum") / (num_items_in_batch or len(labels)),"""


def emit(job: Job) -> str:
    """Return the script.

    Raises:
        CannotSayError: it is no work for it, or has no way to say the strategy or a setting.
    """
    if job.situation.modality in ("image", "tabular") or job.work not in (None, "classification"):
        what = job.work if job.work not in (None, "classification") else job.situation.modality
        raise CannotSayError(f"the script classifies texts, and this is {what}")
    imports, load, optimizers = "", ", dtype=torch.bfloat16" if job.bf16 else "", ""
    if job.strategy in OF_TORCH:
        adapt = _by_torch(job)
        optimizers = "optimizers=(optimizer, None), " if "backbone_rate" in job.own else ""
    else:
        require(job, "script", [*OF_PEFT, job.strategy] if job.strategy.startswith("peft:") else OF_PEFT, _any(job))
        own = {**config(job), "task_type": "SEQ_CLS"}
        imports = "\nfrom peft import get_peft_config, get_peft_model"
        adapt = f"\nmodel = get_peft_model(model, get_peft_config({own!r}))\nmodel.print_trainable_parameters()"
        if job.strategy == "qlora":
            imports = f", BitsAndBytesConfig{imports}, prepare_model_for_kbit_training"
            double = bool(job.settings.get("double_quant", True))
            bits = f"load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant={double}"
            bits += ", bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=['classifier', 'score']"  # fresh
            load += f",\n    quantization_config=BitsAndBytesConfig({bits})"
            kept = f"use_gradient_checkpointing={job.checkpointing}"
            adapt = f"\nmodel = prepare_model_for_kbit_training(model, {kept}){adapt}"
        elif job.checkpointing:
            adapt += "\nmodel.enable_input_require_grads()"
    at_once, summed = job.rows
    options = {"data": job.data, "model": job.model, "text": job.text or "text", "label": job.label or "label"}
    options |= {"steps": job.settings.get("steps", 0), "output": "adapted"}
    body = TEMPLATE.format(
        imports=imports,
        options=[*options.items()],
        cut=f"truncation=True, max_length={job.tokens}",
        load=load,
        adapt=adapt,
        epochs=job.settings.get("epochs", EPOCHS),
        batch=at_once,
        summed=summed,
        checkpointing="gradient_checkpointing=True, " if job.checkpointing else "",
        lr=job.lr,
        weight_decay=job.weight_decay,
        warmup=WARMUP,
        optimizers=optimizers,
        loss=LOSS if summed > 1 else "",
    )
    needs = [
        "'transformers[torch]>=5'",
        *(["peft"] if imports else []),
        *(["bitsandbytes"] if job.strategy == "qlora" else []),
    ]
    return header(job, f"python FILE --data reviews.csv --model FOLDER   (pip install {' '.join(needs)})") + body


def _any(job: Job) -> dict[str, Any]:
    """Return that any setting will do: peft's configuration says which do not."""
    return dict.fromkeys(job.own)


def _by_torch(job: Job) -> str:
    """Return the lines that say what trains, and at which rates."""
    require(job, "script", OF_TORCH, {"blocks": None, "backbone_rate": None})
    if job.strategy == "full":
        return ""
    lines = [
        "head = getattr(model, 'classifier', None) or model.score  # fresh, so it always trains",
        "model.requires_grad_(False), head.requires_grad_(True)",
    ]
    if job.strategy == "bitfit":
        lines.append("[own.requires_grad_(True) for name, own in model.named_parameters() if name.endswith('bias')]")
    if job.strategy == "partial_unfreeze":
        lines.append("blocks = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)")
        lines.append(f"[block.requires_grad_(True) for block in blocks[-{job.settings['blocks']} :]]")
        if "backbone_rate" in job.own:
            slower = job.lr * job.own["backbone_rate"]
            lines += [
                "old = [own for block in blocks for own in block.parameters() if own.requires_grad]",
                f"groups = [{{'params': [*head.parameters()]}}, {{'params': old, 'lr': {slower!r}}}]",
                f"optimizer = torch.optim.AdamW(groups, lr={job.lr!r}, weight_decay={job.weight_decay!r})",
            ]
    return "".join(f"\n{line}" for line in lines)
