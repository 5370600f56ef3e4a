"""Small transformers of every family with random weights, which read images of digits as tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sweeper.models.base import LoadedModel, ModelBuilder, seeded
from sweeper.models.huggingface import anatomy, import_transformers
from sweeper.models.tiny_transformer import GREY_LEVELS, pixels_as_tokens
from sweeper.work import CLASSIFICATION

WIDTH, LAYERS, HEADS, INNER, VOCABULARY = 32, 2, 4, 64, 24
START, END, PAD = GREY_LEVELS, GREY_LEVELS + 1, GREY_LEVELS + 2
SIZE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
}
# Ten times the families' own spread of weights: at 0.02 and width 32 a layer adds next to nothing.
TEXT = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
POSITIONS = {"max_position_embeddings": 256}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {**SIZE, **TEXT, **POSITIONS, "initializer_range": 0.2}),
    "roberta": ("RobertaConfig", {**SIZE, **TEXT, **POSITIONS, "initializer_range": 0.2}),
    "distilbert": (
        "DistilBertConfig",
        {
            "dim": WIDTH,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": INNER,
            "initializer_range": 0.2,
            **TEXT,
            **POSITIONS,
        },
    ),
    "gpt2": (
        "GPT2Config",
        {
            "n_embd": WIDTH,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_inner": INNER,
            "n_positions": 256,
            "initializer_range": 0.2,
            **TEXT,
        },
    ),
    "llama": (
        "LlamaConfig",
        {**SIZE, **TEXT, **POSITIONS, "num_key_value_heads": 2, "initializer_range": 0.2},
    ),
    "t5": (
        "T5Config",
        {
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": INNER,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "decoder_start_token_id": PAD,
            **TEXT,
        },
    ),
    "vit": ("ViTConfig", {**SIZE, "image_size": 16, "patch_size": 4, "num_channels": 1, "initializer_range": 0.2}),
}


def _with_ends(ids: Tensor) -> Tensor:
    return nn.functional.pad(nn.functional.pad(ids, (1, 0), value=START), (0, 1), value=END)


def classifier(name: str, n_classes: int, seed: int) -> Any:
    """Return a transformers classifier of a family, with random weights."""
    transformers = import_transformers()
    config_name, values = CONFIGS[name]
    config = getattr(transformers, config_name)(**values, num_labels=n_classes)
    auto = transformers.AutoModelForImageClassification if name == "vit" else None
    auto = auto or transformers.AutoModelForSequenceClassification
    return seeded(seed, lambda: auto.from_config(config))


def builder(name: str) -> ModelBuilder:
    """Return the builder of a family's small model for images of digits."""

    def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
        hf = classifier(name, n_classes, seed)
        loaded = anatomy(hf, input_shape if name == "vit" else (), frozenset(dict(hf.named_parameters())), name=name)
        if name != "vit":
            loaded.network.register_forward_pre_hook(_read_digits)
        return loaded

    return build


def _read_digits(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (x,) = args
    return (_with_ends(pixels_as_tokens(x)) if x.is_floating_point() else x,)


FAMILIES: dict[str, Callable[..., LoadedModel]] = {name: builder(name) for name in CONFIGS}
