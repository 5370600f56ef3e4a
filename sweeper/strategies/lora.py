"""LoRA: low-rank updates of frozen linear layers and convolutions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.members import to_channels
from sweeper.models.base import Beside, Generators, LoadedModel, generators
from sweeper.spec import Json
from sweeper.strategies.base import LATER, Stage, check_above_zero, check_whole

SCALINGS: Mapping[str, Callable[[float], float]] = {"standard": float, "rslora": math.sqrt}


@dataclass(frozen=True)
class Lora:
    """Train W + (alpha / rank) B A instead of W (arXiv 2106.09685, section 4.1).

    A starts as `nn.Linear` does and B at zero, so training begins at the pretrained function. The base
    stays frozen, the head too unless it is fresh. With alpha held, the best learning rate hardly
    depends on the rank, which is why the default is a constant (Schulman et al., "LoRA Without
    Regret", 2025).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update is multiplied by ``alpha / rank``.
        scaling: "standard" divides alpha by the rank, "rslora" by its square root, so that high ranks learn
            as fast as low ones (arXiv 2312.03732, section 3).
        b_rate: Factor on the learning rate of B; LoRA+ takes 16 (arXiv 2402.12354, section 4).
        targets: Which layers, as roles joined by "+" (`LoadedModel.targets`); "all" is the advice of
            QLoRA (arXiv 2305.14314, section 4).
    """

    name: ClassVar[str] = "lora"
    per_member: ClassVar[frozenset[str]] = frozenset({"rank", "alpha", "scaling", "b_rate"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"rank": (1, 2, 4, 8, 16, 32), "lr": (1e-4, 3e-4, 1e-3, 3e-3)}

    rank: int = 8
    alpha: float = 16.0
    targets: str = "all"
    scaling: str = field(default="standard", metadata=LATER)
    b_rate: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        check_whole("lora.rank", self.rank)
        object.__setattr__(self, "alpha", check_above_zero("lora.alpha", self.alpha))
        object.__setattr__(self, "b_rate", check_above_zero("lora.b_rate", self.b_rate))
        if not isinstance(self.targets, str):
            raise ValueError(f"lora.targets must be roles joined by '+', got {self.targets!r}")
        if self.scaling not in SCALINGS:
            raise ValueError(f"lora.scaling must be one of {', '.join(SCALINGS)}, got {self.scaling!r}")

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put a low-rank term beside each target."""
        paths = model.targets(self.targets)
        ranks = [member.rank for member in members]
        for path in paths:
            check_rank(path, model.get(path), max(ranks))
        scales = [member.alpha / SCALINGS[member.scaling](member.rank) for member in members]
        rngs = generators(model.seeds, "lora")
        for path in paths:
            model.attach(path, LowRank(model.get(path), ranks, scales, rngs))
        if model.head_is_fresh and model.head not in paths:
            model.wake_fresh_head()
        factors = [member.b_rate for member in members]
        yield Stage(rates={f"{path}.b": factors for path in paths})


def fan_in_out(layer: nn.Module) -> tuple[int, int]:
    """Return the two sides of a layer's weight seen as a matrix: inputs (times kernel) and outputs."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1], layer.out_channels


def check_rank(path: str, layer: nn.Module, rank: int) -> None:
    """Raise ValueError where a rank is larger than the layer's own."""
    inputs, outputs = fan_in_out(layer)
    if rank > min(inputs, outputs):
        raise ValueError(
            f"lora.rank {rank} is larger than the layer {path!r} ({inputs} inputs x {outputs} outputs): "
            f"at most {min(inputs, outputs)}"
        )


class LowRank(Beside):
    """A frozen layer plus a low-rank term for each member.

    Unequal ranks share one tensor: what lies beyond a member's rank is zero in both factors, gets no
    gradient, and so stays zero.

    Shapes: ``a (members, in, rank)`` and ``b (members, rank, out)``; for a convolution ``in`` counts
    input channels times kernel size.
    """

    def __init__(self, base: nn.Module, ranks: Sequence[int], scales: Sequence[float], rngs: Generators) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.enabled = True
        self.ranks = tuple(ranks)
        inputs, outputs = fan_in_out(base)
        self.a = nn.Parameter(torch.zeros(len(ranks), inputs, max(ranks)))
        self.b = nn.Parameter(torch.zeros(len(ranks), max(ranks), outputs))
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scales).view(-1, 1, 1), persistent=False)
        bound = inputs**-0.5
        with torch.no_grad():
            for k, (rank, rng) in enumerate(zip(ranks, rngs, strict=True)):
                self.a[k, :, :rank] = torch.empty(rank, inputs).uniform_(-bound, bound, generator=rng).T

    def own_params(self, member: int) -> int:
        """Return how many parameters of this module are the member's, without the zero padding."""
        return self.ranks[member] * (self.a.shape[1] + self.b.shape[2])

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that this module adds to the base layer."""
        return [self.a, self.b]

    def merged(self, member: int) -> nn.Module:
        """Return the base layer with the member's term added to its weight."""
        layer = copy.deepcopy(self.base)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        term = (self.scale[member] * (self.a[member] @ self.b[member])).detach().T
        layer.weight = nn.Parameter(layer.weight + term.reshape(layer.weight.shape), requires_grad=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base layer maps; rows of member k get member k's term."""
        y = self.base(x)
        if not self.enabled:
            return y
        b = self.scale * self.b
        if isinstance(self.base, nn.Linear):
            z = x.reshape(len(self.ranks), -1, x.shape[-1])
            return y + torch.bmm(torch.bmm(z, self.a), b).reshape(y.shape)
        return y + self._convolved(x, b).reshape(y.shape)

    def _convolved(self, x: Tensor, b: Tensor) -> Tensor:
        # A is a convolution to `rank` channels with the base's geometry, B a 1 x 1 convolution after it.
        conv, members = self.base, len(self.ranks)
        assert isinstance(conv, nn.Conv2d)
        kernel = self.a.transpose(1, 2).reshape(-1, conv.in_channels, *conv.kernel_size)
        z = F.conv2d(to_channels(x, members), kernel, None, conv.stride, conv.padding, conv.dilation, members)
        z = z.unflatten(1, (members, -1)).flatten(3)  # (batch, members, rank, places)
        return torch.einsum("nkrp,kro->knop", z, b)
