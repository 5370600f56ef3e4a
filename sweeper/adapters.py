"""What a trial trained, as a folder of safetensors and JSON: save, load, swap, merge, compare. No pickle.

Three layouts. Where stock peft has the method, on transformers, its own (`sweeper.peft_layout`); where the
whole network trained, ``model.safetensors`` with the names of the network, for transformers those that
``from_pretrained`` reads; else our own, the parameters that trained by their names. The facts about
strategy, base and trial stand in ``adapter_config.json`` in our own layout, and in the header of the
safetensors file in the others, where no other reader minds them.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from sweeper import peft_config, peft_layout
from sweeper.adapter_card import card
from sweeper.adapter_facts import ANEW, Facts, facts_of, fingerprint
from sweeper.members import member_of
from sweeper.models.base import LoadedModel
from sweeper.safe_file import SafeTensors, check_names, new_folder
from sweeper.safe_json import parse_object, read_json
from sweeper.signature import signature_of
from sweeper.spec import TrialResult
from sweeper.strategies import Strategy, find_strategy
from sweeper.suggest import no_such
from sweeper.tasks.base import TaskData

CONFIG, WEIGHTS, WHOLE, CARD = "adapter_config.json", "adapter_model.safetensors", "model.safetensors", "README.md"
OURS = frozenset({CONFIG, WEIGHTS, WHOLE, CARD, "config.json"})
IN_HEADER = "sweeper"
SMALL = 1024  # hyperparameters up to this are never too large for memory


def save_adapter(
    folder: Path, base: LoadedModel, model: LoadedModel, member: int, facts: Facts, overwrite: bool = False
) -> None:
    """Write one member of a trained pack.

    Args:
        folder: Where to; it is there whole or, where something goes wrong, not at all.
        base: The network as it was before it was adapted (`LoadedModel.beside`, taken then, costs nothing).
        model: The trained pack.
        member: Which member.
        facts: About it (`facts_of`).
        overwrite: Whether an adapter that is already there is replaced.

    Raises:
        ValueError: the folder is taken, or this strategy leaves nothing that a file can hold.
    """
    strategy = facts.build()
    alone, kept = _structure(strategy, base.beside())
    for name, tensor in kept.items():
        tensor.data.copy_(_own(model, member, name, tensor))
    everything = {id(p) for p in alone.network.parameters()} <= {id(tensor) for tensor in kept.values()}
    config, tensors = ({}, {}) if everything else peft_layout.export(alone, strategy, [*kept.values()])
    if everything:
        plain = alone.merged(0)
        assert plain is not None
        save_model(folder, plain, facts, peft_layout.task_type(base), overwrite)
        return
    facts = replace(facts, layout="peft" if config else "parameters")
    if not config:
        config, tensors = facts.to_dict(), {name: _alone(name, tensor) for name, tensor in kept.items()}
    with new_folder(folder, overwrite, OURS) as temporary:
        _write_json(temporary / CONFIG, config)
        _write_tensors(temporary / WEIGHTS, tensors, facts)
        (temporary / CARD).write_text(card(facts, tensors, config), encoding="utf-8")


def save_model(folder: Path, plain: nn.Module, facts: Facts, task_type: str, overwrite: bool = False) -> None:
    """Write a whole network in plain layers; what transformers built, it loads by ``from_pretrained``."""
    facts = replace(facts, layout="model")
    tensors = {name: value.T if turned else value for name, value, turned in _plain(plain)}
    with new_folder(folder, overwrite, OURS) as temporary:
        _write_tensors(temporary / WHOLE, tensors, facts)
        hf: Any = getattr(plain, "hf", None)
        if hf is not None:
            config = copy.deepcopy(hf.config)
            config.architectures = [type(hf).__name__]
            if facts.signature and facts.signature.labels:
                config.id2label = dict(enumerate(facts.signature.labels))
                config.label2id = {label: number for number, label in config.id2label.items()}
            config.to_json_file(temporary / "config.json")
        (temporary / CARD).write_text(card(facts, tensors, {}, task_type), encoding="utf-8")


def _structure(strategy: Strategy, model: LoadedModel) -> tuple[LoadedModel, dict[str, Tensor]]:
    """Return a model of one member adapted to the end, and all that trained or depends on it, by name."""
    trained: set[int] = set()
    for _ in strategy.adapt(model, [strategy]):
        trained |= {id(p) for p in model.trainable().values()}
    state = model.network.state_dict(keep_vars=True)  # running statistics too, where layers were copied to train
    trained |= {id(tensor) for name, tensor in state.items() if member_of(name) is not None}
    for addition in model.switches:
        assert isinstance(addition, nn.Module)
        # A buffer of one number is a setting, which the hyperparameters tell.
        trained |= {id(buffer) for buffer in addition.buffers(recurse=False) if buffer[0].numel() > 1}
    model.network.requires_grad_(False).eval()
    every = [*model.network.named_parameters(), *model.network.named_buffers()]
    return model, {name: tensor for name, tensor in every if id(tensor) in trained}


def _own(model: LoadedModel, member: int, name: str, like: Tensor) -> Tensor:
    """Return one member's part of a pack's tensor, padding cut off, shaped as where the member is alone."""
    path, _, own = name.replace("copies.0.", f"copies.{member}.", 1).rpartition(".")
    value: Any = getattr(model.get(path), own)
    if "copies." in name:
        return value.detach().to(like.device)
    return value.detach()[member : member + 1][tuple(slice(0, size) for size in like.shape)].to(like.device)


def _alone(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor without its member axis, where it has one."""
    return tensor if "copies." in name else tensor[0]


