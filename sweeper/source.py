"""Source models: trained once on the source domain of a task, then shared by all trials through a cache."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sweeper.cache import cache_folder, digest_of
from sweeper.models.base import LoadedModel
from sweeper.spec import TrainArgs
from sweeper.strategies.full import Full
from sweeper.tasks.base import Split
from sweeper.train import train_pack

# Part of the key: raise it when a change to the training loop changes what a source model learns.
RECIPE = 1


def source_weights(model: LoadedModel, rows: Split, train: TrainArgs, metric: str) -> dict[str, Tensor]:
    """Return the weights of a model trained on the source rows, from the cache where they are there.

    The cache's key is made of the contents: initial weights, rows, training arguments, seed. Processes
    that ask at once wait for the first to finish.

    Args:
        model: A network with its initial weights, and one member; it is not changed where the cache
            has the weights, and trained in place where not.
        metric: The task's.
    """
    key = _key(model, rows, train)
    folder = cache_folder() / "source"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key}.safetensors"
    with FileLock(folder / f"{key}.lock"):
        if file.exists():
            try:
                return load_file(file)
            except SafetensorError:
                file.unlink()  # a cache is only a cache: what cannot be read is made again
        plain = {name: value.shape for name, value in model.network.state_dict().items()}
        train_pack(model, [Full()], [train], [rows], [rows], metric)
        # Without the member axis, under the same names: Full wakes every layer in its place.
        trained = {name.replace("copies.0.", ""): value for name, value in model.network.state_dict().items()}
        # Clones, since a table of tokens that is also the head has two names, and a file no shared tensors.
        weights = {name: value.detach().cpu().reshape(plain[name]).clone() for name, value in trained.items()}
        temporary = folder / f"{key}.{secrets.token_hex(4)}.tmp"
        save_file(weights, temporary)
        temporary.replace(file)
        return weights


def _key(model: LoadedModel, rows: Split, train: TrainArgs) -> str:
    start = json.dumps([RECIPE, asdict(train), model.seeds], sort_keys=True)
    return digest_of(start, [*sorted(model.network.state_dict().items()), ("x", rows.x), ("y", rows.y)])
