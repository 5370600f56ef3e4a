"""Bottleneck adapters after each block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.models.base import Generators, LoadedModel, generators
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_whole


@dataclass(frozen=True)
class Adapter:
    """Train h + up(GELU(down(h))) after each frozen block (arXiv 1902.00751, section 2.1).

    ``up`` starts at zero, so training begins at the pretrained function. The head stays frozen unless it
    is fresh.

    Attributes:
        bottleneck: Width between down and up.
    """

    name: ClassVar[str] = "adapter"
    per_member: ClassVar[frozenset[str]] = frozenset({"bottleneck"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"bottleneck": (4, 16, 64), "lr": (3e-4, 1e-3, 3e-3)}

    bottleneck: int = 16

    def __post_init__(self) -> None:
        check_whole("adapter.bottleneck", self.bottleneck)

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put an adapter after each block."""
        sizes = [member.bottleneck for member in members]
        for path, width in zip(model.blocks, model.widths, strict=True):
            if max(sizes) > width:
                raise ValueError(
                    f"adapter.bottleneck {max(sizes)} is larger than the block {path!r}, which is {width} wide"
                )
        rngs = generators(model.seeds, "adapter")
        for path, width in zip(model.blocks, model.widths, strict=True):
            model.attach(path, Adapted(model.get(path), width, sizes, rngs, model.channels_last))
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()


class Adapted(nn.Module):
    """A frozen block and an adapter for each member behind it.

    Unequal bottlenecks share one tensor; beyond a member's own everything is zero and stays zero, since
    GELU(0) = 0.

    Shapes: ``down (members, width, bottleneck)``, ``up (members, bottleneck, width)``.
    """

    def __init__(
        self, block: nn.Module, width: int, sizes: Sequence[int], rngs: Generators, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.block = block
        self.enabled = True
        self.sizes, self.width = tuple(sizes), width
        members, widest = len(sizes), max(sizes)
        self.down = nn.Parameter(torch.zeros(members, width, widest))
        self.down_bias = nn.Parameter(torch.zeros(members, 1, widest))
        self.up = nn.Parameter(torch.zeros(members, widest, width))
        self.up_bias = nn.Parameter(torch.zeros(members, 1, width))
        bound = width**-0.5
        with torch.no_grad():
            for k, (size, rng) in enumerate(zip(sizes, rngs, strict=True)):
                self.down[k, :, :size] = torch.empty(size, width).uniform_(-bound, bound, generator=rng).T
                self.down_bias[k, :, :size].uniform_(-bound, bound, generator=rng)

    def own_params(self, member: int) -> int:
        """Return how many parameters of this module are the member's, without the zero padding."""
        size = self.sizes[member]
        return size * self.width + size + self.width * size + self.width

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that this module adds to the block."""
        return [self.down, self.down_bias, self.up, self.up_bias]

    def merged(self, member: int) -> nn.Module | None:
        """Return ``None``: what an adapter does is not linear."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Map what the block maps; features are the last axis, or the channels of images."""
        h = self.block(x)
        if not self.enabled:
            return h
        channels_first = h.dim() == 4 and not self.channels_last
        features_last = h.movedim(1, -1) if channels_first else h
        z = features_last.reshape(len(self.sizes), -1, self.width)
        z = F.gelu(torch.baddbmm(self.down_bias, z, self.down))
        z = torch.baddbmm(self.up_bias, z, self.up).reshape(features_last.shape)
        return h + (z.movedim(-1, 1) if channels_first else z)