def _plain(network: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield names in a file, tensors of a plain network, and whether the file has them transposed."""
    hf: Any = getattr(network, "hf", None)
    for name, value in network.state_dict().items():
        if hf is None:
            yield name, value, False
        else:
            own = name.removeprefix("hf.")
            yield own, value, own.removesuffix(".weight") in hf.loaded_from_conv1d and own.endswith(".weight")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite: there is nothing worth saving. Try a lower lr")
    metadata = {IN_HEADER: json.dumps(facts.to_dict(), sort_keys=True, allow_nan=False)}
    if facts.layout == "model":
        metadata["format"] = "pt"  # transformers asks for it
    path.touch()
    mode = path.stat().st_mode  # as the user's other files; the package would write for the user alone
    save_file({name: t.detach().cpu().float().clone().contiguous() for name, t in tensors.items()}, path, metadata)
    path.chmod(mode)


@dataclass(frozen=True)
class Opened:
    """A folder whose files have been found and whose texts have been checked."""

    folder: Path
    config: Mapping[str, Any]
    facts: Facts | None
    file: SafeTensors

    @property
    def layout(self) -> str:
        """Which of `LAYOUTS`."""
        return self.facts.layout if self.facts else "peft"


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    """Open the files of a folder and check their texts.

    Raises:
        ValueError: the folder holds no adapter, or something in it is not as it must be.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}; `sweeper adapters ls` lists adapters")
    names = [name for name in (CONFIG, WHOLE) if (folder / name).is_symlink() or (folder / name).exists()]
    if not names:
        raise ValueError(
            f"{str(folder)!r} holds neither {CONFIG} nor {WHOLE}: no adapter. `sweeper adapters ls` lists them"
        )
    config = read_json(folder, CONFIG) if CONFIG in names else {}
    with SafeTensors(folder, WEIGHTS if config else WHOLE) as file:
        in_header = file.metadata.get(IN_HEADER)
        where = str(folder / CONFIG) if "format" in config else f"the header of {file.path}"
        found = config if "format" in config else None
        if found is None and in_header is not None:
            found = parse_object(in_header, where)
        facts = None if found is None else Facts.from_dict(found, where)
        wanted = "parameters" if "format" in config else "peft" if config else "model"
        if facts is not None and facts.layout != wanted:
            raise ValueError(f"{where}: layout is {facts.layout!r}, and the files are those of {wanted!r}. {ANEW}")
        if facts is None and wanted == "model":
            raise ValueError(
                f"{where} does not say what the network is: it is not from here. `sweeper adapters save` writes what "
                "does"
            )
        yield Opened(folder, config, facts, file)


def load_adapter(folder: Path, base: LoadedModel, name: str = "this model") -> LoadedModel:
    """Return a base with an adapter on it: a model of one member that is frozen and shares the base's tensors.

    The base is never changed: to switch the adapter off is to use the base.

    Args:
        folder: The adapter; from here, or from stock peft.
        base: The network as it was loaded.
        name: What messages call it.

    Raises:
        ValueError: the adapter is for another base, or its files are not as they must be.
    """
    with opened(folder) as found:
        if found.facts and found.layout != "model":
            _check_base(found.folder, found.facts, base, name)
        try:
            model, targets = _targets(found, base)
        except (RuntimeError, MemoryError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{folder} does not fit {name}: {' '.join(str(error).split())[:200]}. Load it on the model that it "
                "was trained on"
            ) from None
        check_names(found.file.path, found.file.shapes, {key: slot.shape for key, slot in targets.items()})
        for key, value in found.file.load().items():
            targets[key].set(value)
    return model


