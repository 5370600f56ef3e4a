"""Layers with a leading member axis, so that K trials train in one pass over the same base.

Activations hold the members one after the other along the batch: ``(members * batch, ...)``, member k's
rows at ``k * batch`` to ``(k + 1) * batch``. A layer that trains holds its parameters as
``(members, ...)`` and applies member k's to member k's rows; a frozen layer stays the plain module and
sees one large batch. Members never mix, so each gets what it would get alone. (The idea is HFTA's,
arXiv 2102.02344, and PLoRA's, arXiv 2508.02932.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split(x: Tensor, members: int) -> Tensor:
    """Return ``(members * batch, ...)`` as ``(members, batch, ...)``."""
    return x.reshape(members, -1, *x.shape[1:])


def along_features(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return ``values (members, features)`` shaped to meet ``split(x, members)``; x has its features along ``axis``."""
    wide = [len(values), *[1] * x.dim()]
    wide[axis if axis < 0 else axis + 1] = -1
    return values.view(wide)


def stack(value: Tensor, members: int) -> nn.Parameter:
    """Return one copy of a parameter for each member, along a new first axis."""
    return nn.Parameter(value.detach().unsqueeze(0).repeat(members, *[1] * value.dim()))


Layer = TypeVar("Layer", bound=nn.Module)


def _filled(layer: Layer, wide: nn.Module, member: int) -> Layer:
    """Return a frozen plain layer with one member's parameters."""
    layer.requires_grad_(False)
    for name in dict(layer.named_parameters()):
        own = getattr(wide, name)[member].detach()  # no copy
        setattr(layer, name, nn.Parameter(own, requires_grad=False))
    return layer


