"""Bottleneck adapters: after each block, behind its sublayers, or beside its feed-forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.models.base import Beside, Generators, LoadedModel, generators
from sweeper.spec import Json
from sweeper.strategies.base import LATER, Stage, check_above_zero, check_whole, features

# Placement -> the roles it needs; an adapter stands behind each layer of these roles, but under "parallel"
# from the first to the second.
PLACEMENTS: Mapping[str, tuple[str, ...]] = {
    "block": (),
    "houlsby": ("attn_out", "mlp_out"),
    "pfeiffer": ("mlp_out",),
    "parallel": ("mlp_in", "mlp_out"),
}


@dataclass(frozen=True)
class Adapter:
    """Train h + scale * up(GELU(down(x))) around frozen layers whose output is h (arXiv 1902.00751, section 2.1).

    Formula: ``h + scale * up(GELU(down(x))), where up and down train``.

    Elsewhere than under "parallel" x is h itself. ``up`` starts at zero, so training begins at the pretrained
    function. The head stays frozen unless it is fresh. The sizes in ``space`` lie in the range
    of arXiv 1902.00751, section 3.2; the scales are those of arXiv 2110.04366, section 4.5.

    Attributes:
        bottleneck: Width between down and up.
        placement: "block" after each block; "houlsby" behind the attention's output and the feed-forward's,
            before the residual (arXiv 1902.00751, figure 2); "pfeiffer" behind the feed-forward's only
            (arXiv 2005.00052, section 2.2.1); "parallel" from the feed-forward's input to its output
            (arXiv 2110.04366, section 3.3).
        scale: Factor on what the adapter adds; the scaled parallel adapter of arXiv 2110.04366 takes 4.
    """

    name: ClassVar[str] = "adapter"
    per_member: ClassVar[frozenset[str]] = frozenset({"bottleneck", "scale"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "bottleneck": (4, 16, 64),
        "placement": tuple(PLACEMENTS),
        "scale": (1.0, 4.0),
        "lr": (1e-3, 3e-3, 1e-2),
    }

    bottleneck: int = 16
    placement: str = field(default="block", metadata=LATER)
    scale: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        check_whole("adapter.bottleneck", self.bottleneck)
        object.__setattr__(self, "scale", check_above_zero("adapter.scale", self.scale))
        if self.placement not in PLACEMENTS:
            raise ValueError(f"adapter.placement must be one of {', '.join(PLACEMENTS)}, got {self.placement!r}")

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put an adapter at each place."""
        places = self._places(model)
        sizes = [member.bottleneck for member in members]
        for place in places:
            width = min(place.reads, place.writes)
            if max(sizes) > width:
                what = "block" if place.path in model.blocks else "layer"
                raise ValueError(
                    f"adapter.bottleneck {max(sizes)} is larger than the {what} {place.path!r}, which is {width} wide"
                )
        scales = [member.scale for member in members]
        rngs = generators(model.seeds, "adapter")
        for place in places:
            seen: list[Tensor] | None = None
            if place.source is not None:
                seen = []
                model.replace(place.source, Remembered(model.get(place.source), seen))
            base = model.get(place.path)
            model.attach(
                place.path, Adapted(base, place.reads, place.writes, sizes, scales, rngs, seen, model.channels_last)
            )
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()

    def _places(self, model: LoadedModel) -> list[Place]:
        if self.placement == "block":
            pairs = zip(model.blocks, model.widths, strict=True)
            return [Place(path, width, width) for path, width in pairs]
        roles = PLACEMENTS[self.placement]
        missing = [role for role in roles if role not in model.roles.values()]
        if missing:
            raise model.not_applicable(
                "adapter", f"adapter.placement {self.placement!r} needs layers of role {' and '.join(missing)}"
            )
        if self.placement != "parallel":
            paths = [path for path, role in model.roles.items() if role in roles]
            return [Place(path, features(model.get(path)), features(model.get(path))) for path in paths]
        places = []
        for block in model.blocks:
            starts, ends = (
                [path for path, role in model.roles.items() if role == wanted and path.startswith(f"{block}.")]
                for wanted in roles
            )
            if not starts or len(ends) != 1:
                raise model.not_applicable(
                    "adapter", f"adapter.placement 'parallel' needs one feed-forward in each block, unlike {block!r}"
                )
            places.append(
                Place(ends[0], features(model.get(starts[0]), inputs=True), features(model.get(ends[0])), starts[0])
            )
        return places


