"""BitFit: biases only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.members import along_features, split, stack
from sweeper.models.base import Beside, LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage

WITH_BIAS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


@dataclass(frozen=True)
class BitFit:
    """Train the biases of the backbone and nothing else (arXiv 2106.10199, section 3).

    Formula: ``y = W x + b, where b trains``.

    The head stays frozen unless it is fresh, as under LoRA.
    """

    name: ClassVar[str] = "bitfit"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (3e-3, 1e-2, 3e-2)}

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Give each member its own biases."""
        paths = [
            path
            for path, module in model.network.named_modules()
            if type(module) in WITH_BIAS and module.bias is not None and path != model.head
        ]
        if not paths:
            raise model.not_applicable("bitfit", "there is no bias in the backbone of this model")
        for path in paths:
            model.attach(path, Biased(model.get(path), model.members))
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()


class Biased(Beside):
    """A frozen layer with a bias for each member instead of its own; ``bias (members, out)``."""

    def __init__(self, base: nn.Module, members: int) -> None:
        super().__init__()
        assert isinstance(base, WITH_BIAS)
        assert base.bias is not None
        self.members = members
        self.enabled = True
        self.bias = stack(base.bias, members)  # before the base, whose bias has the same name
        self.base = base.requires_grad_(False)

    def own_params(self, member: int) -> int:
        """Return how many parameters a member trains here."""
        return self.bias[member].numel()

    def extra_params(self, member: int) -> int:
        """Return 0: a member's bias stands in for the base's."""
        return 0

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return [self.bias]

    def merged(self, member: int) -> nn.Module:
        """Return the base layer with the member's bias."""
        layer = copy.deepcopy(self.base)
        layer.bias = nn.Parameter(self.bias[member].detach().clone(), requires_grad=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base layer maps; rows of member k get member k's bias."""
        if not self.enabled:
            return self.base(x)
        base = self.base
        if isinstance(base, nn.Linear):
            y = F.linear(x, base.weight)
        elif isinstance(base, nn.LayerNorm):
            y = F.layer_norm(x, base.normalized_shape, base.weight, None, base.eps)
        elif isinstance(base, nn.GroupNorm):
            y = F.group_norm(x, base.num_groups, base.weight, None, base.eps)
        elif isinstance(base, nn.Conv2d):
            y = base._conv_forward(x, base.weight, None)
        else:  # batch normalisation, with the statistics it was loaded with
            assert isinstance(base, nn.BatchNorm1d | nn.BatchNorm2d)
            y = F.batch_norm(x, base.running_mean, base.running_var, base.weight, None, eps=base.eps)
        axis = -1 if isinstance(base, nn.Linear | nn.LayerNorm) else 1
        return (split(y, self.members) + along_features(self.bias, y, axis)).reshape(y.shape)
