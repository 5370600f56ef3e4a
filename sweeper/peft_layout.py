"""Our tensors under peft's names, in both directions, and our methods as its configurations; peft is not needed.

For models of transformers, and the methods that both have: LoRA (with rsLoRA, DoRA, and PiSSA as plain
LoRA of twice the rank), IA3, prompt tuning, P-tuning, prefix tuning and norm tuning. A folder in this layout
loads with ``PeftModel.from_pretrained``; `sweeper.peft_config` reads those that stock peft wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.members import MEMBER_LAYERS
from sweeper.models.base import LoadedModel
from sweeper.strategies.base import Strategy
from sweeper.strategies.ia3 import Rescaled
from sweeper.strategies.lora import SCALINGS
from sweeper.strategies.low_rank import LowRank
from sweeper.strategies.norm_tuning import NormTuned
from sweeper.strategies.p_tuning import PromptEncoder
from sweeper.strategies.prefix_tuning import Prefix
from sweeper.strategies.prompt_tuning import Prompted
from sweeper.work import GENERATION, TAGGING


def task_type(model: LoadedModel) -> str:
    """Return peft's name for what a model of transformers does; it is empty for any other model."""
    hf: Any = getattr(model.network, "hf", None)
    if hf is None:
        return ""
    if model.work == GENERATION:
        return "SEQ_2_SEQ_LM" if hf.config.is_encoder_decoder else "CAUSAL_LM"
    return "TOKEN_CLS" if model.work == TAGGING else "SEQ_CLS"


def heads_of(model: LoadedModel) -> tuple[str, ...]:
    """Return what peft takes for a classifier's head, whatever a configuration says; a language model has none."""
    return () if model.work == GENERATION else ("classifier", "score")


@dataclass(frozen=True)
class Slot:
    """One tensor of a file: views of ours, side by side along the first or second axis, each with its sign."""

    parts: Sequence[tuple[Tensor, int]]
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape it has in the file."""
        shape = [*self.parts[0][0].shape]
        if len(self.parts) > 1:
            shape[self.axis] = sum(part.shape[self.axis] for part, _ in self.parts)
        return tuple(shape)

    def get(self) -> Tensor:
        """Return what belongs in the file."""
        return torch.cat([sign * part.detach().cpu() for part, sign in self.parts], self.axis).contiguous()

    @torch.no_grad()
    def set(self, value: Tensor) -> None:
        """Take what a file holds."""
        if len(self.parts) == 1:  # also a tensor without axes
            self.parts[0][0].copy_(self.parts[0][1] * value)
            return
        parts = value.split([part.shape[self.axis] for part, _ in self.parts], self.axis)
        for (part, sign), own in zip(self.parts, parts, strict=True):
            part.copy_(sign * own)


def whole(tensor: Tensor) -> Slot:
    """Return the slot of one tensor, as it is."""
    return Slot([(tensor, 1)])


def _low_rank(layer: LowRank) -> dict[str, Slot]:
    a, b = [(layer.a[0].T, 1)], [(layer.b[0].T, 1)]
    if layer.a0 is not None and layer.b0 is not None:
        a, b = [*a, (layer.a0[0].T, 1)], [*b, (layer.b0[0].T, -1)]
    slots = {"lora_A.weight": Slot(a, 0), "lora_B.weight": Slot(b, 1)}
    if layer.magnitude is not None:
        slots["lora_magnitude_vector"] = whole(layer.magnitude[0])
    return slots


def _rescaled(layer: Rescaled) -> dict[str, Slot]:
    return {"ia3_l": whole(layer.scale[0].view(1, -1) if layer.before else layer.scale[0].view(-1, 1))}


def _normed(layer: NormTuned) -> dict[str, Slot]:
    return {f"ln_tuning_layers.{name}": whole(p[0]) for name, p in layer._affine().items()}


def slots(model: LoadedModel, heads: Sequence[str], only: Sequence[str] | None = None) -> dict[str, Slot]:
    """Return peft's names for the tensors of an adapted model of one member, and where each comes from.

    Args:
        model: What it is.
        heads: Paths of modules of the classifier that a file holds whole (`saved_modules`).
        only: Paths of layers; all that were added to if ``None``.
    """
    found: dict[str, Slot] = {}
    hf = model.get("hf")
    prompts = any(isinstance(addition, Prompted | Prefix) for addition in model.switches)
    prefix = "base_model." if prompts else "base_model.model."
    for path, module in hf.named_modules():
        own: dict[str, Slot] = {}
        if isinstance(module, LowRank):
            own = _low_rank(module)
        elif isinstance(module, Rescaled):
            own = _rescaled(module)
        elif isinstance(module, NormTuned):
            own = _normed(module)
        elif isinstance(module, Prompted):
            found["prompt_embeddings"] = whole(module.source()[0])
        if only is None or path in only:
            found |= {f"{prefix}{path}.{name}": slot for name, slot in own.items()}
    addition = model.network.get_submodule("key_values") if prompts else None
    if isinstance(addition, Prefix):
        found["prompt_embeddings"] = whole(addition.prefix[0].flatten(1))
    for head in heads:
        for path, module in hf.get_submodule(head).named_modules(prefix=head):
            for name, p in module.named_parameters(recurse=False):
                found[f"{prefix}{path}.{name}"] = whole(p[0] if isinstance(module, MEMBER_LAYERS) else p)
    return found


def saved_modules(hf: Any, names: Sequence[str]) -> list[str]:
    """Return the outermost modules whose paths end in one of these names: those that peft puts into a file whole."""
    paths = [path for path, _ in hf.named_modules() if path and path.endswith(tuple(names))]
    return [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]


def export(model: LoadedModel, strategy: Strategy, kept: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return peft's configuration and tensors for an adapted model of one member.

    Both are empty where peft has no such method, or not on such a model.

    Args:
        model: What it is.
        strategy: What adapted it.
        kept: All that trained.
    """
    hf = getattr(model.network, "hf", None)
    if hf is None:
        return {}, {}
    own = [model.head, *model.before_head] if model.head_is_fresh else [model.head]
    fresh = [path.removeprefix("hf.") for path in own]
    head = fresh[0].split(".")[0]
    saved = [head, *(path for path in fresh[1:] if path.split(".")[0] != head)]
    if model.work == GENERATION and not model.head_is_fresh:
        saved = []  # the head is the base's own, and stays
    heads = saved_modules(hf, [*saved, *heads_of(model)])
    kind, config = _config(model, strategy)
    inside = {id(p) for path in heads for p in hf.get_submodule(path).parameters()}
    added = {id(tensor) for addition in model.switches for tensor in _tensors(addition)}
    if not kind or added & inside or any(id(tensor) not in added | inside for tensor in kept):
        return {}, {}
    common = {
        "peft_type": kind,
        "task_type": task_type(model),
        "base_model_name_or_path": getattr(hf, "name_or_path", "") or None,
        "inference_mode": True,
        "modules_to_save": saved or None,
    }
    return {**common, **config}, {name: slot.get() for name, slot in slots(model, heads).items()}


