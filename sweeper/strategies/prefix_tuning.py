"""Prefix tuning: keys and values before the text, in every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sweeper.models.base import Generators, KeyValues, LoadedModel, generators
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_whole
from sweeper.strategies.prompt_tuning import check_spare

START_STD = 0.02  # as the transformers' own weights start; a prefix of standard deviation 1 drowns the text


@dataclass(frozen=True)
class PrefixTuning:
    """Train n keys and values that every attention layer sees before those of the text (arXiv 2101.00190, section 4).

    Formula: ``softmax(Q [P_k; K]^T / sqrt(d)) [P_v; V], where P_k and P_v train``.

    The prefix trains directly, without the paper's reparametrisation, which peft's default leaves out as
    well. The head stays frozen unless it is fresh.

    Attributes:
        virtual_tokens: How many keys and values in each layer.
    """

    name: ClassVar[str] = "prefix_tuning"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"virtual_tokens": (5, 20, 50), "lr": (1e-2, 3e-2, 1e-1)}

    virtual_tokens: int = 20

    def __post_init__(self) -> None:
        check_whole("prefix_tuning.virtual_tokens", self.virtual_tokens)

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Give every attention layer keys and values."""
        if model.key_values is None:
            raise model.not_applicable(self.name, "attention in the model takes no further keys and values")
        check_spare(self.name, model, self.virtual_tokens)
        rngs = generators(model.seeds, self.name)
        model.attach("key_values", Prefix(model.get("key_values"), model.key_values, self.virtual_tokens, rngs))
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()


class Prefix(nn.Module):
    """Keys and values of each member; ``prefix (members, tokens, layers, 2, heads, width)``."""

    def __init__(self, base: nn.Module, shape: KeyValues, tokens: int, rngs: Generators) -> None:
        super().__init__()
        self.base = base
        self.enabled = True
        size = (tokens, shape.layers, 2, shape.heads, shape.width)
        self.prefix = nn.Parameter(torch.stack([torch.empty(size).normal_(generator=rng) for rng in rngs]) * START_STD)

    def own_params(self, member: int) -> int:
        """Return how many parameters a member trains."""
        return self.prefix[member].numel()

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows."""
        return self.own_params(member)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return [self.prefix]

    def merged(self, member: int) -> None:
        """Return ``None``: attention sees more than the text."""
        return None

    def forward(self, rows: int) -> list[tuple[Tensor, Tensor]] | None:
        """Return for each layer a key and a value ``(rows, heads, tokens, width)``; rows are ``members * batch``."""
        if not self.enabled:
            return self.base(rows)
        each = rows // len(self.prefix)
        # (layers, 2, members * batch, heads, tokens, width)
        wide = self.prefix.permute(2, 3, 0, 4, 1, 5).repeat_interleave(each, dim=2)
        return [(key, value) for key, value in wide]
