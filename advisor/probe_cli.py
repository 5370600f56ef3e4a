"""What `advisor recommend --probe` does, and how it ends where nothing can be compared."""

from __future__ import annotations

import sys
from typing import Any

from advisor.evidence import Fitted
from advisor.options import NOTHING_FEASIBLE, Question
from advisor.probe import TooShortError, probe
from advisor.probe_report import as_json, as_text
from sweeper.printing import tell, warn
from sweeper.results import ResultsStore
from sweeper.upkeep import settle


def answer_after_probe(question: Question, fitted: Fitted, folder: str, budget: float) -> tuple[str, dict[str, Any]]:
    """Return the answer after a probe, as text and as JSON; exit with 4 where the time is not enough for one.

    Raises:
        ValueError: the folder is no store, or there are not so many rows.
    """
    assert question.own is not None
    store = ResultsStore(folder, create=True)
    settle(store)
    try:
        found = probe(question.own, question.situation, fitted, store, budget, tell)
    except TooShortError as error:
        warn(f"Error: {error}")
        sys.exit(NOTHING_FEASIBLE)
    finally:
        store.close()
    return as_text(found), as_json(found)
