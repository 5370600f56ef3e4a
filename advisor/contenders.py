"""Which strategies are worth trying in a place, with which settings and learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from advisor.own import Place
from advisor.recommend import Candidate, Recommendation
from sweeper.models.base import NotApplicableError, UnavailableError
from sweeper.spec import TrialSpec
from sweeper.strategies import Strategy, find_strategy
from sweeper.trial import check_all

RIVALS = ("full", "feature_extraction", "lora", "partial_unfreeze")
"""What an answer of fewer strategies is compared with; `full` is the baseline of every grid."""
LEAST, MOST = 4, 6
"""Strategies."""
RATES = 3
ANY_RATES = (1e-3, 3e-3, 1e-2)
SAME_RATE = 0.05
"""In powers of ten: learning rates nearer than this are tried once."""


@dataclass(frozen=True)
class Contender:
    """A strategy to try.

    Attributes:
        hparams: Those that are not the strategy's defaults.
        rates: Learning rates, the likeliest first.
    """

    strategy: str
    hparams: Mapping[str, Any]
    rates: tuple[float, ...]

    def trials(self, place: Place, steps: int, seed: int = 0, rates: Sequence[float] | None = None) -> list[TrialSpec]:
        """Return the trials of one seed, at all rates or at some."""
        own = dict(self.hparams)
        return [place.trial(self.strategy, own, rate, steps, seed) for rate in rates or self.rates]


def contenders(answer: Recommendation, place: Place, most: int = MOST) -> tuple[list[Contender], dict[str, str]]:
    """Return what to try of an answer, its first strategy first, and the reason for each that cannot run there.

    What the rules prefer and the baseline are among them, however evidence elsewhere ranks them.
    """
    ranked = {candidate.strategy: candidate for candidate in answer.candidates}
    wanted = [*(name for name, own in ranked.items() if own.by_rules), "full"]
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys((*wanted, *ranked, *RIVALS)):
        if len(found) >= most or (len(found) >= LEAST and name not in ranked):
            break
        try:
            found.append(contender(name, ranked.get(name), place))
        except ValueError as error:  # also a strategy of a package that is not here
            left_out[name] = str(error)
    order = [*ranked, *RIVALS]
    return sorted(found, key=lambda own: order.index(own.strategy)), left_out


def contender(name: str, candidate: Candidate | None, place: Place) -> Contender:
    """Return a strategy with the settings that are advised, or the nearest smaller ones that fit the model.

    Raises:
        ValueError: it cannot run there.
    """
    strategy = find_strategy(name)
    settings = candidate.settings if candidate else {}
    known = {field.name for field in fields(strategy)}  # type: ignore[arg-type]  # every strategy is a dataclass
    advised = {key: value for key, value in settings.items() if key in known}
    rates = rates_around(candidate, place.rates or tuple(strategy.space.get("lr", ANY_RATES)))  # type: ignore[arg-type]
    refusal: ValueError | None = None
    for hparams in _ever_smaller(strategy, advised):
        try:
            check_all([place.trial(name, hparams, rates[0])], lenient=True)
            return Contender(name, hparams, rates)
        except UnavailableError:
            raise
        except NotApplicableError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def rates_around(candidate: Candidate | None, space: Sequence[float]) -> tuple[float, ...]:
    """Return up to three learning rates: what trials advise and its neighbours, else the middle of the space first.

    A rate outside the space comes second, behind the nearest in it: it is of another model. Rates of the literature
    are of large models and long runs, and count only inside.
    """
    advised = candidate.settings.get("lr") if candidate else None
    measured = candidate is not None and candidate.estimate is not None
    inside = advised is not None and min(space) <= advised <= max(space)
    if advised is None or not (measured or inside):
        advised, inside = sorted(space)[len(space) // 2], True

    def far(rate: float) -> float:
        return abs(math.log10(rate / advised))

    others = sorted((rate for rate in space if far(rate) > SAME_RATE), key=lambda rate: (far(rate), rate))
    order = [advised, *others] if inside else [others[0], advised, *others[1:]]
    return tuple(map(float, order))[:RATES]


def _ever_smaller(strategy: type[Strategy], hparams: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings, then with smaller whole numbers out of the strategy's space: ranks, widths, blocks."""
    yield hparams
    for key, values in strategy.space.items():
        own = hparams.get(key, getattr(strategy, key, None))
        if isinstance(own, int) and not isinstance(own, bool):
            smaller = [value for value in values if isinstance(value, int) and value < own]
            yield from ({**hparams, key: value} for value in sorted(smaller, reverse=True))
