"""What a frozen part of a network puts out, computed once for all steps, members and packs that share it.

Where a stage trains nothing before some block, or nothing but the head, the rows' activations at that cut never
change. They are kept in files named after their contents (weights, cut, rows), which all processes of a machine map
into memory. A cut is used only after a replay from it gave what the whole network gives.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sweeper.cache import cache_folder, digest_of
from sweeper.flops import FlopCounter
from sweeper.members import MEMBER_LAYERS
from sweeper.models.base import LoadedModel
from sweeper.tasks.base import Split

RECIPE = 1  # part of the key: raise it when a change here changes what is kept
BATCH = 64
MOST_SPLIT, MOST_FOLDER = 512 * 2**20, 4 * 2**30
"""Bytes: a split whose activations are larger is not kept, a folder that grows larger loses its oldest files."""
WORTH_SHARING = 1.0
"""Seconds: a split that takes longer, row by row, is computed in parts, by all processes that want it then."""
RTOL, ATOL = 1e-4, 1e-5


class _CutReachedError(Exception):
    """Ends a forward pass at the cut."""


@dataclass
class Prefix:
    """The part of a network before a cut.

    Attributes:
        model: What the cut is in.
        head: Whether the cut is right before the head, which is then all that is computed; else after `before`.
        before: Blocks before the cut.
        left: Whether rows are padded on the left, so that a shorter batch has their last columns.
        key: Of the weights and the cut.
    """

    model: LoadedModel
    head: bool
    before: tuple[str, ...]
    left: bool = False
    key: str = ""
    _kept: dict[int, tuple[Split, Tensor | None]] = field(default_factory=dict)
    _last: Tensor | None = None
    _known: deque[tuple[Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=4))

    def of(self, split: Split) -> Tensor | None:
        """Return the activations of a split's rows, ``(rows, ...)``; ``None`` where there would be too many."""
        if id(split) not in self._kept:
            self._kept[id(split)] = (split, self._read_or_make(split))  # with the split: its id stays its own
        return self._kept[id(split)][1]

    def remember(self, x: Tensor, activations: Tensor) -> None:
        """Tie activations to the very tensor of inputs that they belong to."""
        self._known.append((x, activations))

    def has(self, name: str) -> bool:
        """Return whether a module, or a tensor, is computed before the cut, as far as its name can tell."""
        model = self.model
        if any(_inside(name, path) for path in (model.head, *model.before_head)):
            return False
        after = model.blocks[len(self.before) :]
        return self.head or not any(_inside(name, path) for path in after)

    def replay(self, x: Tensor) -> Tensor | None:
        """Return what the network puts out for inputs whose activations are known; else ``None``."""
        found = next((activations for own, activations in self._known if own is x), None)
        if found is None:
            return None
        self._last = x
        return self.rest(x, found)

    def spared(self) -> int:
        """Return the FLOPs that the last replay would have cost before the cut: each member's rows are as many."""
        x = self._last[: len(self._last) // self.model.members] if self._last is not None else None
        if x is None:
            return 0
        with FlopCounter() as counter:
            self.compute(x)
        return self.model.members * counter.get_total_flops()

    def rest(self, x: Tensor, activations: Tensor) -> Tensor:
        """Return what the network puts out, gone on from activations."""
        network = self.model.network
        if self.head:
            outputs: Tensor = network.get_submodule(self.model.head)(activations)
            return outputs
        *skipped, last = [network.get_submodule(path) for path in self.before]

        def told(hidden: Tensor, *rest: Any, **more: Any) -> Tensor:
            width = hidden.shape[1] if activations.dim() == 3 else activations.shape[1]
            return activations[:, -width:] if self.left else activations[:, :width]

        with contextlib.ExitStack() as stack:
            for block in skipped:
                stack.enter_context(_instead(block, lambda hidden, *rest, **more: hidden))
            stack.enter_context(_instead(last, told))
            outputs = network(x)
            return outputs

    def _read_or_make(self, split: Split) -> Tensor | None:
        started = time.perf_counter()
        first = self.compute(split.x[:1])
        seconds = time.perf_counter() - started
        columns = split.x.shape[1] / first.shape[1] if _has_columns(first, split) else 1
        if len(split) * first.numel() * first.element_size() * columns > MOST_SPLIT:
            return None
        folder = cache_folder() / "prefixes"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{digest_of(self.key, [('x', split.x)])}.safetensors"
        kept = _read(file, first, len(split))
        if kept is None:
            make = self._make_with_others if len(split) * seconds > WORTH_SHARING else self._make
            kept = make(file, first, split)
            _forget_oldest(folder)
        return kept

    def _make(self, file: Path, first: Tensor, split: Split) -> Tensor:
        with FileLock(file.with_suffix(".lock")):
            kept = _read(file, first, len(split))  # somebody else's
            if kept is None:
                kept = self.joined([self.compute(x) for x in split.x.split(BATCH)], split)
                _write(file, kept)
            return kept

    def _make_with_others(self, file: Path, first: Tensor, split: Split) -> Tensor:
        """Compute part after part, leaving out those that another process has or is at, and put them together."""
        parts = {
            file.with_name(f"{file.stem}-{start}-{len(x)}.safetensors"): x
            for start, x in zip(range(0, len(split), BATCH), split.x.split(BATCH), strict=True)
        }
        mine: dict[Path, Tensor] = {}
        for wait in (0, -1):  # first what nobody is at, then what somebody was at and may have left
            for part, x in parts.items():
                if part in mine or file.exists():
                    continue
                with contextlib.suppress(Timeout), FileLock(part.with_suffix(".lock"), timeout=wait):
                    found = _read(part, first, len(x))
                    if found is None and not file.exists():  # the others may have put all parts together
                        found = self.compute(x)
                        _write(part, found)
                    if found is not None:
                        mine[part] = found
        with FileLock(file.with_suffix(".lock")):
            kept = _read(file, first, len(split))
            if kept is None:
                kept = self.joined(
                    [mine[part] if part in mine else self.compute(x) for part, x in parts.items()], split
                )
                _write(file, kept)
        for part in parts:
            part.unlink(missing_ok=True)
            part.with_suffix(".lock").unlink(missing_ok=True)
        return kept

    def joined(self, parts: Sequence[Tensor], split: Split) -> Tensor:
        """Return the activations of all rows; a batch of tokens has as many columns as it uses, and gets the most."""
        if _has_columns(parts[0], split):
            most = max(part.shape[1] for part in parts)
            room = [most - part.shape[1] for part in parts]
            sides = [(0, 0, n, 0) if self.left else (0, 0, 0, n) for n in room]
            parts = [nn.functional.pad(part, side) for part, side in zip(parts, sides, strict=True)]
        return torch.cat(list(parts))

    @torch.no_grad()
    def compute(self, x: Tensor) -> Tensor:
        """Return the activations of inputs, each computed once, whatever the members."""
        read: list[Tensor] = []

        def stop(module: nn.Module, inputs: Any, output: Any = None) -> None:
            read.append(inputs[0] if self.head else output)
            raise _CutReachedError

        network = self.model.network
        device = next(network.parameters()).device
        if self.head:
            hook = network.get_submodule(self.model.head).register_forward_pre_hook(stop)
        else:
            hook = network.get_submodule(self.before[-1]).register_forward_hook(stop)
        try:
            network(x.to(device))
        except _CutReachedError:
            pass
        finally:
            hook.remove()
        if not read or not isinstance(read[0], Tensor):
            raise TypeError("no tensor passes the cut")
        return read[0].cpu()


def _read(file: Path, first: Tensor, rows: int) -> Tensor | None:
    """Return the activations in a file, mapped; ``None`` where there is none, or one of another shape."""
    with contextlib.suppress(SafetensorError, OSError):
        os.utime(file)
        with safe_open(file, framework="pt") as opened:
            kept: Tensor = opened.get_tensor("activations")
        if len(kept) == rows and kept.shape[2:] == first.shape[2:]:
            return kept
    return None


def _write(file: Path, activations: Tensor) -> None:
    with contextlib.suppress(OSError):  # a full disk costs no more than the cache
        temporary = file.with_name(f"{file.stem}.{secrets.token_hex(4)}.tmp")
        try:
            save_file({"activations": activations.contiguous()}, temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _instead(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the class's own shows again


def _forget_oldest(folder: Path) -> None:
    files = []
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):
            files.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files, key=lambda entry: entry[0]):
        if total <= MOST_FOLDER:
            break
        file.unlink(missing_ok=True)  # who has it open keeps what it has
        total -= size


def find_prefix(model: LoadedModel, splits: Sequence[Split]) -> Prefix | None:
    """Return the longest part of a network that stays as it is while what is awake now trains.

    ``None`` where there is none that is worth it, or where a replay does not give what the network gives.

    Args:
        model: After a strategy has adapted it: what trains is awake.
        splits: Rows to compare on, those of each member.
    """
    awake = [module for module in model.network.modules() if module.training]
    model.network.eval()  # running statistics must not hear of this
    try:
        for prefix in _cuts(model, awake) if len(splits[0]) else ():
            if _replays(prefix, splits[0]):
                own = [entry for entry in sorted(model.network.state_dict().items()) if prefix.has(entry[0])]
                what = [RECIPE, type(model.network).__name__, prefix.head, prefix.before, prefix.left]
                prefix.key = digest_of(json.dumps(what), own)
                return prefix
    finally:
        for module in awake:
            module.training = True
    return None


def _cuts(model: LoadedModel, awake: Sequence[nn.Module]) -> Iterator[Prefix]:
    """Yield the places where a network could be cut, the last one first."""
    first, only_head = len(model.blocks), True
    for name in model.trainable():
        only_head = only_head and _inside(name, model.head)
        if any(_inside(name, path) for path in (model.head, *model.before_head)):
            continue
        number = next((i for i, path in enumerate(model.blocks) if _inside(name, path)), None)
        if number is None:  # somewhere else
            return
        first = min(first, number)
    before = model.blocks[:first]
    heads = (True, False) if only_head and before else (only_head,)
    for prefix in [Prefix(model, head, before, left) for head in heads for left in (False, True)]:
        inside = [module for name, module in model.network.named_modules() if name and prefix.has(name)]
        changes = any(isinstance(module, MEMBER_LAYERS) or any(module is own for own in awake) for module in inside)
        if not (changes or model.quantised) and (prefix.head or before):
            yield prefix


def _has_columns(activations: Tensor, split: Split) -> bool:
    return activations.dim() == 3 and split.x.dim() == 2


def _inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


@contextlib.contextmanager
def _unrounded() -> Iterator[None]:
    """Have a GPU compute in full float32: rounded to TF32, batches of unlike sizes differ more than `RTOL` allows."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@torch.no_grad()
@_unrounded()
def _replays(prefix: Prefix, split: Split) -> bool:
    """Return whether a replay gives what the network gives, for a batch as wide as it comes and for a narrow one."""
    plain_network = prefix.model.merged(0)
    if plain_network is not None:  # one member alone is less work, and tells as much
        prefix = replace(prefix, model=prefix.model.one(plain_network))
    model = prefix.model
    device = next(model.network.parameters()).device
    rows = torch.tensor(sorted({0, len(split) - 1}))
    try:
        kept = prefix.compute(split.x[rows])
        for some in (len(rows), 1):
            x = torch.cat([split.x[rows[:some]]] * model.members).to(device)
            activations = torch.cat([kept[:some]] * model.members).to(device)
            plain, again = model.network(x), prefix.rest(x, activations)
            if again.dim() == 3:  # columns that no row uses may be left out
                again = again[:, -plain.shape[1] :] if prefix.left else again[:, : plain.shape[1]]
            if plain.shape != again.shape or not torch.allclose(plain, again, rtol=RTOL, atol=ATOL):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return False  # the network does more between its blocks than can be left out
    return True
