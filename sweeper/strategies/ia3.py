"""IA3: learned vectors that rescale activations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sweeper.members import along_features, split
from sweeper.models.base import Beside, LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage, features

ATTENTION_AND_MLP = "key+value+mlp_out"


@dataclass(frozen=True)
class IA3:
    """Train vectors that rescale keys, values and the inner feed-forward activations (arXiv 2205.05638, section 3.3).

    Formula: ``y = l * (W x), where l trains; of mlp_out W (l * x)``.

    The output of each target is multiplied by a vector; of "mlp_out" the input, which is the inner
    activation. Where query, key and value are one fused layer, its whole output is rescaled, as peft does.
    The vectors start at 1, so training begins at the pretrained function. The head stays frozen unless it
    is fresh. The paper trains at 3e-3 (section 3.5), for a thousand steps.

    Attributes:
        targets: Which layers, as roles joined by "+" (`LoadedModel.targets`).
    """

    name: ClassVar[str] = "ia3"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (1e-2, 3e-2, 1e-1)}

    targets: str = ATTENTION_AND_MLP

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str):
            raise ValueError(f"ia3.targets must be roles joined by '+', got {self.targets!r}")

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put a vector behind each target, or before it where its input is what counts."""
        try:
            paths = model.targets(self.targets)
        except ValueError:
            if self.targets != ATTENTION_AND_MLP:
                raise
            raise model.not_applicable(
                "ia3",
                "it rescales keys, values and the inner feed-forward activations, and this model has no such layers; "
                f"ia3.targets may name others of its roles: {', '.join(sorted(set(model.roles.values())))}",
            ) from None
        for path in paths:
            model.attach(path, Rescaled(model.get(path), model.members, model.roles.get(path) == "mlp_out"))
        if model.head_is_fresh and model.head not in paths:
            model.wake_fresh_head()
        yield Stage()


class Rescaled(Beside):
    """A frozen layer whose output, or input, each member multiplies by a vector: ``scale (members, features)``."""

    def __init__(self, base: nn.Module, members: int, before: bool) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.enabled = True
        self.before = before
        self.axis = 1 if isinstance(base, nn.Conv2d) else -1
        self.scale = nn.Parameter(torch.ones(members, features(base, inputs=before)))

    def own_params(self, member: int) -> int:
        """Return how many parameters a member trains here."""
        return self.scale.shape[1]

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that this module adds to the base layer."""
        return [self.scale]

    def merged(self, member: int) -> nn.Module:
        """Return the base layer with the member's vector multiplied into its weight and bias."""
        layer = copy.deepcopy(self.base)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        scale = self.scale[member].detach()
        outputs, inputs, *kernel = layer.weight.shape
        if self.before:
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            factor = scale.view(groups, 1, inputs).expand(-1, outputs // groups, -1).reshape(outputs, inputs)
        else:
            factor = scale.view(outputs, 1)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias * scale, requires_grad=False)
        weight = layer.weight * factor.view(*factor.shape, *[1] * len(kernel))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map what the base layer maps; rows of member k are rescaled by member k's vector."""
        if not self.enabled:
            return self.base(x)
        return self.base(self._rescaled(x)) if self.before else self._rescaled(self.base(x))

    def _rescaled(self, x: Tensor) -> Tensor:
        return (split(x, len(self.scale)) * along_features(self.scale, x, self.axis)).reshape(x.shape)
