"""Kinds of work: what a network's outputs mean, their loss, and what is kept of them to be scored.

Outputs are ``(members, batch, ..., n)`` and labels ``(members, batch, ...)``:

===============  ====================================  =======================================
work             outputs                               labels
===============  ====================================  =======================================
classification   a logit for each class                class numbers ``(members, batch)``
regression       one number (``n`` is 1)               standardised numbers ``(members, batch)``
tagging          a logit for each tag, token by token  tag numbers ``(members, batch, tokens)``
generation       a logit for each token that may come  token ids ``(members, batch, tokens)``
===============  ====================================  =======================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a token that counts neither in the loss nor in a score, as in torch's own cross-entropy."""


def _cross_entropies(outputs: Tensor, y: Tensor) -> Tensor:
    flat = outputs.flatten(0, -2)
    return F.cross_entropy(flat, y.flatten(), reduction="none", ignore_index=IGNORED).view(y.shape)


def _squares(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs.squeeze(-1) - y) ** 2


def _class(outputs: Tensor) -> Tensor:
    best = outputs.softmax(-1).max(-1)
    return torch.stack([best.indices.to(outputs.dtype), best.values], -1)


def _token(outputs: Tensor) -> Tensor:
    return outputs.argmax(-1, keepdim=True).to(outputs.dtype)


@dataclass(frozen=True)
class Work:
    """One kind of work.

    Attributes:
        losses: The loss of each label, 0 where it is `IGNORED`.
        decide: From outputs to what is kept of them, numbers along the last axis: the predicted class (or
            token, or number) first; for classification its probability second.
        by_token: Whether a row has a label for each token.
    """

    losses: Callable[[Tensor, Tensor], Tensor]
    decide: Callable[[Tensor], Tensor]
    by_token: bool = False

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return each member's mean loss over its labels, ``(members,)``."""
        if not self.by_token:
            return self.losses(outputs, y).mean(1)
        y = y[..., : outputs.shape[-2]]  # a network leaves out columns that no row of the batch uses
        counted = (y != IGNORED).sum((1, 2)).clamp(min=1)
        return self.losses(outputs, y).sum((1, 2)) / counted

    def keep(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return what is kept of a batch, ``(members, batch, ..., k)``: what `decide` keeps, and last the loss."""
        width = y.shape[-1]
        if self.by_token:
            y = y[..., : outputs.shape[-2]]
        kept = torch.cat([self.decide(outputs), self.losses(outputs, y).unsqueeze(-1)], -1)
        return F.pad(kept, (0, 0, 0, width - y.shape[-1])) if self.by_token else kept


CLASSIFICATION, REGRESSION, TAGGING, GENERATION = "classification", "regression", "tagging", "generation"

WORK: dict[str, Work] = {
    CLASSIFICATION: Work(_cross_entropies, _class),
    REGRESSION: Work(_squares, lambda outputs: outputs),
    TAGGING: Work(_cross_entropies, _token, by_token=True),
    GENERATION: Work(_cross_entropies, _token, by_token=True),
}
