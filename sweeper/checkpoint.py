"""Where the training of a pack is written down while it goes on, so that it need not start again at its first step.

One file a pack: tensors as safetensors, all else as JSON in its header, with a digest of the whole. What cannot be
read, or does not fit, is as if it were not there: the pack starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sweeper.cache import digest_of
from sweeper.models.base import LoadedModel
from sweeper.optim import MemberAdamW

EVERY = 60.0
"""Seconds between two checkpoints: what is lost at most. A pack that takes no longer writes none."""
RECIPE = 1  # raise it when a change of the training loop makes what was written before of no use


@dataclass(frozen=True)
class State:
    """A pack in the middle of its training.

    Attributes:
        step: Steps done.
        begun: Stages begun.
        here: Members that are in the model.
        trained: `sweeper.train.Trained` of each member that the pack began with, as mappings.
        drawn: How many batches were drawn from which share of which split.
        updates: Steps that the optimizer has done.
        tensors: What is not as it was loaded: weights, statistics, the optimizer's means, random streams, losses.
    """

    step: int
    begun: int
    here: list[int]
    trained: list[dict[str, Any]]
    drawn: list[tuple[str, float, int]]
    updates: int
    tensors: dict[str, Tensor]


def file_for(folder: Path, trials: Sequence[str]) -> Path:
    """Return where the checkpoint of a pack with these trial ids is."""
    return folder / f"{hashlib.sha256(' '.join(trials).encode()).hexdigest()[:16]}.safetensors"


def write(file: Path, trials: Sequence[str], state: State) -> None:
    """Write a state in place of an older one; a disk that refuses costs no more than the checkpoint."""
    plain = {name: value for name, value in vars(state).items() if name != "tensors"}
    text = json.dumps({"recipe": RECIPE, "torch": torch.__version__, "trials": list(trials), **plain})
    temporary = file.with_name(f"{file.stem}.{secrets.token_hex(4)}.tmp")
    with contextlib.suppress(OSError, SafetensorError):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            header = {"state": text, "digest": digest_of(text, sorted(state.tensors.items()))}
            save_file(state.tensors, temporary, header)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def read(file: Path, trials: Sequence[str]) -> State | None:
    """Return the state in a file; ``None`` where there is none that is whole and of this pack."""
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
        content = json.loads(header["state"])
        if header["digest"] != digest_of(header["state"], sorted(tensors.items())):
            return None
        if [content.pop(key) for key in ("recipe", "torch", "trials")] != [RECIPE, torch.__version__, list(trials)]:
            return None
        return State(**content, tensors=tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def groups(folder: Path, wanted: Collection[str]) -> list[list[str]]:
    """Return the ids of trials that were training together and are all wanted; none is in two groups."""
    found: list[list[str]] = []
    for file in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError, TypeError):
            with safe_open(file, framework="pt") as opened:
                trials = json.loads(opened.metadata()["state"])["trials"]
            if set(trials) <= set(wanted) and not any(set(trials) & set(group) for group in found):
                found.append(trials)
    return found


def forget(folder: Path, done: Collection[str]) -> None:
    """Remove the checkpoints of packs whose trials are all done."""
    for group in groups(folder, done) if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            file_for(folder, group).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()  # if it is empty


def tensors_of(
    model: LoadedModel, base: LoadedModel, optimizer: MemberAdamW, losses: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return all that training has changed, to be written before a further step.

    Args:
        model: The pack.
        base: What it started from, which shares with it what does not change.
        losses: Of the steps since the last point of the curve, each ``(members,)``.
    """
    shared = {tensor.data_ptr() for tensor in (*base.network.parameters(), *base.network.buffers())}
    names = {parameter: name for name, parameter in model.network.named_parameters()}
    found = {f"network/{name}": own for name, own in _all(model).items() if own.data_ptr() not in shared}
    for parameter, _, _, mean, square in optimizer.state:
        found[f"mean/{names[parameter]}"], found[f"square/{names[parameter]}"] = mean, square
    for name, module in model.network.named_modules():
        for number, rng in enumerate(getattr(module, "rngs", ())):
            found[f"rng/{name}/{number}"] = rng.get_state()
    if losses:
        found["losses"] = torch.stack(list(losses))
    written: set[int] = set()
    for name, tensor in found.items():
        # As it lies where that can be: a copy may be as large as the model. Of two in one storage one is copied, for
        # safetensors writes no storage twice.
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        as_it_lies = whole and tensor.device.type == "cpu" and tensor.data_ptr() not in written
        written.add(tensor.data_ptr())
        found[name] = tensor.detach() if as_it_lies else tensor.detach().to("cpu", copy=True).contiguous()
    return found


@torch.no_grad()
def put_back(tensors: Mapping[str, Tensor], model: LoadedModel, optimizer: MemberAdamW) -> list[Tensor]:
    """Write what `tensors_of` returned into a pack that has come to the same stage; return the losses.

    Raises:
        ValueError: they are not of such a pack; nothing has been written.
    """
    names = {parameter: name for name, parameter in model.network.named_parameters()}
    places = {f"network/{name}": own for name, own in _all(model).items()}
    for parameter, _, _, mean, square in optimizer.state:
        places[f"mean/{names[parameter]}"], places[f"square/{names[parameter]}"] = mean, square
    streams: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("rng/"):
            streams.setdefault(name[len("rng/") :].rpartition("/")[0], []).append(tensor)
        elif name != "losses" and (name not in places or places[name].shape != tensor.shape):
            raise ValueError(f"{name} {tuple(tensor.shape)} has no place here")
    if any(name.startswith("mean/") and name not in tensors for name in places):
        raise ValueError("something trains here that did not train there")
    device = next(model.network.parameters()).device
    modules = dict(model.network.named_modules())
    for name, tensor in tensors.items():
        if name in places:
            places[name].copy_(tensor)
    for name, states in streams.items():
        modules[name].rngs = [_stream(state, device) for state in states]
    return [*tensors["losses"].to(device)] if "losses" in tensors else []


def _stream(state: Tensor, device: torch.device) -> torch.Generator:
    rng = torch.Generator(device)
    rng.set_state(state)
    return rng


def _all(model: LoadedModel) -> dict[str, Tensor]:
    return {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
