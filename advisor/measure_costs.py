"""Measure memory and time of strategies on a GPU, with random weights and rows: ``results/shipped/costs/h200.csv``.

python -m advisor.measure_costs OUT.csv [MODEL ...]
"""

from __future__ import annotations

import csv
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.models.huggingface import import_transformers

GROUPED = {"model_type": "llama", "max_position_embeddings": 4096, "tie_word_embeddings": True}


def _decoder(hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int, **other: Any) -> dict[str, Any]:
    return {
        **GROUPED,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocab,
        **other,
    }


BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
# Name -> what class of transformers reads it, and its configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral-7b": ("CausalLM", _decoder(4096, 32, 32, 8, 14336, 32000, tie_word_embeddings=False)),
    "llama-3.2-1b": ("CausalLM", _decoder(2048, 16, 32, 8, 8192, 128256)),
    "qwen2.5-0.5b": ("CausalLM", _decoder(896, 24, 14, 2, 4864, 151936, model_type="qwen2")),
    "gpt2-medium": ("CausalLM", {"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "bert-base": ("SequenceClassification", {"model_type": "bert", **BERT}),
    "vit-base": ("ImageClassification", {"model_type": "vit", **BERT, "image_size": 224, "patch_size": 16}),
    "t5-base": (
        "Seq2SeqLM",
        {
            "model_type": "t5",
            "d_model": 768,
            "d_ff": 3072,
            "num_layers": 12,
            "num_heads": 12,
            "decoder_start_token_id": 0,
        },
    ),
}
ALL = ("full", "lora_qv", "lora_all", "norm_tuning", "feature_extraction", "partial_unfreeze")
# Model, precisions, (batch, tokens), strategies; each without checkpointing and with it.
CASES: tuple[tuple[str, tuple[str, ...], tuple[tuple[int, int], ...], tuple[str, ...]], ...] = (
    ("mistral-7b", ("bf16",), ((1, 1024), (4, 512)), ("lora_all",)),
    ("llama-3.2-1b", ("bf16", "fp32"), ((4, 512), (1, 2048), (16, 128)), ALL),
    ("llama-3.2-1b", ("mixed",), ((4, 512),), ALL[:3]),
    ("gpt2-medium", ("bf16", "fp32", "mixed"), ((8, 256),), ALL),
    ("bert-base", ("bf16", "fp32", "mixed"), ((32, 128), (8, 512)), ALL),
    ("vit-base", ("bf16", "fp32"), ((32, 197),), ("full", "lora_qv", *ALL[3:5])),
    ("qwen2.5-0.5b", ("bf16",), ((4, 512),), ALL[:3]),
    ("t5-base", ("bf16", "fp32"), ((8, 256),), ALL[:2]),
)
QUERY_VALUE = {"q_proj", "v_proj", "query", "value", "c_attn", "q", "v"}
EVERY = QUERY_VALUE | {"k_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "key", "dense", "k", "o", "wi", "wo"}
EVERY |= {"c_proj", "c_fc"}
LORA = {"lora_qv": (8, QUERY_VALUE, "query+value"), "lora_all": (16, EVERY, "all")}
STEPS, WARM_UP = 5, 2


class Lora(nn.Module):
    """A low-rank term beside a layer as peft computes it: in float32, on inputs copied to float32."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base = base
        sizes = base.get_parameter("weight").shape
        outputs, inputs = sizes if isinstance(base, nn.Linear) else sizes[::-1]  # GPT-2's Conv1D is transposed
        device = base.get_parameter("weight").device
        self.a = nn.Linear(inputs, rank, bias=False, device=device, dtype=torch.float32)
        self.b = nn.Linear(rank, outputs, bias=False, device=device, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base layer maps."""
        y = self.base(x)
        return (y + 2 * self.b(self.a(x.float()))).to(y.dtype)


def adapt(network: Any, strategy: str) -> dict[str, Any]:
    """Freeze and attach what a strategy does, and return its hyperparameters."""
    if strategy == "full":
        return {}
    network.requires_grad_(False)
    last = str(getattr(network.config, "num_hidden_layers", 1) - 1)
    for path, module in list(network.named_modules()):
        parent, _, own = path.rpartition(".")
        in_block = any(part.isdigit() for part in path.split("."))
        if (
            strategy in LORA
            and in_block
            and own in LORA[strategy][1]
            and len(module.get_parameter("weight").shape) == 2
        ):
            setattr(network.get_submodule(parent), own, Lora(module, LORA[strategy][0]))
        is_norm = strategy == "norm_tuning" and "norm" in type(module).__name__.lower()
        is_head = own == "classifier" or (own == "lm_head" and strategy == "feature_extraction")
        if is_norm or is_head or (strategy == "partial_unfreeze" and own == last):
            module.requires_grad_(True)
    if strategy in LORA:
        return {"rank": LORA[strategy][0], "targets": LORA[strategy][2]}
    return {"blocks": 1} if strategy == "partial_unfreeze" else {}


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2


def measure(name: str, precision: str, strategy: str, batch: int, tokens: int, checkpointing: bool) -> dict[str, Any]:
    """Return one row: the peak of what torch's allocator took, and the median of steps after the first ones."""
    transformers = import_transformers()
    kind, settings = MODELS[name]
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.set_default_dtype(torch.bfloat16 if precision == "bf16" else torch.float32)
    config = transformers.AutoConfig.for_model(**settings)
    with torch.device("cuda"):
        network = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    torch.set_default_dtype(torch.float32)
    network.config.use_cache = False
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    hparams = adapt(network, strategy)
    trains = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trains, lr=1e-5)
    network.train()
    one_label = torch.zeros(batch, dtype=torch.long, device="cuda")
    ids = torch.randint(5, 900, (batch, tokens), device="cuda")
    call: dict[str, Tensor] = {"input_ids": ids, "labels": one_label if "Classification" in kind else ids}
    if kind == "ImageClassification":
        pixels = torch.randn(batch, 3, config.image_size, config.image_size, device="cuda", dtype=network.dtype)
        call = {"pixel_values": pixels, "labels": one_label}
    times = []
    for _ in range(STEPS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "mixed"):
            loss = network(**call).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    free, total = torch.cuda.mem_get_info()
    return {
        "model": name,
        "config": json.dumps({key: own for key, own in config.to_dict().items() if isinstance(own, int | str)}),
        "strategy": "lora" if strategy in LORA else strategy,
        "hparams": json.dumps(hparams),
        "precision": precision,
        "batch_size": batch,
        "seq_len": tokens,
        "checkpointing": checkpointing,
        "trainable_params": sum(p.numel() for p in trains),
        "peak_memory_bytes": torch.cuda.max_memory_reserved(),
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "context_bytes": total - free - torch.cuda.memory_reserved(),
        "step_seconds": round(statistics.median(times[WARM_UP:]), 5),
        "device": torch.cuda.get_device_name(0),
    }


def cases(models: list[str]) -> Iterator[tuple[str, str, str, int, int, bool]]:
    """Yield what to measure."""
    for name, precisions, sizes, strategies in CASES:
        if not models or name in models:
            every = itertools.product(sizes, precisions, strategies, (False, True))
            yield from ((name, prec, own, *size, checkpointing) for size, prec, own, checkpointing in every)
    if not models or "mistral-7b" in models:
        yield "mistral-7b", "bf16", "full", 1, 1024, True  # 73 GB


def main(output: Path, models: list[str]) -> None:
    """Measure everything, and write each row as soon as it is there."""
    with output.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for case in cases(models):
            row = measure(*case)
            if writer is None:
                writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