def _check_base(folder: Path, facts: Facts, base: LoadedModel, name: str) -> None:
    own = fingerprint(base, facts.head_is_fresh)
    if own != facts.fingerprint:
        raise ValueError(
            f"{folder} was trained on another base: {facts.base[:80]} ({facts.fingerprint[:12]}), "
            f"and this is {name} ({own[:12]}). Load it on the one that it was trained on"
        )


def _targets(found: Opened, base: LoadedModel) -> tuple[LoadedModel, dict[str, peft_layout.Slot]]:
    """Return the adapted model, and the place of each tensor of the file in it."""
    where = str(found.folder / CONFIG)
    if found.layout == "peft":
        ours = found.facts.build(where) if found.facts else None
        return peft_config.adapted(found.config, base, ours, where, found.file.shapes)
    assert found.facts is not None
    if found.layout == "model":
        model = replace(base, network=_untied(base.network), switches=[], seeds=(0,))
        slots = {n: peft_layout.whole(t.T if turned else t) for n, t, turned in _plain(model.network)}
        return model, slots
    most = max((math.prod(shape) for shape in found.file.shapes.values()), default=0)
    for key, value in found.facts.hparams.items():
        if isinstance(value, int) and value > max(most, SMALL):
            raise ValueError(f"{where}: {key} is {value:,}, larger than any tensor of the folder")
    model = base.beside()
    model.head_is_fresh = found.facts.head_is_fresh
    model, kept = _structure(found.facts.build(where), model)
    return model, {name: peft_layout.whole(_alone(name, tensor)) for name, tensor in kept.items()}


def _untied(network: nn.Module) -> nn.Module:
    """Return a copy in which no two modules share a tensor: training the whole network pulls them apart."""
    own = copy.deepcopy(network)
    for module in own.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(p.detach().clone(), requires_grad=False))
    return own


class Adapters:
    """Several adapters on one base, of which one at most is in use; switching is exact, since nothing is rewritten.

    All share the base's frozen tensors. Where none is active, the network is the base itself.
    """

    def __init__(self, base: LoadedModel, name: str = "this model") -> None:
        self.base, self.name = base, name
        self.loaded: dict[str, LoadedModel] = {}
        self.active: str | None = None

    def add(self, name: str, folder: Path) -> None:
        """Load a folder under a name; where it cannot be, everything stays as it was."""
        self.loaded[name] = load_adapter(folder, self.base, self.name)

    def activate(self, name: str) -> None:
        """Use the adapter of this name."""
        if name not in self.loaded:
            raise no_such("adapter", name, self.loaded)
        self.active = name

    def deactivate(self) -> None:
        """Use the base alone."""
        self.active = None

    @property
    def model(self) -> LoadedModel:
        """What is in use."""
        return self.base if self.active is None else self.loaded[self.active]

    def merged(self) -> nn.Module | None:
        """Return what is in use in plain layers, a network of its own; ``None`` where no plain layers do the same.

        It is made beside the unmerged network, which stays: to unmerge is to use that one.
        """
        return self.model.merged(0)


def merge(folder: Path, base: LoadedModel, target: Path, name: str = "this model", overwrite: bool = False) -> None:
    """Write an adapter merged into its base as a plain network.

    Raises:
        ValueError: what it adds is nothing that plain layers compute.
    """
    with opened(folder) as found:
        facts = found.facts
    model = load_adapter(folder, base, name)
    plain = model.merged(0)
    if plain is None:
        kinds = sorted({type(addition).__name__ for addition in model.switches})
        raise ValueError(
            f"{folder} cannot be merged: {facts.strategy if facts else 'it'} adds what no layer of the base computes "
            f"({', '.join(kinds)}); load it beside the base instead"
        )
    facts = facts or Facts("peft", {}, name, fingerprint(base), base.head_is_fresh)
    save_model(target, plain, facts, peft_layout.task_type(base), overwrite)


class Keeper:
    """Saves what `sweeper.trial.run_pack` trains, each trial in a folder of its own.

    Args:
        root: Where the folders go.
        overwrite: Whether those that are there are replaced.
        name: The folder's name; by default the trial's id.
    """

    def __init__(self, root: Path, overwrite: bool, name: str | None = None) -> None:
        self.root, self.overwrite, self.name = root, overwrite, name
        self.refused: ValueError | OSError | None = None
        """Why the last one could not be saved: no reason to lose its row."""

    def __call__(self, base: LoadedModel, model: LoadedModel, member: int, row: TrialResult, data: TaskData) -> None:
        """Save one member."""
        try:
            strategy = find_strategy(row.spec.strategy)(**row.spec.hparams)
            facts = facts_of(base, row.spec.model, strategy, row.spec, row.metrics, signature_of(base, data))
            save_adapter(self.root / (self.name or row.trial_id), base, model, member, facts, self.overwrite)
        except (ValueError, OSError) as error:
            self.refused = error
