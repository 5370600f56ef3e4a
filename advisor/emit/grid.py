"""A grid for ``sweeper launch --grid FILE``: the candidate, at rates around its own, next to full fine-tuning."""

from __future__ import annotations

from pathlib import Path

from advisor.contenders import contender
from advisor.next_trials import data_table, grid_of, stand_in, to_toml
from advisor.own import OwnRows
from advisor.recommend import Recommendation

SEEDS = 3
BASELINE = "full"


def emit(answer: Recommendation, strategy: str, why: str, own: OwnRows | None, folder: Path) -> str:
    """Return the grid file.

    Args:
        answer: The whole answer.
        strategy: A candidate of it.
        why: The answer in a line.
        own: The user's rows, where they brought some; else rows that are here stand in.
        folder: Where the file will lie.

    Raises:
        ValueError: the strategy cannot run there, or nothing can stand in for rows that were not brought.
    """
    if own is not None:
        place, data, notes = own.on(answer.situation.n_train), data_table(own, folder), [why]
    else:
        place, because = stand_in(answer)
        data, notes = None, [why, because[:1].upper() + because[1:]]
    ranked = {candidate.strategy: candidate for candidate in answer.candidates}
    field = [contender(name, ranked.get(name), place) for name in dict.fromkeys((strategy, BASELINE))]
    return to_toml(grid_of(field, place, SEEDS, notes, data))
