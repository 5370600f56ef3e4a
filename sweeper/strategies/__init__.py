"""The ways to fine-tune: one file each, and two tables."""

from collections.abc import Callable

from sweeper.registry import find, with_plugins
from sweeper.strategies import peft_methods
from sweeper.strategies.adapter import Adapter
from sweeper.strategies.base import Stage, Strategy, hparams_of
from sweeper.strategies.bitfit import BitFit
from sweeper.strategies.domain_adaptation import DomainAdaptation
from sweeper.strategies.feature_extraction import FeatureExtraction
from sweeper.strategies.full import Full
from sweeper.strategies.gradual_unfreeze import GradualUnfreeze
from sweeper.strategies.ia3 import IA3
from sweeper.strategies.lora import Lora
from sweeper.strategies.norm_tuning import NormTuning
from sweeper.strategies.p_tuning import PTuning
from sweeper.strategies.partial_unfreeze import PartialUnfreeze
from sweeper.strategies.prefix_tuning import PrefixTuning
from sweeper.strategies.probe_then_full import ProbeThenFull
from sweeper.strategies.prompt_tuning import PromptTuning
from sweeper.strategies.qlora import Qlora

_SHIPPED: tuple[type[Strategy], ...] = (
    Full,
    FeatureExtraction,
    PartialUnfreeze,
    GradualUnfreeze,
    ProbeThenFull,
    DomainAdaptation,
    Lora,
    Qlora,
    Adapter,
    BitFit,
    PromptTuning,
    PTuning,
    PrefixTuning,
    NormTuning,
    IA3,
)

STRATEGIES: dict[str, type[Strategy]] = with_plugins({s.name: s for s in _SHIPPED}, "sweeper.strategies")

# "family:rest" -> the strategy that the family makes for the rest of the name.
FAMILIES: dict[str, Callable[[str], type[Strategy]]] = {"peft": peft_methods.method}


def find_strategy(name: str) -> type[Strategy]:
    """Return a strategy in the table, or one that a family knows by name.

    Raises:
        ValueError: there is no such strategy.
    """
    return find("strategy", name, STRATEGIES, FAMILIES)


__all__ = ["FAMILIES", "STRATEGIES", "Stage", "Strategy", "find_strategy", "hparams_of"]
