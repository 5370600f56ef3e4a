"""Domain adaptation: a few labels of the new domain, and features brought in line with the old one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import (
    Draw,
    Objective,
    Stage,
    check_above_zero,
    check_blocks,
    check_whole,
    labelled,
)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Return how far the covariances of features lie apart (Deep CORAL, arXiv 1607.01719, equations 1 to 3).

    Args:
        source: Features ``(members, rows, width)``.
        target: The same of the other domain; the number of rows may differ.

    Returns:
        One distance a member, ``(members,)``: the squared Frobenius norm over 4 width^2.
    """
    gap = _covariance(source) - _covariance(target)
    return gap.square().sum((1, 2)) / (4 * source.shape[2] ** 2)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred.transpose(1, 2) @ centred / max(1, x.shape[1] - 1)


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of features under several Gaussian kernels at once.

    The kernels of DAN (arXiv 1502.02791, section 3): here five with equal weights, exp(-|x - y|^2 / b) with b
    from a quarter to four times the mean squared distance of two different rows. The estimate takes all
    pairs (the biased one of arXiv 0805.2368), so it is never below 0 and the numbers of rows may differ.

    Shapes as for `coral`.
    """
    rows = torch.cat([source, target], 1)
    # Without a square root, whose gradient is not finite at 0.
    distance = (rows.unsqueeze(1) - rows.unsqueeze(2)).square().sum(3)
    n = rows.shape[1]
    bandwidth = distance.detach().sum((1, 2), keepdim=True) / max(1, n * (n - 1))
    bandwidth = bandwidth.clamp_min(torch.finfo(rows.dtype).tiny)
    kernel = torch.stack([torch.exp(-distance / (factor * bandwidth)) for factor in (0.25, 0.5, 1, 2, 4)]).mean(0)
    k = source.shape[1]
    within = kernel[:, :k, :k].mean((1, 2)) + kernel[:, k:, k:].mean((1, 2))
    return within - 2 * kernel[:, :k, k:].mean((1, 2))


ALIGN: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"coral": coral, "mmd": mmd}


@dataclass(frozen=True)
class DomainAdaptation:
    """Train the head and the last blocks on a small labelled sample of the new domain.

    Formula: ``loss(labelled) + align_weight * d(h(source), h(new)); CORAL: d = |C_source - C_new|^2 / (4 width^2)``.

    With alignment, labelled rows of the source domain train along, and a term of the loss pulls the features
    of both domains together, for which rows of the new domain need no labels: all of "train" serve.
    Both papers look for the term's weight on the task; the weights of the space are ours.

    Attributes:
        labelled_share: The share of the training rows whose labels are used, each class with its share; 0 only
            with alignment.
        align: "coral" (arXiv 1607.01719), "mmd" (arXiv 1502.02791) or "none".
        align_weight: Factor on that term.
        blocks: How many blocks train, counted from the head.
    """

    name: ClassVar[str] = "domain_adaptation"
    per_member: ClassVar[frozenset[str]] = frozenset({"align_weight"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "align": ("none", "coral", "mmd"),
        "align_weight": (0.1, 1.0, 10.0),
        "blocks": (1, 2),
        "lr": (1e-4, 3e-4, 1e-3),
    }

    labelled_share: float = 0.2
    align: str = "none"
    align_weight: float = 1.0
    blocks: int = 1

    def __post_init__(self) -> None:
        check_whole("domain_adaptation.blocks", self.blocks)
        if self.align not in ("none", *ALIGN):
            raise ValueError(f"domain_adaptation.align must be one of none, {', '.join(ALIGN)}, got {self.align!r}")
        weight = check_above_zero("domain_adaptation.align_weight", self.align_weight)
        object.__setattr__(self, "align_weight", weight)
        share = self.labelled_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"domain_adaptation.labelled_share must be from 0 to 1, got {share!r}")
        if share == 0 and self.align == "none":
            raise ValueError(
                f"domain_adaptation.labelled_share must be above 0 unless align is {' or '.join(ALIGN)}, got {share!r}"
            )
        object.__setattr__(self, "labelled_share", float(share))

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the head and the last blocks."""
        check_blocks("domain_adaptation.blocks", self.blocks, model)
        if model.head_is_fresh:
            model.wake_fresh_head()
        model.wake(model.head)
        for path in model.blocks[-self.blocks :]:
            model.wake(path)
        if self.align == "none":
            yield Stage(objective=partial(labelled, share=self.labelled_share))
        else:
            needs = {"source_train": "alignment needs a task with a source domain"}
            yield Stage(objective=self._aligned([member.align_weight for member in members]), needs=needs)

    def _aligned(self, weights: Sequence[float]) -> Objective:
        """Return the objective: to label both domains right, and to have their features alike."""
        distance = ALIGN[self.align]

        def objective(model: LoadedModel, draw: Draw) -> Tensor:
            x, y = draw("source_train")
            source, logits = model.features_and_logits(x)
            loss = model.loss(logits, y)
            if self.labelled_share:
                loss = loss + labelled(model, draw, self.labelled_share)
            unlabelled, _ = draw("train")
            target, _ = model.features_and_logits(unlabelled)
            # Where the head reads more than one place of a row, each place is a row of features.
            apart = distance(source.flatten(1, -2), target.flatten(1, -2))
            return loss + torch.tensor(weights, device=apart.device) * apart

        return objective
