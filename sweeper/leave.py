"""Members leave a pack while it trains: the others go on in a smaller one, with all that was theirs.

The smaller pack is built as any pack is, up to the same stage; then everything that has grown since, weights,
running statistics and random streams, is carried over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sweeper.members import member_of
from sweeper.models.base import LoadedModel
from sweeper.strategies.base import Stage, Strategy


def smaller(
    model: LoadedModel, base: LoadedModel, strategies: Sequence[Strategy], kept: Sequence[int], stages: int
) -> tuple[LoadedModel, Iterator[Stage], Stage]:
    """Return a pack of some members in the place of a larger one, the stages to come and the present one.

    Args:
        model: The larger pack, which stays as it is.
        base: What it started from (`LoadedModel.beside`, taken before).
        strategies: Those of the members that stay.
        kept: Their places in the larger pack.
        stages: How many stages have begun.

    Raises:
        ValueError: something in the one pack has no counterpart in the other.
    """
    pack = base.beside()
    pack.seeds = tuple(model.seeds[k] for k in kept)
    to_come = strategies[0].adapt(pack, strategies)
    for _ in range(stages):
        stage = next(to_come)
    pack.network.to(next(model.network.parameters()).device)
    _carry(model.network, pack.network, kept)
    return pack, to_come, stage


def place_in(name: str, kept: Sequence[int]) -> str:
    """Return the name that a tensor of the smaller pack has in the larger one."""
    member = member_of(name)
    return name if member is None else name.replace(f"copies.{member}", f"copies.{kept[member]}", 1)


def of_kept(large: Tensor, small: Tensor, kept: Sequence[int], name: str) -> Tensor:
    """Return what of a tensor is the kept members', in the shape that the smaller pack has.

    Raises:
        ValueError: neither has the one shape the other's nor a set for each member.
    """
    if member_of(name) is None and large.shape != small.shape:
        large = large[list(kept)]
    # The largest rank of a pack may have left: what is cut off is zero for all others.
    part = large[tuple(slice(size) for size in small.shape)]
    if part.shape != small.shape:
        raise ValueError(f"{name} is {tuple(large.shape)} in one pack and {tuple(small.shape)} in the other")
    return part


@torch.no_grad()
def _carry(large: nn.Module, small: nn.Module, kept: Sequence[int]) -> None:
    theirs = {**dict(large.named_parameters()), **dict(large.named_buffers())}
    for name, tensor in [*small.named_parameters(), *small.named_buffers()]:
        old = theirs.get(place_in(name, kept))
        if old is None:
            raise ValueError(f"{name} is in one pack alone")
        if old.data_ptr() != tensor.data_ptr():  # the frozen base is shared
            tensor.copy_(of_kept(old, tensor, kept, name))
    modules = dict(large.named_modules())
    for name, module in small.named_modules():
        streams = getattr(modules.get(place_in(name, kept)), "rngs", None)
        if streams:
            module.rngs = [streams[k] for k in kept]  # of `MemberDropout`
