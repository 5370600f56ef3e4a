"""P-tuning: virtual tokens that come out of a small network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweeper.members import MemberLinear
from sweeper.models.base import Generators, LoadedModel, generators, initialise
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_whole
from sweeper.strategies.prompt_tuning import Prompted, token_table


@dataclass(frozen=True)
class PTuning:
    """Train a prompt encoder MLP(Z) whose n outputs stand before the embedded tokens (arXiv 2103.10385, section 3).

    Formula: ``f([MLP(Z); E(x)]), where Z and the MLP train``.

    The encoder is the paper's MLP variant, three linear layers with ReLU between them, as in the package
    peft. Once trained only its outputs are kept: n vectors as in prompt tuning. The head stays frozen
    unless it is fresh.

    Attributes:
        virtual_tokens: How many vectors.
        hidden: Width of the encoder's inner layers.
    """

    name: ClassVar[str] = "p_tuning"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "virtual_tokens": (5, 20, 50),
        "hidden": (64, 128),
        "lr": (1e-3, 3e-3, 1e-2),
    }

    virtual_tokens: int = 20
    hidden: int = 128

    def __post_init__(self) -> None:
        check_whole("p_tuning.virtual_tokens", self.virtual_tokens)
        check_whole("p_tuning.hidden", self.hidden)

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put the encoder's virtual tokens before the embedded ones."""
        table = token_table(self.name, model, self.virtual_tokens)
        encoder = PromptEncoder(
            self.virtual_tokens, table.weight.shape[1], self.hidden, generators(model.seeds, self.name)
        )
        assert model.embedding is not None
        model.attach(model.embedding, Prompted(table, encoder))
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()


class PromptEncoder(nn.Module):
    """Virtual tokens through an MLP, for each member its own; ``inputs (members, tokens, width)``."""

    def __init__(self, tokens: int, width: int, hidden: int, rngs: Generators) -> None:
        super().__init__()
        drawn = [torch.empty(tokens, width).normal_(generator=rng) for rng in rngs]  # as nn.Embedding starts
        self.inputs = nn.Parameter(torch.stack(drawn))
        sizes = [width, hidden, hidden, width]
        self.layers = nn.ModuleList(MemberLinear(nn.Linear(a, b), len(rngs)) for a, b in pairwise(sizes))
        for layer in self.layers:
            assert isinstance(layer, MemberLinear)
            initialise(layer, rngs)

    def forward(self) -> Tensor:
        """Return the virtual tokens ``(members, tokens, width)``."""
        first, second, last = self.layers
        x = self.inputs.flatten(0, 1)
        return last(F.relu(second(F.relu(first(x))))).reshape(self.inputs.shape)
