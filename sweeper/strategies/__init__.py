"""The ways to fine-tune: one file each, and two tables."""

from collections.abc import Callable

from sweeper.registry import with_plugins
from sweeper.strategies.adapter import Adapter
from sweeper.strategies.base import Stage, Strategy, hparams_of
from sweeper.strategies.bitfit import BitFit
from sweeper.strategies.feature_extraction import FeatureExtraction
from sweeper.strategies.full import Full
from sweeper.strategies.gradual_unfreeze import GradualUnfreeze
from sweeper.strategies.lora import Lora
from sweeper.strategies.partial_unfreeze import PartialUnfreeze
from sweeper.strategies.probe_then_full import ProbeThenFull
from sweeper.strategies.qlora import Qlora
from sweeper.suggest import no_such

_SHIPPED: tuple[type[Strategy], ...] = (
    Full,
    FeatureExtraction,
    PartialUnfreeze,
    GradualUnfreeze,
    ProbeThenFull,
    Lora,
    Qlora,
    Adapter,
    BitFit,
)

STRATEGIES: dict[str, type[Strategy]] = with_plugins({s.name: s for s in _SHIPPED}, "sweeper.strategies")

# "family:rest" -> the strategy that the family makes for the rest of the name.
FAMILIES: dict[str, Callable[[str], type[Strategy]]] = {}


def find_strategy(name: str) -> type[Strategy]:
    """Return a strategy in the table, or one that a family knows by name.

    Raises:
        ValueError: there is no such strategy.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    family, colon, rest = name.partition(":")
    if colon and rest and family in FAMILIES:
        return FAMILIES[family](rest)
    raise no_such("strategy", name, [*STRATEGIES, *(f"{family}:METHOD" for family in FAMILIES)])


__all__ = ["FAMILIES", "STRATEGIES", "Stage", "Strategy", "find_strategy", "hparams_of"]
