"""A frozen layer plus a low-rank update for each member, in every variant that LoRA offers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sweeper.members import MemberConv2d, MemberLinear, narrow, split, stack, to_channels
from sweeper.models.base import Beside, Generators, derived_seed

SMALL = 2**13
"""Inputs times outputs: up to as many, one product with a weight formed for each member costs less than the base's
product, two thin ones and a sum (1.3 to 2.4 times less at rank 8 on a CPU; from 128 x 128 on nothing)."""


def fan_in_out(layer: nn.Module) -> tuple[int, int]:
    """Return the two sides of a layer's weight seen as a matrix: inputs (times kernel) and outputs."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1], layer.out_channels
    assert isinstance(layer.in_features, int)
    assert isinstance(layer.out_features, int)
    return layer.in_features, layer.out_features


def is_full(layer: nn.Module) -> bool:
    """Return whether a low-rank update has the shape of the layer's weight: a grouped convolution's has not."""
    return not isinstance(layer, nn.Conv2d) or (layer.groups == 1 and layer.padding_mode == "zeros")


def check_rank(strategy: str, layers: Mapping[str, nn.Module], rank: int, each: bool = False) -> None:
    """Raise ValueError where a rank is larger than the largest layer's own, or with ``each`` than any layer's.

    A thin layer among others, such as the first of a table of two columns, is no reason to refuse: its update has more
    parameters than it needs, as with peft, and can be the same functions.
    """
    path, layer = (min if each else max)(layers.items(), key=lambda item: min(fan_in_out(item[1])))
    inputs, outputs = fan_in_out(layer)
    if rank > min(inputs, outputs):
        raise ValueError(
            f"{strategy}.rank {rank} is larger than the layer {path!r} ({inputs} inputs x {outputs} outputs): "
            f"at most {min(inputs, outputs)}"
        )


def check_dropout(name: str, value: object) -> float:
    """Return ``value`` as a float; raise ValueError unless it is at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")
    return float(value)


def check_targets(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a string; `LoadedModel.targets` knows whether it names anything."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be roles joined by '+', got {value!r}")


class MemberDropout(nn.Module):
    """Dropout at a rate of each member, in training only; one of these serves all layers of a network.

    Masks are drawn where the activations are: drawn on the CPU they would cost more than the step itself.
    So a seed decides the run on one kind of device, and not across kinds.
    """

    def __init__(self, rates: Sequence[float], seeds: Sequence[int]) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.seeds = [derived_seed(seed, "dropout") for seed in seeds]
        self.rngs: Generators = []

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(members * batch, ...)`` with member k's rows dropped out at its own rate."""
        if not self.training or not any(self.rates):
            return x
        if not self.rngs or self.rngs[0].device != x.device:
            self.rngs = [torch.Generator(x.device).manual_seed(seed) for seed in self.seeds]
        keep = torch.ones_like(split(x, len(self.rates)))
        for part, rate, rng in zip(keep, self.rates, self.rngs, strict=True):
            if rate:
                part.bernoulli_(1 - rate, generator=rng).div_(1 - rate)
        return x * keep.view(x.shape)


