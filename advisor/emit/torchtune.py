"""What ``tune run RECIPE --config FILE`` takes: supervised fine-tuning of a language model.

torchtune builds each model by a function of its own, so a file names one: that of ``--model`` where it is known here,
else the one that is nearest in parameters, marked as what is to be set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from advisor.emit.job import EPOCHS, LOW_RANK, WARMUP, CannotSayError, Job, header, require, to_yaml

LAYERS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
FEW_STEPS = 10
"""Of warm-up, where nobody said how many rows there are."""


@dataclass(frozen=True)
class Builder:
    """A model that torchtune builds.

    Attributes:
        on_hub: Its name on the Hub, without its owner.
        function: That returns it, below `torchtune.models`; with ``lora_`` before its name: for LoRA.
        files: Of its weights.
    """

    on_hub: str
    params: float
    function: str
    files: int

    @property
    def is_llama(self) -> bool:
        """Whether it is one of Llama's, else one of Qwen's."""
        return self.on_hub.startswith("Llama")

    def model(self, lora: bool) -> str:
        """Return the function that builds it."""
        module, name = self.function.split(".")
        return f"torchtune.models.{module}.{'lora_' * lora}{name}"

    def tokenizer(self, folder: str, tokens: int) -> dict[str, Any]:
        """Return its tokenizer, which cuts rows at so many tokens."""
        function = "llama3.llama3_tokenizer" if self.is_llama else "qwen2_5.qwen2_5_tokenizer"
        return {
            "_component_": f"torchtune.models.{function}",
            "path": f"{folder}/original/tokenizer.model" if self.is_llama else f"{folder}/vocab.json",
            **({} if self.is_llama else {"merges_file": f"{folder}/merges.txt"}),
            "max_seq_len": tokens,
        }

    def checkpoint(self, folder: str) -> dict[str, Any]:
        """Return where its weights are."""
        llama = "LLAMA3_2" if "3.2" in self.on_hub else "LLAMA3"
        many = [f"model-{i:05}-of-{self.files:05}.safetensors" for i in range(1, self.files + 1)]
        return {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": folder,
            "checkpoint_files": many if self.files > 1 else ["model.safetensors"],
            "recipe_checkpoint": None,
            "output_dir": "adapted",
            "model_type": llama if self.is_llama else "QWEN2",
        }


BUILDERS = (
    Builder("Qwen2.5-0.5B-Instruct", 0.49e9, "qwen2_5.qwen2_5_0_5b", 1),
    Builder("Llama-3.2-1B-Instruct", 1.24e9, "llama3_2.llama3_2_1b", 1),
    Builder("Qwen2.5-1.5B-Instruct", 1.54e9, "qwen2_5.qwen2_5_1_5b_instruct", 1),
    Builder("Qwen2.5-3B-Instruct", 3.09e9, "qwen2_5.qwen2_5_3b", 2),
    Builder("Llama-3.2-3B-Instruct", 3.21e9, "llama3_2.llama3_2_3b", 2),
    Builder("Qwen2.5-7B-Instruct", 7.62e9, "qwen2_5.qwen2_5_7b_instruct", 4),
    Builder("Llama-3.1-8B-Instruct", 8.03e9, "llama3_1.llama3_1_8b", 4),
)
UNKNOWN = BUILDERS[1]
"""Where neither name nor size is known."""


def emit(job: Job) -> str:
    """Return the YAML."""
    settings = dict.fromkeys(("rank", "alpha", "targets", "dropout", "dora"))
    require(job, "torchtune", ("full", *LOW_RANK), {**settings, "double_quant": (True,)})
    low_rank, (at_once, summed) = job.strategy in LOW_RANK, job.rows
    builder, is_known = _builder(job)
    folder = job.model or builder.on_hub
    content: dict[str, Any] = {
        "output_dir": "adapted",
        "model": {"_component_": builder.model(low_rank), **(_lora(job) if low_rank else {})},
        "tokenizer": builder.tokenizer(folder, job.tokens),
        "checkpointer": builder.checkpoint(folder),
        "resume_from_checkpoint": False,
        "dataset": {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": "csv",
            "data_files": job.data or "YOUR_DATA.csv",
            "split": "train",
            "column_map": {"input": job.text or "prompt", "output": job.label or "completion"},
            "packed": False,
        },
        "seed": 0,
        "shuffle": True,
        "batch_size": at_once,
        "gradient_accumulation_steps": summed,
        "optimizer": {"_component_": "torch.optim.AdamW", "lr": job.lr, "weight_decay": job.weight_decay},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": _warmup(job),
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "epochs": 1 if "steps" in job.settings else job.settings.get("epochs", EPOCHS),
        "max_steps_per_epoch": job.settings.get("steps"),
        "clip_grad_norm": None,
        "compile": False,
        "device": "cuda",
        "dtype": "bf16" if job.bf16 else "fp32",
        "enable_activation_checkpointing": job.checkpointing,
        "enable_activation_offloading": False,
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": "adapted/logs"},
        "log_every_n_steps": 1,
        "log_peak_memory_stats": True,
    }
    if low_rank:
        content["save_adapter_weights_only"] = True
    else:
        content["optimizer_in_bwd"] = False
    recipe = "lora_finetune_single_device" if low_rank else "full_finetune_single_device"
    todo = [
        "" if is_known else f"model, tokenizer and checkpointer: {builder.on_hub} stands in (`tune ls` names others)",
        f"checkpointer.checkpoint_dir and the tokenizer's paths, if the weights are not in {folder}",
        "" if job.data else "dataset.data_files, a CSV with the columns prompt and completion",
    ]
    return header(job, f"tune run {recipe} --config FILE", *todo) + to_yaml(content)


def _builder(job: Job) -> tuple[Builder, bool]:
    """Return what builds the model, and whether that is its own."""
    name = (job.model or "").replace("Meta-", "").lower()
    for builder in BUILDERS:
        if builder.on_hub.removesuffix("-Instruct").lower() in name:
            return builder, True
    params = job.situation.model_params
    return (min(BUILDERS, key=lambda own: abs(math.log(own.params / params))) if params else UNKNOWN), False


def _lora(job: Job) -> dict[str, Any]:
    """Return how LoRA is asked for: attention by name, the rest together."""
    targets = str(job.settings.get("targets", "all"))
    roles = [*LAYERS] if targets == "all" else targets.split("+")
    unknown = [role for role in roles if role not in LAYERS]
    if unknown:
        raise CannotSayError(
            f"torchtune has {job.strategy}.targets all, or query, key and value; {unknown[0]} is asked for here"
        )
    layers = [LAYERS[role] for role in roles]
    return {
        "lora_attn_modules": [*layers, *(["output_proj"] if targets == "all" else [])],
        "apply_lora_to_mlp": targets == "all",
        "lora_rank": job.settings["rank"],
        "lora_alpha": job.settings["alpha"],
        "lora_dropout": job.settings.get("dropout", 0.0),
        "use_dora": bool(job.own.get("dora")),
        "quantize_base": job.strategy == "qlora",
    }


def _warmup(job: Job) -> int:
    steps, rows = job.settings.get("steps"), job.situation.n_train
    if steps is None and rows is not None:
        steps = rows * job.settings.get("epochs", EPOCHS) / math.prod(job.rows)
    return FEW_STEPS if steps is None else max(1, round(WARMUP * steps))
