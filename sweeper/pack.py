"""Which trials train together."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sweeper.spec import TrialSpec
from sweeper.strategies import STRATEGIES

PER_MEMBER_TRAIN_ARGS = ("lr", "weight_decay")


def pack_key(spec: TrialSpec) -> str:
    """Return what the trials of one pack have in common.

    Rates, decays and the strategy's own ``per_member`` fields may differ. Seeds may not: the seed
    decides the source model, and with it the frozen base.
    """
    shared = spec.to_dict()
    for name in PER_MEMBER_TRAIN_ARGS:
        del shared["train"][name]
    for name in STRATEGIES[spec.strategy].per_member:
        del shared["hparams"][name]
    return json.dumps(shared, sort_keys=True)


def make_packs(specs: Sequence[TrialSpec], size: int) -> list[list[TrialSpec]]:
    """Return the trials in packs of at most ``size``, evenly filled, in the order of their first trial."""
    groups: dict[str, list[TrialSpec]] = {}
    for spec in specs:
        groups.setdefault(pack_key(spec), []).append(spec)
    packs = []
    for group in groups.values():
        count = -(-len(group) // size)
        packs += [group[i::count] for i in range(count)]
    return packs
