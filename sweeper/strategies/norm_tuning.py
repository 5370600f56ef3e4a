"""Norm tuning: scale and shift of the normalisation layers only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sweeper.members import split, stack
from sweeper.models.base import Beside, LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage


@dataclass(frozen=True)
class NormTuning:
    """Train the scale and shift of every normalisation layer and nothing else.

    Formula: ``y = gamma * (x - mean) / std + beta, where gamma and beta train``.

    Of layer normalisation in transformers (arXiv 2312.11420), of batch normalisation in convolutional
    networks (arXiv 2003.00152; running statistics stay as loaded), and of all others alike. The head stays
    frozen unless it is fresh.
    """

    name: ClassVar[str] = "norm_tuning"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (3e-3, 1e-2, 3e-2)}

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Give each member its own scale and shift in each normalisation layer."""
        paths = [path for path, module in model.network.named_modules() if is_norm(module)]
        if not paths:
            raise model.not_applicable("norm_tuning", "this model has no normalisation layer with a scale of its own")
        for path in paths:
            model.attach(path, NormTuned(model.get(path), model.members))
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises and then scales each feature, whichever library it is from."""
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and isinstance(weight, nn.Parameter) and weight.dim() == 1


class NormTuned(Beside):
    """A frozen normalisation with a scale and a shift for each member instead of its own.

    Shapes: ``weight (members, features)``, and so ``bias`` where the base has one.
    """

    def __init__(self, base: nn.Module, members: int) -> None:
        super().__init__()
        self.members = members
        self.enabled = True
        self.weight = stack(base.get_parameter("weight"), members)
        self.bias = None if getattr(base, "bias", None) is None else stack(base.get_parameter("bias"), members)
        self.base = base.requires_grad_(False)  # after what has the same names

    def own_params(self, member: int) -> int:
        """Return how many parameters a member trains here."""
        return sum(p[member].numel() for p in self.own_parameters())

    def extra_params(self, member: int) -> int:
        """Return 0: a member's scale and shift stand in for the base's."""
        return 0

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return list(self._affine().values())

    def merged(self, member: int) -> nn.Module:
        """Return the base layer with the member's scale and shift."""
        layer = copy.deepcopy(self.base)
        for name, p in self._affine().items():
            setattr(layer, name, nn.Parameter(p[member].detach().clone(), requires_grad=False))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base maps; rows of member k get member k's scale and shift."""
        if not self.enabled:
            return self.base(x)
        # The base itself runs, on each member's rows with that member's parameters: so it does not matter
        # along which axis a library's layer scales, nor that some multiply by 1 + weight.
        return torch.vmap(self._one)(self._affine(), split(x, self.members)).reshape(x.shape)

    def _one(self, affine: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self.base, {**affine}, (x,))

    def _affine(self) -> dict[str, nn.Parameter]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}
