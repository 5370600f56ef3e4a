"""Our tensors under peft's names, and peft's configurations as strategies of ours; peft itself is not needed.

For classifiers of transformers, and the methods that both have: LoRA (with rsLoRA, DoRA, and PiSSA as plain
LoRA of twice the rank), IA3, prompt tuning, P-tuning, prefix tuning and norm tuning. A folder in this layout
loads with ``PeftModel.from_pretrained``, and one that stock peft wrote loads here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.members import MEMBER_LAYERS
from sweeper.models.base import LoadedModel
from sweeper.strategies.base import Strategy
from sweeper.strategies.ia3 import IA3, Rescaled
from sweeper.strategies.lora import SCALINGS, Lora
from sweeper.strategies.low_rank import LowRank
from sweeper.strategies.norm_tuning import NormTuned, NormTuning, is_norm
from sweeper.strategies.p_tuning import PromptEncoder
from sweeper.strategies.prefix_tuning import Prefix, PrefixTuning
from sweeper.strategies.prompt_tuning import Prompted, PromptTuning

# What peft takes for the head of a classifier of sequences, whatever a configuration says.
HEADS = ("classifier", "score")
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")

# Keys of peft's configurations that decide what is computed, and are read here.
READ = {
    "LORA": ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "init_lora_weights"),
    "IA3": ("target_modules", "feedforward_modules"),
    "LN_TUNING": ("target_modules",),
    "PROMPT_TUNING": ("num_virtual_tokens",),
    "P_TUNING": ("num_virtual_tokens",),
    "PREFIX_TUNING": ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"),
}
# Keys whose value changes nothing about a trained adapter: names, how it started, what the tensors tell anyway.
IDLE = {
    *("peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
    *("task_type", "modules_to_save", "fan_in_fan_out"),
    *("layers_pattern", "megatron_core", "qalora_group_size", "init_ia3_weights"),
    *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
    *("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules", "init_weights"),
    *("encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"),
    "prefix_projection",
}
OFF: tuple[Any, ...] = (None, False, {}, [], "", "none")
STARTS = (True, False, "gaussian")  # others change the base's weights, which the folder does not hold


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
    heads = saved_modules(hf, [*saved, *HEADS])
    kind, config = _config(model, strategy)
    inside = {id(p) for path in heads for p in hf.get_submodule(path).parameters()}
    added = {id(tensor) for addition in model.switches for tensor in _tensors(addition)}
    if not kind or added & inside or any(id(tensor) not in added | inside for tensor in kept):
        return {}, {}
    common = {
        "peft_type": kind,
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": getattr(hf, "name_or_path", "") or None,
        "inference_mode": True,
        "modules_to_save": saved,
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


def adapted(
    config: Mapping[str, Any],
    base: LoadedModel,
    ours: Strategy | None,
    where: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[LoadedModel, dict[str, Slot]]:
    """Return a base adapted as a configuration of peft says, and the slots that a file must fill.

    Args:
        config: What stands in the file.
        base: It stays as it is; what is returned shares its tensors.
        ours: The strategy, where the folder says that it is from here.
        where: The configuration's file, for messages.
        shapes: Those of the file with the tensors; nothing larger is made.

    Raises:
        ValueError: peft can do what it asks for and we cannot, or it does not fit the model.
    """
    kind = _check(config, where)
    if getattr(base.network, "hf", None) is None:
        raise ValueError(f"{where} is peft's, and this model is none of transformers")
    model = base.beside()
    hf: Any = model.network.hf
    heads = saved_modules(hf, [*_names(config, "modules_to_save", where, optional=True), *HEADS])
    _wake_only(model, heads, where)
    if kind in PROMPTS:
        strategy, paths = _virtual(kind, config, model, where, shapes), []
    else:
        named = _names(config, "target_modules", where)
        paths = [path for path in _matched(hf, named) if not any(f"{path}.".startswith(f"{h}.") for h in heads)]
        fits: Callable[[nn.Module], bool] = (
            is_norm if kind == "LN_TUNING" else lambda layer: isinstance(layer, nn.Linear)
        )
        wrong = [path for path in paths if not fits(hf.get_submodule(path))]
        if wrong or not paths:
            what = f"names {wrong[0]!r}, which is of another kind" if wrong else "names no module of this model"
            raise ValueError(f"{where}: target_modules {what}")
        inner = {*_matched(hf, _names(config, "feedforward_modules", where, optional=True))}
        model.roles = {f"hf.{path}": "mlp_out" if path in inner else "key" for path in paths}
        strategy = _beside_layers(kind, config, ours, where, shapes)
    for _ in strategy.adapt(model, [strategy]):
        pass
    model.network.requires_grad_(False).eval()
    model.roles = base.roles
    return model, slots(model, heads, None if kind in PROMPTS else paths)


def _check(config: Mapping[str, Any], where: str) -> str:
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in READ:
        known = ", ".join(READ)
        raise ValueError(f"{where}: peft_type {kind!r} is none that is read here ({known}); peft itself may load it")
    if config.get("task_type") not in (None, "SEQ_CLS"):
        raise ValueError(f"{where}: task_type {config['task_type']!r} is not SEQ_CLS")
    for key, value in config.items():
        if key not in (*READ[kind], *IDLE) and value not in OFF:
            raise ValueError(
                f"{where}: {key} is {str(value)[:80]!r}, which is not supported here; peft itself may load it"
            )
    if kind == "LORA" and config.get("init_lora_weights", True) not in STARTS:
        raise ValueError(
            f"{where}: init_lora_weights {str(config['init_lora_weights'])[:80]!r} changes the base's weights, which "
            "the folder does not hold: save it from peft as plain LoRA (path_initial_model_for_weight_conversion)"
        )
    return kind


def _names(config: Mapping[str, Any], key: str, where: str, optional: bool = False) -> list[str]:
    found = config.get(key)
    if found is None and optional:
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found) or len(found) > 100_000:
        raise ValueError(f"{where}: {key} must be a list of module names, got {str(found)[:80]!r}")
    return found


def _matched(hf: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the module paths that names match: as a whole, or from a dot on."""
    wanted = {*names}
    found = []
    for path, _ in hf.named_modules():
        parts = path.split(".")
        if any(".".join(parts[start:]) in wanted for start in range(len(parts))):
            found.append(path)
    return found