class Place(NamedTuple):
    """Where an adapter goes: the module behind which it adds, and how many features it reads and writes."""

    path: str
    reads: int
    writes: int
    source: str | None = None
    """The layer whose input it reads; ``None`` where it reads the output of the module itself."""


class Remembered(Beside):
    """A frozen layer that leaves its input in a list, for the adapter that takes it from there."""

    def __init__(self, base: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.base, self.seen = base, seen

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base layer maps."""
        self.seen[:] = [x]
        return self.base(x)


class Adapted(Beside):
    """A frozen block or layer and an adapter for each member behind it.

    Unequal bottlenecks share one tensor; beyond a member's own everything is zero and stays zero, since
    GELU(0) = 0.

    Shapes: ``down (members, reads, bottleneck)``, ``up (members, bottleneck, writes)``.
    """

    def __init__(
        self,
        base: nn.Module,
        reads: int,
        writes: int,
        sizes: Sequence[int],
        scales: Sequence[float],
        rngs: Generators,
        seen: list[Tensor] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.channels_last = channels_last
        self.enabled = True
        self.sizes, self.seen = tuple(sizes), seen
        members, widest = len(sizes), max(sizes)
        self.down = nn.Parameter(torch.zeros(members, reads, widest))
        self.down_bias = nn.Parameter(torch.zeros(members, 1, widest))
        self.up = nn.Parameter(torch.zeros(members, widest, writes))
        self.up_bias = nn.Parameter(torch.zeros(members, 1, writes))
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scales).view(-1, 1, 1), persistent=False)
        bound = reads**-0.5
        with torch.no_grad():
            for k, (size, rng) in enumerate(zip(sizes, rngs, strict=True)):
                self.down[k, :, :size] = torch.empty(size, reads).uniform_(-bound, bound, generator=rng).T
                self.down_bias[k, :, :size].uniform_(-bound, bound, generator=rng)

    def own_params(self, member: int) -> int:
        """Return how many parameters of this module are the member's, without the zero padding."""
        size, reads, writes = self.sizes[member], self.down.shape[1], self.up.shape[2]
        return size * reads + size + writes * size + writes

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that this module adds to the base."""
        return [self.down, self.down_bias, self.up, self.up_bias]

    def merged(self, member: int) -> nn.Module | None:
        """Return ``None``: what an adapter does is not linear."""
        return None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Map what the base maps; features are the last axis, or the channels of ``(batch, c, h, w)``."""
        out = self.base(x, *args, **kwargs)
        if isinstance(out, tuple):  # a block that returns more than its features, as transformers' decoders do
            return self._adapted(out[0]), *out[1:]
        return self._adapted(out)

    def _adapted(self, h: Tensor) -> Tensor:
        read = h if self.seen is None else self.seen.pop()  # popped: no input outlives its pass
        if not self.enabled:
            return h
        # Of a block the shape tells where the features are; a linear layer has them last whatever its shape.
        channels = h.dim() == 4 and not self.channels_last and not isinstance(self.base, nn.Linear)
        features_last = read.movedim(1, -1) if channels else read
        z = features_last.reshape(len(self.sizes), -1, self.down.shape[1])
        z = F.gelu(torch.baddbmm(self.down_bias, z, self.down))
        z = self.scale * torch.baddbmm(self.up_bias, z, self.up)
        z = z.reshape(*features_last.shape[:-1], -1)
        return h + (z.movedim(-1, 1) if channels else z)
