"""What `advisor recommend --probe` does, and how it ends where nothing can be compared."""

from __future__ import annotations

import sys

from advisor.evidence import Fitted
from advisor.options import NOTHING_FEASIBLE, Question
from advisor.probe import Probed, TooShortError, probe
from sweeper.printing import tell, warn
from sweeper.results import ResultsStore
from sweeper.upkeep import settle


def probed(question: Question, fitted: Fitted, folder: str, budget: float) -> Probed:
    """Return what a probe finds; exit with 4 where the time is not enough for anything.

    Raises:
        ValueError: the folder is no store, or there are not so many rows.
    """
    assert question.own is not None
    store = ResultsStore(folder, create=True)
    settle(store)
    try:
        return probe(question.own, question.situation, fitted, store, budget, tell)
    except TooShortError as error:
        warn(f"Error: {error}")
        sys.exit(NOTHING_FEASIBLE)
    finally:
        store.close()