def _wake_only(model: LoadedModel, heads: Sequence[str], where: str) -> None:
    """Let the strategy wake the layers that the file holds whole, and no others."""
    layers = []
    for head in heads:
        for path, module in model.get("hf").get_submodule(head).named_modules(prefix=f"hf.{head}"):
            if isinstance(module, nn.Linear):
                layers.append(path)
            elif any(True for _ in module.parameters(recurse=False)):
                raise ValueError(f"{where}: modules_to_save has {path.removeprefix('hf.')!r}, which is no linear layer")
    if layers and model.head not in layers:
        raise ValueError(f"{where}: modules_to_save has {layers[0].removeprefix('hf.')!r} without the model's head")
    model.head_is_fresh = bool(layers)
    model.before_head = tuple(path for path in layers if path != model.head)


def _virtual(
    kind: str, config: Mapping[str, Any], model: LoadedModel, where: str, shapes: Mapping[str, tuple[int, ...]]
) -> Strategy:
    tokens = config.get("num_virtual_tokens")
    own_shape = shapes.get("prompt_embeddings", (None,))
    if (tokens,) != own_shape[:1] or 0 in own_shape:
        raise ValueError(
            f"{where}: num_virtual_tokens {str(tokens)[:20]} is not the number of rows of prompt_embeddings"
        )
    if model.network.is_encoder_decoder:
        raise ValueError(f"{where}: virtual tokens of peft are not read for encoder-decoders")
    if kind != "PREFIX_TUNING":
        return PromptTuning(tokens)  # type: ignore[arg-type]  # it checks
    own = model.key_values
    if own is not None:
        wanted = {"num_layers": own.layers, "num_attention_heads": own.heads, "token_dim": own.heads * own.width}
        for key, value in wanted.items():
            if config.get(key) not in (None, value):
                raise ValueError(f"{where}: {key} is {str(config[key])[:20]}, and this model has {value}")
    return PrefixTuning(tokens)  # type: ignore[arg-type]


def _beside_layers(
    kind: str, config: Mapping[str, Any], ours: Strategy | None, where: str, shapes: Mapping[str, tuple[int, ...]]
) -> Strategy:
    if kind == "IA3":
        return IA3("all")
    if kind == "LN_TUNING":
        return NormTuning()
    rank, alpha = config.get("r"), config.get("lora_alpha")
    flags = {key: config.get(key, False) for key in ("use_rslora", "use_dora")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{where}: {key} must be true or false, got {str(flag)[:20]!r}")
    try:
        found = Lora(
            rank,  # type: ignore[arg-type]  # it checks
            alpha,  # type: ignore[arg-type]
            "all",
            scaling="rslora" if flags["use_rslora"] else "standard",
            dropout=config.get("lora_dropout", 0.0),
            dora=flags["use_dora"],
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if any(name.endswith(".lora_A.weight") and shape[:1] != (rank,) for name, shape in shapes.items()):
        raise ValueError(f"{where}: r is {rank}, and not all of the file's lora_A are of that rank")
    if isinstance(ours, Lora) and ours.init == "pissa":
        scaling = SCALINGS[ours.scaling]
        same = math.isclose(alpha or 0, ours.alpha / scaling(ours.rank) * scaling(2 * ours.rank))
        if rank != 2 * ours.rank or ours.dora != found.dora or not same:
            raise ValueError(f"{where}: r, lora_alpha and use_dora are not those of the PiSSA that the folder names")
        return Lora(ours.rank, ours.alpha, "all", ours.scaling, 1.0, ours.dropout, "pissa", ours.dora)
    return found
