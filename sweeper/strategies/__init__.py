"""The ways to fine-tune: one file each, and this table."""

from sweeper.registry import with_plugins
from sweeper.strategies.adapter import Adapter
from sweeper.strategies.base import Stage, Strategy
from sweeper.strategies.feature_extraction import FeatureExtraction
from sweeper.strategies.full import Full
from sweeper.strategies.lora import Lora
from sweeper.strategies.partial_unfreeze import PartialUnfreeze

STRATEGIES: dict[str, type[Strategy]] = with_plugins(
    {s.name: s for s in (Full, FeatureExtraction, PartialUnfreeze, Lora, Adapter)},
    "sweeper.strategies",
)

__all__ = ["STRATEGIES", "Stage", "Strategy"]