class MemberLinear(nn.Module):
    """A linear layer for each member; ``weight (members, out, in)``, ``bias (members, out)``."""

    def __init__(self, base: nn.Linear, members: int) -> None:
        super().__init__()
        self.members = members
        self.weight = stack(base.weight, members)
        self.bias = None if base.bias is None else stack(base.bias, members)

    def plain(self, member: int) -> nn.Linear:
        """Return one member's layer."""
        layer = nn.Linear(self.weight.shape[2], self.weight.shape[1], self.bias is not None)
        return _filled(layer, self, member)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(members * batch, ..., in)`` to ``(members * batch, ..., out)``."""
        z = x.reshape(self.members, -1, x.shape[-1])
        weight = self.weight.transpose(1, 2)
        y = torch.bmm(z, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), z, weight)
        return y.reshape(*x.shape[:-1], -1)


def to_channels(x: Tensor, members: int) -> Tensor:
    """Lay members side by side along the channels: ``(members * batch, c, ...) -> (batch, members * c, ...)``."""
    return split(x, members).transpose(0, 1).reshape(-1, members * x.shape[1], *x.shape[2:])


def to_rows(x: Tensor, members: int) -> Tensor:
    """Undo `to_channels`."""
    batch, _, *rest = x.shape
    return x.reshape(batch, members, -1, *rest).transpose(0, 1).reshape(batch * members, -1, *rest)


class MemberConv2d(nn.Module):
    """A 2-d convolution for each member, run as one convolution with a group for each."""

    def __init__(self, base: nn.Conv2d, members: int) -> None:
        super().__init__()
        self.members = members
        self.weight = stack(base.weight, members)
        self.bias = None if base.bias is None else stack(base.bias, members)
        self.stride, self.padding, self.dilation = base.stride, base.padding, base.dilation
        self.groups = base.groups

    def plain(self, member: int) -> nn.Conv2d:
        """Return one member's layer."""
        _, outputs, inputs, *kernel = self.weight.shape
        layer = nn.Conv2d(
            inputs * self.groups,
            outputs,
            (kernel[0], kernel[1]),
            self.stride,  # type: ignore[arg-type]  # both as nn.Conv2d keeps them
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            self.bias is not None,
        )
        return _filled(layer, self, member)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(members * batch, in, h, w)`` to ``(members * batch, out, h', w')``."""
        y = F.conv2d(
            to_channels(x, self.members),
            self.weight.flatten(0, 1),
            None if self.bias is None else self.bias.flatten(),
            self.stride,
            self.padding,
            self.dilation,
            self.members * self.groups,
        )
        return to_rows(y, self.members)


class MemberLayerNorm(nn.Module):
    """Layer normalisation with a scale and a shift for each member."""

    def __init__(self, base: nn.LayerNorm, members: int) -> None:
        super().__init__()
        self.members, self.shape, self.eps = members, base.normalized_shape, base.eps
        self.weight = None if base.weight is None else stack(base.weight, members)
        self.bias = None if base.bias is None else stack(base.bias, members)

    def plain(self, member: int) -> nn.LayerNorm:
        """Return one member's layer."""
        layer = nn.LayerNorm(self.shape, self.eps, self.weight is not None, self.bias is not None)
        return _filled(layer, self, member)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(members * batch, ..., *normalized_shape)``, whatever its middle."""
        z = F.layer_norm(x, self.shape, eps=self.eps)
        if self.weight is None:
            return z
        wide = (self.members, *[1] * (x.dim() - len(self.shape)), *self.shape)
        z = split(z, self.members) * self.weight.view(wide)
        if self.bias is not None:
            z = z + self.bias.view(wide)
        return z.reshape(x.shape)


class MemberBatchNorm2d(nn.Module):
    """Batch normalisation with a scale, a shift and running statistics for each member.

    In training a member is normalised by its own rows. One value a channel has no variance: it is normalised by
    the running statistics, where `nn.BatchNorm2d` would stop a trial whose last batch has one row.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, base: nn.BatchNorm2d, members: int) -> None:
        super().__init__()
        self.members, self.eps, self.momentum = members, base.eps, base.momentum
        self.weight, self.bias = stack(base.weight, members), stack(base.bias, members)
        for name, value in base.named_buffers():
            self.register_buffer(name, value.unsqueeze(0).repeat(members, *[1] * value.dim()))

    def plain(self, member: int) -> nn.BatchNorm2d:
        """Return one member's layer, with its running statistics."""
        layer = _filled(nn.BatchNorm2d(self.weight.shape[1], self.eps, self.momentum), self, member).eval()
        for name, _ in list(layer.named_buffers()):
            setattr(layer, name, getattr(self, name)[member].clone())  # on this one's device
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(members * batch, c, h, w)`` over rows and places, in running statistics where it trains."""
        wide = to_channels(x, self.members)
        training = self.training and wide[:, 0].numel() > 1
        if training:
            self.num_batches_tracked += 1
        y = F.batch_norm(
            wide,
            self.running_mean.view(-1),  # no copy: it is updated in place
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            training,
            self.momentum or 0.0,
            self.eps,
        )
        return to_rows(y, self.members)


class MemberEmbedding(nn.Module):
    """A lookup table for each member; ``weight (members, vocabulary, width)``.

    A padding row is a row like any other: what stands there is masked by whoever pads.
    """

    def __init__(self, base: nn.Embedding, members: int) -> None:
        super().__init__()
        self.members, self.vocabulary = members, base.num_embeddings
        self.weight = stack(base.weight, members)

    def plain(self, member: int) -> nn.Embedding:
        """Return one member's table."""
        return _filled(nn.Embedding(*self.weight.shape[1:]), self, member)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids ``(members * batch, ...)`` to ``(members * batch, ..., width)``."""
        offset = self.vocabulary * torch.arange(self.members, device=ids.device)
        shifted = split(ids, self.members) + offset.view(-1, *[1] * ids.dim())
        return F.embedding(shifted.reshape(ids.shape), self.weight.flatten(0, 1))


class MemberCopies(nn.Module):
    """A whole copy of any module for each member, run one after the other: right for all, fast for none."""

    def __init__(self, base: nn.Module, members: int) -> None:
        super().__init__()
        if members > 1 and any(isinstance(module, MEMBER_LAYERS) for module in base.modules()):
            raise CannotPackError(
                f"{type(base).__name__} has parameters of its own beside layers that are already packed"
            )
        self.copies = nn.ModuleList(copy.deepcopy(base) for _ in range(members))

    def __getattr__(self, name: str) -> Any:
        """Return what the base module had by this name: the first copy's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "copies":
                raise
            return getattr(self.copies[0], name)

    def plain(self, member: int) -> nn.Module:
        """Return one member's copy."""
        return self.copies[member]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Map as the base module does; what has ``members * batch`` rows is shared out, all else goes to each copy."""
        members = len(self.copies)
        rows = len(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))

        def part(value: Any, member: int) -> Any:
            if isinstance(value, Tensor) and value.dim() and len(value) == rows:
                return value.chunk(members)[member]
            return value

        outputs = [
            module(*(part(value, k) for value in args), **{name: part(value, k) for name, value in kwargs.items()})
            for k, module in enumerate(self.copies)
        ]
        if isinstance(outputs[0], Tensor):
            return torch.cat(outputs)
        return tuple(torch.cat(p) if isinstance(p[0], Tensor) else p[0] for p in zip(*outputs, strict=True))


MEMBER_LAYERS = (MemberLinear, MemberConv2d, MemberLayerNorm, MemberBatchNorm2d, MemberEmbedding, MemberCopies)


def _has_own_state(module: nn.Module) -> bool:
    """Return whether a module has parameters, or buffers beside those of children that have parameters."""
    if any(True for _ in module.parameters(recurse=False)):
        return True
    own_buffers = any(True for _ in module.buffers(recurse=False))
    running = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    return own_buffers and (running or any(True for _ in module.parameters()))


def _same_table(module: nn.Embedding, tokens: nn.Module | None) -> bool:
    """Return whether a table is that of the tokens, or shares its weight as a T5 decoder's does."""
    return module is tokens or (tokens is not None and getattr(tokens, "weight", None) is module.weight)


