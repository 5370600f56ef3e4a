"""The shape of a model from its ``config.json``: families of transformers, and FLUX of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.shapes import Kind, Linear, ModelShape

MOST = 2**40  # no width, depth or vocabulary is larger


@dataclass(frozen=True)
class Family:
    """How the models of one ``model_type`` are built, where it differs from Llama."""

    kind: Kind = "causal"
    rms: bool = True
    gated: bool = True
    fused: bool = False
    bias: bool = False
    qkv_bias: bool = False
    learned_positions: int | None = None  # rows beyond `max_position_embeddings`; None: no such table
    norms: int = 2
    around: int = 1  # normalisations outside the blocks
    head_norms: bool = False
    pooler: bool = False
    before_head: bool = False
    tied: bool = False
    head_width: int | None = None


_OLD: Mapping[str, Any] = {"rms": False, "gated": False, "bias": True, "tied": True}  # BERT and GPT-2
FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "smollm3", "ministral"), Family()),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(head_norms=True),
    "phi3": Family(fused=True),
    "gemma": Family(tied=True, head_width=256),
    "gemma2": Family(tied=True, norms=4, head_width=256),
    "gemma3_text": Family(tied=True, norms=4, head_norms=True, head_width=256),
    "gpt2": Family(fused=True, learned_positions=0, **_OLD),
    "gpt_neox": Family(fused=True, **{**_OLD, "tied": False}),
    "bloom": Family(fused=True, around=2, **_OLD),
    "opt": Family(learned_positions=2, **_OLD),
    "bert": Family("encoder", learned_positions=0, pooler=True, **_OLD),
    "roberta": Family("encoder", learned_positions=0, before_head=True, **_OLD),
    "distilbert": Family("encoder", learned_positions=0, before_head=True, **_OLD),
    "t5": Family("encoder_decoder", gated=False, tied=True),
    "mt5": Family("encoder_decoder", tied=False),
    "vit": Family("image", **_OLD),
}
# One meaning, the names that families have for it; the first that is there counts.
NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim", "n_embed"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_width": ("head_dim", "d_kv", "attention_head_dim"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "vocab": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
}


def from_config(config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
    """Return the shape of a model of transformers, or of a FLUX transformer of diffusers.

    Raises:
        ValueError: a size is missing or none; the message names ``where``, the value found and the way out.
    """
    if "num_single_layers" in config:
        return _flux(config, where)
    config = {**config, **(config["text_config"] if isinstance(config.get("text_config"), Mapping) else {})}
    family = FAMILIES.get(str(config.get("model_type")), Family())
    hidden, layers, heads = (_size(config, name, where) for name in ("hidden", "layers", "heads"))
    head_width = _size(config, "head_width", where, family.head_width or max(1, hidden // heads))
    inner = _size(config, "inner", where, 4 * hidden)
    all_heads, kv = heads * head_width, _size(config, "kv_heads", where, heads) * head_width
    gated = "gated" in str(config.get("feed_forward_proj")) or family.gated
    qkv_bias = family.bias or family.qkv_bias or config.get("attention_bias") is True
    decoders = _size(config, "num_decoder_layers", where, layers) if family.kind == "encoder_decoder" else 0
    blocks, attentions = layers + decoders, layers + 2 * decoders
    if family.fused:
        linears = [Linear("qkv", hidden, all_heads + 2 * kv, attentions, qkv_bias)]
    else:
        linears = [
            Linear(role, hidden, width, attentions, qkv_bias)
            for role, width in (("query", all_heads), ("key", kv), ("value", kv))
        ]
    linears += [
        Linear("attn_out", all_heads, hidden, attentions, family.bias),
        *([Linear("mlp_in", hidden, inner, blocks, family.bias)] * (2 if gated and not family.fused else 1)),
        Linear("mlp_out", inner, hidden, blocks, family.bias),
    ]
    if family.fused and gated:
        linears[-2] = Linear("mlp_in", hidden, 2 * inner, blocks, family.bias)
    vocab = 0 if family.kind == "image" else _size(config, "vocab", where)
    tied = bool(config.get("tie_word_embeddings", family.tied))
    generates = family.kind in ("causal", "encoder_decoder")
    around = family.around + (1 if decoders else 0)
    norms = family.norms * blocks + decoders + around
    norm_params = norms * hidden + (2 * head_width * layers if family.head_norms else 0)
    labels = config.get("id2label")
    classes = len(labels) if isinstance(labels, Mapping) and labels else 2
    head = 0 if generates else hidden * classes + classes
    extras = hidden * hidden + hidden if family.pooler or family.before_head else 0
    tables, tokens = vocab * hidden * (1 if tied or not generates else 2), None
    if family.learned_positions is not None:
        tables += hidden * (_size(config, "positions", where) + family.learned_positions)
        tables += hidden * _size(config, "type_vocab_size", where, 0)
    if family.kind == "image":
        side, patch, channels = (_size(config, n, where) for n in ("image_size", "patch_size", "num_channels"))
        tokens = (side // patch) ** 2 + 1
        tables += hidden * (tokens + 1) + (channels * patch * patch + 1) * hidden  # positions, class token, patches
    if decoders:
        buckets = _size(config, "relative_attention_num_buckets", where, 32)
        tables += 2 * buckets * heads
    linear_biases = sum(linear.outputs * linear.count for linear in linears if linear.bias)
    norm_biases = 0 if family.rms else norm_params
    in_linears = sum(linear.params for linear in linears)
    return ModelShape(
        params=in_linears + linear_biases + norm_params + norm_biases + tables + extras + head,
        layers=blocks,
        hidden=hidden,
        kv=kv,
        linears=tuple(linears),
        kind=family.kind,
        vocab=vocab,
        norms=norms,
        norm_params=norm_params,
        norm_biases=norm_biases,
        other_biases=(hidden if extras else 0) + (hidden if family.kind == "image" else 0),
        rms=family.rms,
        gated=gated,
        inner_kept=_inner_kept(config, gated),
        heads=heads,
        writes_scores=family.kind == "encoder_decoder",
        head=head,
        tied=tied,
        tokens=tokens,
        dtype=str(config["torch_dtype"]) if config.get("torch_dtype") else None,
        said_by=where,
    )


def _inner_kept(config: Mapping[str, Any], gated: bool) -> float:
    written_out = config.get("activation_function", "gelu_new" if config.get("model_type") == "gpt2" else "")
    return 1.5 if gated else 4.0 if written_out in ("gelu_new", "gelu_fast") else 1.0


def _flux(config: Mapping[str, Any], where: str) -> ModelShape:
    """Return a FLUX.2 transformer: double-stream blocks for text and image, then single-stream blocks.

    Layout of diffusers' ``Flux2Transformer2DModel``: 3.876 B for FLUX.2-klein-4B, as peft counts it.
    """
    heads, width = (_size(config, name, where) for name in ("heads", "head_width"))
    double, single = _size(config, "num_layers", where), _size(config, "num_single_layers", where)
    hidden = heads * width
    ratio = config.get("mlp_ratio", 3.0)
    if not isinstance(ratio, int | float) or not 0 < ratio < 100:
        raise ValueError(f"{where} has mlp_ratio {ratio!r:.50}, which is no ratio: it must be a number above 0")
    inner = int(hidden * ratio)
    linears = (
        *(Linear(role, hidden, hidden, 2 * double) for role in ("query", "key", "value", "attn_out")),
        Linear("mlp_in", hidden, 2 * inner, 2 * double),
        Linear("mlp_out", inner, hidden, 2 * double),
        Linear("joint_in", hidden, 3 * hidden + 2 * inner, single),
        Linear("joint_out", hidden + inner, hidden, single),
    )
    channels, text = (_size(config, name, where) for name in ("in_channels", "joint_attention_dim"))
    guidance = _size(config, "timestep_guidance_channels", where, 256)
    modulation = hidden * hidden * (6 + 6 + 3 + 2)
    embedders = (guidance + hidden) * (2 if config.get("guidance_embeds") else 1)
    around = modulation + hidden * (2 * channels + text + embedders)
    head_norms = width * (4 * double + 2 * single)
    return ModelShape(
        params=sum(linear.params for linear in linears) + around + head_norms,
        layers=double + single,
        hidden=hidden,
        kv=hidden,
        linears=linears,
        kind="diffusion",
        norms=4 * double + single,
        norm_params=head_norms,
        rms=False,
        heads=heads,
        said_by=where,
    )


def _size(config: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    """Return a size by any of the names that it has; 0 only where the default is 0."""
    names = NAMES.get(name, (name,))
    value = next((config[own] for own in names if config.get(own) is not None), default)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]  # sides of a square
    if isinstance(value, bool) or not isinstance(value, int) or not (default == value == 0 or 0 < value < MOST):
        found = "is missing" if value is None else f"is {value!r:.50}, which is no size"
        raise ValueError(f"{where}: {names[0]} {found}. Give the folder of the weights, or --model-params")
    return value
