"""peft's configurations as strategies of ours: a base adapted as a folder of peft says, or one line why not.

What peft can do and we cannot is refused by name; no name in a configuration is looked up outside the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from sweeper.models.base import LoadedModel
from sweeper.peft_layout import Slot, heads_of, saved_modules, slots, task_type
from sweeper.strategies.base import Strategy
from sweeper.strategies.ia3 import IA3
from sweeper.strategies.lora import SCALINGS, Lora
from sweeper.strategies.norm_tuning import NormTuning, is_norm
from sweeper.strategies.prefix_tuning import PrefixTuning
from sweeper.strategies.prompt_tuning import PromptTuning

WAY_OUT = "Name the model that it was trained on, or load it with peft itself"
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
        raise ValueError(f"{where} is peft's, and this model is none of transformers. {WAY_OUT}")
    if config.get("task_type") not in (None, task_type(base)):
        raise ValueError(f"{where}: task_type {config['task_type']!r} is not {task_type(base)}. {WAY_OUT}")
    model = base.beside()
    hf: Any = model.network.hf
    heads = saved_modules(hf, [*_names(config, "modules_to_save", where, optional=True), *heads_of(model)])
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
            raise ValueError(f"{where}: target_modules {what}. {WAY_OUT}")
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
        raise ValueError(f"{where}: peft_type {kind!r} is none that is read here ({known}). {WAY_OUT}")
    for key, value in config.items():
        if key not in (*READ[kind], *IDLE) and value not in OFF:
            raise ValueError(f"{where}: {key} is {str(value)[:80]!r}, which is not supported here. {WAY_OUT}")
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
                raise ValueError(
                    f"{where}: modules_to_save has {path.removeprefix('hf.')!r}, which is no linear layer. {WAY_OUT}"
                )
    if layers and model.head not in layers:
        raise ValueError(
            f"{where}: modules_to_save has {layers[0].removeprefix('hf.')!r} without the model's head. {WAY_OUT}"
        )
    model.head_is_fresh = bool(layers)
    model.before_head = tuple(path for path in layers if path != model.head)


def _virtual(
    kind: str, config: Mapping[str, Any], model: LoadedModel, where: str, shapes: Mapping[str, tuple[int, ...]]
) -> Strategy:
    tokens = config.get("num_virtual_tokens")
    own_shape = shapes.get("prompt_embeddings", (None,))
    if (tokens,) != own_shape[:1] or 0 in own_shape:
        raise ValueError(
            f"{where}: num_virtual_tokens {str(tokens)[:20]} is not the number of rows of prompt_embeddings. {WAY_OUT}"
        )
    if task_type(model) == "SEQ_2_SEQ_LM" or getattr(model.network, "is_encoder_decoder", False):
        raise ValueError(f"{where}: virtual tokens of peft are not read for encoder-decoders. {WAY_OUT}")
    if kind != "PREFIX_TUNING":
        return PromptTuning(tokens)  # type: ignore[arg-type]  # it checks
    own = model.key_values
    if own is not None:
        wanted = {"num_layers": own.layers, "num_attention_heads": own.heads, "token_dim": own.heads * own.width}
        for key, value in wanted.items():
            if config.get(key) not in (None, value):
                raise ValueError(f"{where}: {key} is {str(config[key])[:20]}, and this model has {value}. {WAY_OUT}")
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
        raise ValueError(f"{where}: r is {rank}, and not all of the file's lora_A are of that rank. {WAY_OUT}")
    if isinstance(ours, Lora) and ours.init == "pissa":
        scaling = SCALINGS[ours.scaling]
        same = math.isclose(alpha or 0, ours.alpha / scaling(ours.rank) * scaling(2 * ours.rank))
        if rank != 2 * ours.rank or ours.dora != found.dora or not same:
            raise ValueError(
                f"{where}: r, lora_alpha and use_dora are not those of the PiSSA that the folder names. {WAY_OUT}"
            )
        return Lora(ours.rank, ours.alpha, "all", ours.scaling, 1.0, ours.dropout, "pissa", ours.dora)
    return found
