"""Which rows come next: shuffled batches of any split, each member in an order of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sweeper.models.base import generators
from sweeper.prefix import Prefix
from sweeper.tasks.base import Split


def batches(n: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled row numbers, batch after batch, without end.

    Every row appears once in each pass over the data; the last batch of a pass may be short.

    Yields:
        Row numbers of shape ``(batch,)``, at most ``batch_size`` of them.
    """
    while True:
        yield from torch.randperm(n, generator=rng).split(batch_size)


class Draws:
    """The next rows of any split, for all members together (`sweeper.strategies.base.Draw`).

    Args:
        splits: Name -> one split a member, all of one length.
        batch_size: Rows a member gets at most.
        seeds: One a member; each draws its own order.
        device: Where the rows are put.
    """

    def __init__(
        self, splits: Mapping[str, Sequence[Split]], batch_size: int, seeds: Sequence[int], device: torch.device
    ) -> None:
        self.splits, self.batch_size, self.seeds, self.device = splits, batch_size, seeds, device
        self.orders: dict[tuple[str, float], list[Iterator[Tensor]]] = {}
        self.prefix: Prefix | None = None
        self.to_come = 0
        """How many rows all members will still get: what the activations of a split are worth."""
        self.kept = {*splits}
        """Splits whose activations may be kept."""
        self.rows = 0
        """How many rows a member has got."""
        self.drawn: Counter[tuple[str, float]] = Counter()
        """How many batches came from which share of which split."""

    def __call__(self, split: str, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return inputs ``(members * batch, ...)`` and labels ``(members, batch)``."""
        own = self.splits[split]
        if (split, share) not in self.orders:
            self.orders[split, share] = self._streams(split, share)
        picks = [next(order) for order in self.orders[split, share]]
        self.drawn[split, share] += 1
        x = torch.cat([rows.x[pick] for rows, pick in zip(own, picks, strict=True)]).to(self.device)
        y = torch.stack([rows.y[pick] for rows, pick in zip(own, picks, strict=True)])
        if self.prefix is not None and split in self.kept and self.to_come >= len(own[0]):
            kept = [self.prefix.of(rows) for rows in own]
            parts = [rows[pick] for rows, pick in zip(kept, picks, strict=True) if rows is not None]
            if len(parts) == len(kept):
                self.prefix.remember(x, torch.cat(parts).to(self.device))
        self.rows += len(picks[0])
        return x, y.to(self.device)

    def skip(self, split: str, share: float, batches: int) -> None:
        """Draw so many batches and give them to nobody."""
        self.orders[split, share] = self._streams(split, share)
        for order in self.orders[split, share]:
            for _ in range(batches):
                next(order)
        self.drawn[split, share] = batches

    def keep(self, members: Sequence[int]) -> None:
        """Draw for some of the members only, each going on where it was."""
        self.splits = {name: [own[k] for k in members] for name, own in self.splits.items()}
        self.seeds = [self.seeds[k] for k in members]
        self.orders = {what: [streams[k] for k in members] for what, streams in self.orders.items()}

    def _streams(self, split: str, share: float) -> list[Iterator[Tensor]]:
        # Seeds of their own for all but the ordinary stream, whose numbers stored trials depend on.
        purpose = "order" if (split, share) == ("train", 1.0) else f"order/{split}/{share}"
        rngs = generators(self.seeds, purpose)
        samples = [stratified_share(rows.y, share) for rows in self.splits[split]]
        return [
            map(sample.__getitem__, batches(len(sample), self.batch_size, rng))
            for sample, rng in zip(samples, rngs, strict=True)
        ]


def stratified_share(y: Tensor, share: float) -> Tensor:
    """Return the numbers of a share of the rows, at least one: of each class its first ones, about that share.

    Where a row has more than one label, or a number for one, the first rows.
    """
    wanted = max(1, round(share * len(y)))
    order = torch.arange(len(y))
    if wanted < len(y) and y.dim() == 1 and not y.is_floating_point():
        rank = torch.empty(len(y))
        for label in y.unique():
            mine = y == label
            rank[mine] = (torch.arange(int(mine.sum())) + 0.5) / mine.sum()
        order = rank.argsort(stable=True)
    return order[:wanted]
