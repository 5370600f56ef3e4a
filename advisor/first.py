"""What a sweep asks before it starts (`sweeper launch --search advisor`); found by the name of its entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advisor.evidence import PACKAGED, load
from advisor.recommend import recommend
from advisor.situation import Situation

OWN = Path("results") / "advisor.json"
"""Where `advisor fit` writes; it comes before what is shipped."""


def first_settings(model_params: float, n_train: int, modality: str) -> dict[str, Mapping[str, Any]]:
    """Return strategies and their settings for a situation, the best first."""
    situation = Situation(model_params=model_params, n_train=n_train, modality=modality)
    answer = recommend(situation, load(OWN if OWN.exists() else PACKAGED))
    return {candidate.strategy: candidate.settings for candidate in answer.candidates}
