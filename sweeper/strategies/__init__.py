"""The ways to fine-tune: one file each, and this table."""

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

_SHIPPED = (Full, FeatureExtraction, PartialUnfreeze, GradualUnfreeze, ProbeThenFull, Lora, Adapter, BitFit)

STRATEGIES: dict[str, type[Strategy]] = with_plugins({s.name: s for s in _SHIPPED}, "sweeper.strategies")

__all__ = ["STRATEGIES", "Stage", "Strategy", "hparams_of"]
