"""`advisor recommend --probe`: short trials of the first answer's candidates on the user's rows, then another answer.

The second answer rests on the trials of one round alone (`advisor.race`): those of other steps are never compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advisor.contenders import Contender, contenders
from advisor.evidence import Fitted
from advisor.fit import fit
from advisor.own import OwnRows, Place
from advisor.pace import DOUBT, UNKNOWN, Runner, look
from advisor.race import FEWEST_FINALISTS, FEWEST_SEEDS, Race, Round
from advisor.recommend import Recommendation, recommend
from advisor.situation import Situation
from sweeper.results import Contents, ResultsStore
from sweeper.summary import SIMILAR_FROM, transfer_of


class TooShortError(ValueError):
    """Nothing can be compared in the time."""


@dataclass
class Probed:
    """What a probe found.

    Attributes:
        before: The answer without it.
        after: The answer with it.
        facts: Of the rows and of the model as loaded (`sweeper.facts`).
        transfer: How far frozen features go from chance to perfect (`sweeper.summary.transfer_of`).
        similar: Whether that counts as similar to pretraining; ``None`` where it cannot be told.
        deciding: The round that the second answer rests on.
        undecided: Why there is none.
        left_out: Strategy -> why it was not tried, or not to the end.
        ran: Trials that were run; others were in the store already.
    """

    place: Place
    before: Recommendation
    after: Recommendation
    facts: Mapping[str, Any]
    transfer: float | None
    similar: bool | None
    rounds: list[Round]
    deciding: Round | None
    undecided: str
    left_out: Mapping[str, str]
    ran: int
    seconds: float
    budget: float
    results: str


def probe(
    own: OwnRows,
    situation: Situation,
    fitted: Fitted,
    store: ResultsStore,
    budget: float,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Probed:
    """Return the answers before and after short trials on a user's rows, which all go into a store.

    Args:
        own: The rows, and the model.
        situation: What is known of them.
        fitted: What is known from elsewhere.
        store: Takes the rows; trials that it has are not run again.
        budget: Seconds. No trial starts that is not expected to end within them; what is training then is stopped.
        say: Hears a line after each round.
        clock: Seconds that only grow.

    Raises:
        TooShortError: the time is not enough to compare anything, or nothing could be trained.
        ValueError: there are not so many rows.
    """
    begun = clock()
    place = own.on(situation.n_train)
    before = recommend(situation, fitted)
    facts, pace = look(place, clock)
    found = transfer_of(facts)
    similar = None if found is None else found >= SIMILAR_FROM
    known = situation if situation.similar is not None else replace(situation, similar=similar)
    first = recommend(known, fitted)
    field, left_out = contenders(first, place)
    runner = Runner(store, pace, begun + budget, clock)
    race = Race(place, runner, say, left_out)
    _check_time(race, field, budget, clock() - begun)
    better = race.half_with_more_steps(race.all_with_few_steps(field))
    race.best_on_seeds(better, [own for own in field if own not in better])
    if not any(round_.scores for round_ in race.rounds):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise TooShortError(
            f"no trial of {place.model} on {own.data} came to its end within {budget:g} s ({reasons}). Give it "
            "longer, or name a smaller --model"
        )
    frozen = max((facts[name] for name in ("knn_score", "probe_score") if name in facts), default=None)
    deciding, undecided = race.deciding(first.spoke == "evidence", frozen)
    after = first if deciding is None else recommend(known, _with(fitted, place, deciding.steps, store))
    return Probed(
        place=place,
        before=before,
        after=after,
        facts=facts,
        transfer=found,
        similar=similar,
        rounds=race.rounds,
        deciding=deciding,
        undecided=undecided,
        left_out=left_out,
        ran=runner.ran,
        seconds=clock() - begun,
        budget=budget,
        results=store.name,
    )


def _check_time(race: Race, field: Sequence[Contender], budget: float, spent: float) -> None:
    """Raise TooShortError where two strategies cannot be compared on two seeds in the time, by a first guess.

    The guess has room for doubt; here it is taken without, for the first trials tell better.
    """
    needed = race.runner.expect(race.last(field[:FEWEST_FINALISTS], race.steps[0], range(FEWEST_SEEDS)))
    if needed / (DOUBT * UNKNOWN) > race.runner.left():
        names = " and ".join(own.strategy for own in field[:FEWEST_FINALISTS])
        raise TooShortError(
            f"--probe {budget:g}s is too short: comparing {names} with {race.place.model} takes about "
            f"{spent + needed:.0f} s here. --probe {math.ceil(spent + 1.5 * needed)}s"
        )


def _with(fitted: Fitted, place: Place, steps: int, store: ResultsStore) -> Fitted:
    """Return what is known from elsewhere together with the trials of so many steps in a place, which come first."""
    contents, same = store.read(), (place.model, place.task, place.n_train, steps)
    here = [
        row
        for row in contents.results
        if (row.spec.model, row.spec.task, row.spec.n_train, row.spec.train.steps) == same
    ]
    own = fit(Contents(here, [], contents.stores))
    others = [m for m in fitted.situations if (m.model, m.task, m.n_train, m.steps) != same]
    return Fitted(fitted.trials + own.trials, max(fitted.newest, own.newest), [*own.situations, *others])