class CannotPackError(ValueError):
    """These trials cannot train in one pass; each alone can."""


def member_of(name: str) -> int | None:
    """Return the one member that a parameter of this name belongs to, ``None`` where it is stacked."""
    _, found, rest = name.partition("copies.")
    return int(rest.split(".", 1)[0]) if found else None


def narrow(module: nn.Module, member: int) -> nn.Module | None:
    """Return one member's module in plain layers, what strategies added merged into them.

    ``None`` where something added cannot be merged. Frozen modules are shared, not copied.
    """
    if isinstance(module, MemberCopies):
        return narrow(module.plain(member), 0)  # a member on its own may have layers for one member inside
    if isinstance(module, MEMBER_LAYERS):
        return module.plain(member)
    merge: Callable[[int], nn.Module | None] | None = getattr(module, "merged", None)
    if callable(merge):  # a layer of the package peft has a flag of that name
        return merge(member)
    plain = copy.copy(module)
    plain._modules = {}
    for name, child in module._modules.items():
        own = None if child is None else narrow(child, member)
        if child is not None and own is None:
            return None
        plain._modules[name] = own
    return plain


def widen(
    module: nn.Module,
    members: int,
    tokens: nn.Module | None = None,
    done: dict[Any, Any] | None = None,
) -> nn.Module:
    """Return the module with its parameters stacked, a set for each member, all ready to train.

    Modules that already carry the member axis are left as they are; containers are changed in place.

    Args:
        module: What to widen.
        members: How many.
        tokens: The embedding whose ids are the rows. Others look up positions and the like, which the members
            share: where no module around them can be copied whole, more than one member cannot train together.
        done: What each module and weight has become, so that one that stands in two places stays one.
    """
    done = {} if done is None else done
    if module in done:
        found: nn.Module = done[module]
        return found
    if isinstance(module, MEMBER_LAYERS):
        wide = module
    elif type(module) is nn.Linear:
        wide = MemberLinear(module, members)
    elif type(module) is nn.Conv2d and module.padding_mode == "zeros":
        wide = MemberConv2d(module, members)
    elif type(module) is nn.LayerNorm:
        wide = MemberLayerNorm(module, members)
    elif type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum:
        wide = MemberBatchNorm2d(module, members)
    elif type(module) is nn.Embedding and module.max_norm is None and _same_table(module, tokens):
        wide = MemberEmbedding(module, members)
    elif type(module) is nn.Embedding and members > 1:
        raise CannotPackError("an embedding of something that the members share")
    elif _has_own_state(module):
        wide = MemberCopies(module, members)
    else:
        for name, child in module.named_children():
            setattr(module, name, widen(child, members, tokens, done))
        return module
    if isinstance(module, nn.Linear | nn.Embedding) and isinstance(wide, MemberLinear | MemberEmbedding):
        # A language model's table of tokens is often its head too.
        wide.weight = done.setdefault(module.weight, wide.weight)
    done[module] = wide.requires_grad_(True).train()
    for inner in wide.modules():
        if isinstance(inner, nn.modules.dropout._DropoutNd):
            inner.eval()  # off everywhere: it draws from a generator that the members would share
    return wide