def _tensors(addition: Any) -> list[Tensor]:
    return [*addition.own_parameters(), *addition.buffers(recurse=False)]


def _config(model: LoadedModel, strategy: Strategy) -> tuple[str, dict[str, Any]]:
    """Return peft's name of a method, and its hyperparameters; an empty name where it has none."""
    added = {
        path.removeprefix("hf."): m for path, m in model.network.named_modules() if any(m is a for a in model.switches)
    }
    hf: Any = model.network.hf
    turned = any(path in hf.loaded_from_conv1d for path in added)
    layers = [*added.values()]
    linear = all(isinstance(getattr(layer, "base", None), nn.Linear) for layer in layers)
    common = {"target_modules": [*added]}
    if not layers:
        return "", {}
    if linear and all(isinstance(layer, LowRank) for layer in layers):
        return "LORA", {**common, **_lora(strategy, layers[0]), "fan_in_fan_out": turned}
    if linear and all(isinstance(layer, Rescaled) for layer in layers):
        before = [path for path, layer in added.items() if isinstance(layer, Rescaled) and layer.before]
        return "IA3", {**common, "feedforward_modules": before, "fan_in_fan_out": turned}
    if all(isinstance(layer, NormTuned) for layer in layers):
        return "LN_TUNING", common
    first = layers[0]
    if len(layers) > 1 or hf.config.is_encoder_decoder:
        return "", {}
    if isinstance(first, Prefix):
        tokens, attentions, _, heads, width = first.prefix.shape[1:]
        return "PREFIX_TUNING", _prompt(tokens, attentions, heads, heads * width)
    if isinstance(first, Prompted):
        _, tokens, width = first.source().shape
        shape = _prompt(tokens, len(model.blocks), 1, width)
        if isinstance(first.source, PromptEncoder):
            hidden = first.source.layers[0].plain(0).out_features  # type: ignore[operator]
            return "P_TUNING", {**shape, "encoder_hidden_size": hidden}
        return "PROMPT_TUNING", shape
    return "", {}


def _lora(strategy: Any, layer: nn.Module) -> dict[str, Any]:
    """Return LoRA's hyperparameters; PiSSA's are those of the plain LoRA of twice the rank."""
    assert isinstance(layer, LowRank)
    rank = layer.ranks[0] * (1 if layer.a0 is None else 2)
    scaling = SCALINGS[getattr(strategy, "scaling", "standard")]
    return {
        "r": rank,
        "lora_alpha": strategy.alpha / scaling(strategy.rank) * scaling(rank),
        "lora_dropout": getattr(strategy, "dropout", 0.0),
        "use_rslora": scaling is SCALINGS["rslora"],
        "use_dora": layer.magnitude is not None,
        "bias": "none",
        "init_lora_weights": True,
    }


def _prompt(tokens: int, layers: int, heads: int, width: int) -> dict[str, Any]:
    return {
        "num_virtual_tokens": tokens,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": width,
        "num_transformer_submodules": 1,
    }