class Updated(nn.Module):
    """A parametrisation: a frozen weight ``(out, ...)`` to the members' ``(members, out, ...)``.

    It holds the method, not the module that owns the factors: that one holds the parametrised layer.
    """

    def __init__(self, update: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.update = update

    def forward(self, weight: Tensor) -> Tensor:
        """Return each member's weight."""
        return self.update(weight)


class LowRank(Beside):
    """A frozen layer plus a low-rank term for each member.

    Unequal ranks share one tensor: what lies beyond a member's rank is zero in both factors, gets no
    gradient, and so stays zero.

    Shapes: ``a (members, in, rank)`` and ``b (members, rank, out)``; for a convolution ``in`` counts
    input channels times kernel size.

    Args:
        principal: Members whose factors start at the weight's largest singular triples (PiSSA, arXiv
            2404.02948, section 3); the others' A starts as `nn.Linear` does, their B at zero. The base is shared
            and stays whole, so ``a0`` and ``b0``, frozen copies of such a start and zero for the other
            members, are subtracted: written as plain LoRA the update has rank 2r, ``[a, a0]`` and
            ``[b, -b0]``. Both are ``None`` where no member starts so.
        dropout: On the input of the term that trains.
        dora: Whether to train ``magnitude (members, out)`` too, and V = W + update only as a
            direction: W' = magnitude * V / ||V||, the norm taken per output and as a constant (arXiv
            2402.09353, section 4.3). ``None`` without.
        parametrized: Whether each member's whole weight is formed by `torch.nn.utils.parametrize`, instead
            of adding the term's output to the base's: then dropout has no input to act on.
    """

    def __init__(
        self,
        base: nn.Module,
        ranks: Sequence[int],
        scales: Sequence[float],
        rngs: Generators,
        principal: Sequence[bool] = (),
        dropout: MemberDropout | None = None,
        dora: bool = False,
        parametrized: bool = False,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.enabled = True
        self.ranks = tuple(ranks)
        self.dropout = dropout
        inputs, outputs = fan_in_out(base)
        self.a = nn.Parameter(torch.zeros(len(ranks), inputs, max(ranks)))
        self.b = nn.Parameter(torch.zeros(len(ranks), max(ranks), outputs))
        self.magnitude = stack(self._weight().flatten(1).norm(dim=1), len(ranks)) if dora else None
        self.scale: Tensor
        self.a0: Tensor | None
        self.b0: Tensor | None
        self.register_buffer("scale", torch.tensor(scales).view(-1, 1, 1), persistent=False)
        self.register_buffer("a0", None)
        self.register_buffer("b0", None)
        bound = inputs**-0.5
        with torch.no_grad():
            for k, (rank, rng) in enumerate(zip(ranks, rngs, strict=True)):
                self.a[k, :, :rank] = torch.empty(rank, inputs).uniform_(-bound, bound, generator=rng).T
        if any(principal):
            self._start_at_principal(principal)
        self.wide = self._parametrized() if parametrized else None

    def _weight(self) -> Tensor:
        assert isinstance(self.base.weight, Tensor)
        return self.base.weight.detach()

    @torch.no_grad()
    def _start_at_principal(self, members: Sequence[bool]) -> None:
        left, values, right = torch.linalg.svd(self._weight().flatten(1).float(), full_matrices=False)
        a0, b0 = torch.zeros_like(self.a), torch.zeros_like(self.b)
        for k, (rank, chosen) in enumerate(zip(self.ranks, members, strict=True)):
            if chosen:
                root = (values[:rank] / self.scale[k].item()).sqrt()
                a0[k, :, :rank] = right[:rank].T * root
                b0[k, :rank] = (left[:, :rank] * root).T
                self.a[k], self.b[k] = a0[k], b0[k]
        self.register_buffer("a0", a0, persistent=False)
        self.register_buffer("b0", b0, persistent=False)

    def _parametrized(self) -> nn.Module:
        base, members = self.base, len(self.ranks)
        assert isinstance(base, nn.Linear | nn.Conv2d)
        assert isinstance(base.weight, nn.Parameter)
        wide = MemberConv2d(base, 1) if isinstance(base, nn.Conv2d) else MemberLinear(base, 1)
        wide.members = members
        wide.weight = base.weight  # the frozen one itself, not a copy for each member
        wide.bias = None if base.bias is None else stack(base.bias, members)
        wide.requires_grad_(False)
        # Unsafe says that the shape changes: by the members' axis.
        return parametrize.register_parametrization(wide, "weight", Updated(self.weights), unsafe=True)

    def own_params(self, member: int) -> int:
        """Return how many parameters of this module are the member's, without the zero padding."""
        magnitude = 0 if self.magnitude is None else self.magnitude.shape[1]
        return self.ranks[member] * (self.a.shape[1] + self.b.shape[2]) + magnitude

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that this module adds to the base layer."""
        return [self.a, self.b, *([] if self.magnitude is None else [self.magnitude])]

    def weights(self, weight: Tensor) -> Tensor:
        """Return the members' weights ``(members, out, ...)`` for the base's ``(out, ...)``."""
        updated = self._updated(weight)
        if self.magnitude is None:
            return updated
        return updated * self._gain(updated).view(*self.magnitude.shape, *[1] * (weight.dim() - 1))

    def _updated(self, weight: Tensor) -> Tensor:
        update = self.scale * (self.a @ self.b)
        if self.a0 is not None and self.b0 is not None:
            update = update - self.scale * (self.a0 @ self.b0)
        return weight + update.transpose(1, 2).reshape(-1, *weight.shape)

    def _gain(self, updated: Tensor) -> Tensor:
        """Return magnitude / ||V||, ``(members, out)``; the norm is a constant to the gradient."""
        assert self.magnitude is not None
        norm = updated.detach().flatten(2).norm(dim=2)
        return self.magnitude / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # 0 / tiny where a row is all zero

    @torch.no_grad()
    def merged(self, member: int) -> nn.Module | None:
        """Return the base layer with the member's weight; ``None`` for a grouped convolution."""
        layer = copy.deepcopy(narrow(self.base, member))
        if layer is None or not is_full(layer):
            return None
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        layer.weight = nn.Parameter(self.weights(layer.weight)[member].clone(), requires_grad=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base layer maps; rows of member k get member k's term."""
        if not self.enabled:
            return self.base(x)
        if self.wide is not None:
            return self.wide(x)
        if self._is_small() and (self.dropout is None or not self.dropout.training):
            return self._with_formed_weights(x)
        y = self.base(x)
        term = self._term(x if self.dropout is None else self.dropout(x), self.a, self.b)
        if self.a0 is not None and self.b0 is not None:
            term = term - self._term(x, self.a0, self.b0)
        term = term.reshape(y.shape)
        return y + term if self.magnitude is None else self._scaled(y, term)

    def _is_small(self) -> bool:
        plain = type(self.base) is nn.Linear and self.magnitude is None and self.a0 is None
        return plain and self.a.shape[1] * self.b.shape[2] <= SMALL

    def _with_formed_weights(self, x: Tensor) -> Tensor:
        base = self.base
        assert isinstance(base, nn.Linear)
        weights = torch.baddbmm(base.weight.t().unsqueeze(0), self.a, self.scale * self.b)
        z = x.reshape(len(self.ranks), -1, x.shape[-1])
        y = torch.bmm(z, weights) if base.bias is None else torch.baddbmm(base.bias, z, weights)
        return y.reshape(*x.shape[:-1], -1)

    def _scaled(self, y: Tensor, term: Tensor) -> Tensor:
        # The magnitude scales what the weight does, and so not the bias that is already in `y`.
        members, base = len(self.ranks), self.base
        assert isinstance(base, nn.Linear | nn.Conv2d)
        with torch.no_grad():
            updated = self._updated(base.weight)
        wide = [members, 1, -1, 1, 1] if isinstance(base, nn.Conv2d) else [members, *[1] * (y.dim() - 1), -1]
        gain = self._gain(updated).view(wide)
        bias = torch.zeros_like(y[0]) if base.bias is None else base.bias.view(wide[2:])
        return (gain * split(y - bias + term, members) + bias).reshape(y.shape)

    def _term(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        b = self.scale * b
        if isinstance(self.base, nn.Conv2d):
            return self._convolved(x, a, b)
        return torch.bmm(torch.bmm(x.reshape(len(self.ranks), -1, x.shape[-1]), a), b)

    def _convolved(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        # A is a convolution to `rank` channels with the base's geometry, B a 1 x 1 convolution after it.
        conv, members = self.base, len(self.ranks)
        assert isinstance(conv, nn.Conv2d)
        kernel = a.transpose(1, 2).reshape(-1, conv.in_channels, *conv.kernel_size)
        z = F.conv2d(to_channels(x, members), kernel, None, conv.stride, conv.padding, conv.dilation, members)
        z = z.unflatten(1, (members, -1)).flatten(3)  # (batch, members, rank, places)
        return torch.einsum("nkrp,kro->knop", z, b)
