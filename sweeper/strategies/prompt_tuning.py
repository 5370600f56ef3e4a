"""Prompt tuning: virtual tokens before the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sweeper.models.base import Beside, LoadedModel, generators
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_whole


@dataclass(frozen=True)
class PromptTuning:
    """Train n vectors that stand before the embedded tokens of every text: [P; E(x)] (arXiv 2104.08691, section 2).

    Formula: ``f([P; E(x)]), where the n rows of P train``.

    They start at the embeddings of tokens drawn from the vocabulary (section 3.2). Nothing inside the
    network changes; the head stays frozen unless it is fresh. The paper trains at 0.3 with
    Adafactor (section 3.1) and finds little gain beyond 20 tokens (section 3.2).

    Attributes:
        virtual_tokens: How many vectors.
    """

    name: ClassVar[str] = "prompt_tuning"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"virtual_tokens": (5, 20, 50), "lr": (3e-2, 1e-1, 3e-1)}

    virtual_tokens: int = 20

    def __post_init__(self) -> None:
        check_whole("prompt_tuning.virtual_tokens", self.virtual_tokens)

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put virtual tokens before the embedded ones."""
        table = token_table(self.name, model, self.virtual_tokens)
        prompt = torch.empty(model.members, self.virtual_tokens, table.weight.shape[1])
        for k, rng in enumerate(generators(model.seeds, self.name)):
            drawn = torch.randint(table.num_embeddings, (self.virtual_tokens,), generator=rng)
            prompt[k] = table.weight[drawn].detach()
        assert model.embedding is not None
        model.attach(model.embedding, Prompted(table, Vectors(prompt)))
        if model.head_is_fresh:
            model.wake_fresh_head()
        yield Stage()


def token_table(strategy: str, model: LoadedModel, virtual_tokens: int) -> nn.Embedding:
    """Return a model's embedding of tokens.

    Raises:
        NotApplicableError: it has none.
        ValueError: there are no positions for so many more tokens.
    """
    table = None if model.embedding is None else model.get(model.embedding)
    if not isinstance(table, nn.Embedding):
        raise model.not_applicable(strategy, "the model has no embedding of tokens")
    check_spare(strategy, model, virtual_tokens)
    return table


def check_spare(strategy: str, model: LoadedModel, virtual_tokens: int) -> None:
    """Raise ValueError where a model has no positions for so many more tokens."""
    if model.spare_tokens is not None and virtual_tokens > model.spare_tokens:
        raise ValueError(
            f"{strategy}.virtual_tokens is {virtual_tokens}, but this model has positions for {model.spare_tokens} "
            "beside those of the texts: take at most as many"
        )


class Vectors(nn.Module):
    """The virtual tokens themselves; ``prompt (members, tokens, width)``."""

    def __init__(self, prompt: Tensor) -> None:
        super().__init__()
        self.prompt = nn.Parameter(prompt)

    def forward(self) -> Tensor:
        """Return them."""
        return self.prompt


class Prompted(Beside):
    """A frozen embedding that puts each member's virtual tokens before its rows.

    Args:
        base: The embedding.
        source: A module that returns the virtual tokens ``(members, tokens, width)``.
    """

    def __init__(self, base: nn.Embedding, source: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.source = source
        self.enabled = True

    @property
    def virtual_tokens(self) -> int:
        """How many tokens come out beside those that go in."""
        return self.source().shape[1] if self.enabled else 0

    def own_params(self, member: int) -> int:
        """Return how many parameters a member trains."""
        return sum(p[member].numel() for p in self.source.parameters())

    def extra_params(self, member: int) -> int:
        """Return by how many parameters a member's network grows: in use it needs the vectors alone."""
        return self.source()[member].numel()

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return [*self.source.parameters()]

    def merged(self, member: int) -> None:
        """Return ``None``: the text grows longer."""
        return None

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids ``(members * batch, tokens)`` to ``(members * batch, virtual + tokens, width)``."""
        embedded = self.base(ids)
        if not self.enabled:
            return embedded
        prompt = self.source()
        each = len(ids) // len(prompt)
        return torch.cat([prompt.repeat_interleave(each, dim=0).to(embedded.dtype), embedded], dim=1)
