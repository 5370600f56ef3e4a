"""Any method of the installed package peft, by its own configuration class: ``peft:METHOD``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from sweeper.members import CannotPackError
from sweeper.models.base import LoadedModel, UnavailableError, derived_seed, generators
from sweeper.strategies.base import LATER, Stage, Strategy
from sweeper.suggest import no_such
from sweeper.torchvision_ops import declare_missing_ops

# What a sweep decides by itself.
OURS = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "modules_to_save",
    "num_layers",
    "num_attention_heads",
    "token_dim",
    "num_transformer_submodules",
}


def import_peft() -> Any:
    """Return the package peft.

    Raises:
        UnavailableError: it is not installed.
    """
    declare_missing_ops()
    # peft imports bitsandbytes where it is installed, which on some CPUs warns of a kernel that nobody asked for.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        import peft
    except ImportError:
        raise UnavailableError("peft: strategies need the package peft: pip install 'sweeper-advisor[hf]'") from None
    return peft


def method(name: str) -> type[Strategy]:
    """Return a method of the installed package peft, by its own configuration's fields.

    Without the package the strategy is there, and says what is missing where it is to adapt a model: a grid
    then leaves it out with that reason.

    Raises:
        ValueError: the installed peft has no such method.
    """
    try:
        peft = import_peft()
    except UnavailableError:
        return _strategy(name, None)
    configs = {kind.value.lower(): config for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name.lower() not in configs:
        raise no_such("method", name, configs, f" in peft {peft.__version__}")
    return _strategy(name.lower(), configs[name.lower()])


@lru_cache
def _strategy(name: str, config: Any) -> type[Strategy]:
    own = [] if config is None else [f.name for f in dataclasses.fields(config) if f.init and f.name not in OURS]
    return dataclasses.make_dataclass(
        f"Peft_{name}",
        # None is peft's default, whatever the installed peft has for it, and is left out of a spec.
        [(field, Any, dataclasses.field(default=None, metadata=LATER)) for field in own],
        frozen=True,
        namespace={
            "name": f"peft:{name}",
            "per_member": frozenset(),
            "space": {},
            "adapt": _adapt,
            "config": config,
            "__doc__": f"Train what peft's method {name} adds; its fields are peft's own.",
        },
    )


def _adapt(self: Any, model: LoadedModel, members: Sequence[Any]) -> Iterator[Stage]:
    """Hand the network to peft."""
    peft = import_peft()
    if model.members > 1:
        raise CannotPackError(f"{self.name}: peft's modules have no member axis")
    whole = getattr(model.network, "hf", None)
    own, choices = _choices(self, model, whole is not None)
    fresh = [model.head, *model.before_head] if model.head_is_fresh else []
    before = {id(module) for module in model.network.modules()}
    already = {id(p) for p in model.network.parameters()}
    _draw(model, fresh)
    heads = [model.get(path) for path in fresh]
    # peft draws from the global generator, and so do its dropouts later on: a trial that runs alone seeds it.
    torch.manual_seed(derived_seed(model.seeds[0], self.name))
    for choice in choices:
        try:
            # It edits the network in place. What it returns stands around one that it knows, and else is only
            # kept, for the sake of what layers share.
            around = peft.get_peft_model(model.network if whole is None else whole, self.config(**choice))
            break
        except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, ImportError) as error:
            if choice is choices[-1]:
                raise ValueError(f"{self.name}: {' '.join(str(error).split())[:300]}") from None
    if whole is not None:
        model.network.hf = around
    for module in model.network.modules():
        if id(module) not in before:
            module.training = True
    saved = "modules_to_save" in own and whole is not None
    for name, p in model.network.named_parameters():
        if "modules_to_save" in name:
            p.requires_grad_(bool(fresh))
    for head in heads:
        head.requires_grad_(not saved)
    added = [p for name, p in model.trainable().items() if id(p) not in already and "modules_to_save" not in name]
    if not added:
        raise model.not_applicable(self.name, "it adds nothing that trains to this model")
    model.switches.append(Added(model, added, around))
    yield Stage()


def _choices(self: Any, model: LoadedModel, is_whole: bool) -> tuple[set[str], list[dict[str, Any]]]:
    """Return the fields of peft's configuration, and values for it to be tried one after the other."""
    fields = {f.name for f in dataclasses.fields(self.config)}
    given = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) is not None}
    if "num_virtual_tokens" in fields:
        if not is_whole or model.embedding is None:
            raise model.not_applicable(self.name, "peft puts virtual tokens before texts, for transformers alone")
        given.setdefault("num_virtual_tokens", 20)
    if not is_whole and self.name == "peft:ln_tuning":
        raise model.not_applicable(self.name, "outside transformers, norm_tuning is for that")
    if is_whole:
        given["task_type"] = "SEQ_CLS"
        if model.head_is_fresh and "modules_to_save" in fields:
            given["modules_to_save"] = [path.removeprefix("hf.") for path in (model.head, *model.before_head)]
    if "target_modules" not in fields:
        return fields, [given]
    named = _targets(self.name, model, given.get("target_modules"), "hf." if is_whole else "")
    everywhere = {**given, "target_modules": named}
    if "feedforward_modules" in fields:
        inner = {path for path, role in model.roles.items() if role == "mlp_out"}
        everywhere.setdefault("feedforward_modules", [p for p in named if p in inner or f"hf.{p}" in inner])
    # peft knows for many families which layers to take; elsewhere it takes all linear ones.
    return fields, [everywhere] if not is_whole or "target_modules" in given else [given, everywhere]


def _targets(strategy: str, model: LoadedModel, chosen: Any, root: str) -> list[str]:
    """Return module paths for a selection of roles; all linear layers of the blocks unless one is made."""
    paths = model.targets(chosen or "all")
    linear = [path.removeprefix(root) for path in paths if isinstance(model.get(path), nn.Linear)]
    if not linear:
        raise model.not_applicable(strategy, "the model's blocks have no linear layer")
    return linear


def _draw(model: LoadedModel, fresh: Sequence[str]) -> None:
    """Initialise the fresh layers by the trial's seed, as `LoadedModel.wake_fresh_head` does."""
    (rng,) = generators(model.seeds, "head")
    for path in fresh:
        layer = model.get(path)
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        with torch.no_grad():
            for p in (layer.weight, layer.bias):
                if p is not None:
                    p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=rng))


class Added:
    """What peft added to a network, as one addition that can be counted and switched off."""

    def __init__(self, model: LoadedModel, own: list[nn.Parameter], around: nn.Module) -> None:
        self.model, self.own, self.around = model, own, around
        self._enabled = True

    @property
    def enabled(self) -> bool:
        """Whether it takes part."""
        return self._enabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in self.model.network.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(on)
        self._enabled = on

    def own_params(self, member: int) -> int:
        """Return how many parameters train."""
        return sum(p.numel() for p in self.own)

    def extra_params(self, member: int) -> int:
        """Return by how many parameters the network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return self.own

    def merged(self, member: int) -> None:
        """Return ``None``: peft's own `merge_and_unload` is for that."""
        return None
