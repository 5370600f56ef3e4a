"""Which trials train together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from sweeper.spec import TrialSpec
from sweeper.strategies import find_strategy

PER_MEMBER_TRAIN_ARGS = ("lr", "weight_decay")


def pack_key(spec: TrialSpec) -> str:
    """Return what the trials of one pack have in common.

    Rates, decays and the strategy's own ``per_member`` fields may differ. Seeds may not: the seed
    decides the source model, and with it the frozen base.
    """
    shared = spec.to_dict()
    for name in PER_MEMBER_TRAIN_ARGS:
        del shared["train"][name]
    for name in find_strategy(spec.strategy).per_member:
        shared["hparams"].pop(name, None)
    return json.dumps(shared, sort_keys=True)


MOST = 64


def make_packs(specs: Sequence[TrialSpec], size: int | None = None, workers: int = 1) -> list[list[TrialSpec]]:
    """Return the trials in packs of at most ``size``, evenly filled, in the order of their first trial.

    Trials alike in the strategy's own settings stay together: a pack costs what its largest rank costs.

    Args:
        size: If ``None``, as many as leave each worker about two packs, and at most 64.
        workers: Packs that train at the same time.
    """
    if size is None:
        size = max(1, min(MOST, -(-len(specs) // (2 * workers))))
    groups: dict[str, list[TrialSpec]] = {}
    for spec in specs:
        groups.setdefault(pack_key(spec), []).append(spec)
    packs = []
    for group in groups.values():
        own = sorted(find_strategy(group[0].strategy).per_member)
        group.sort(key=lambda spec: [(n, type(v).__name__, v) for n in own if (v := spec.hparams.get(n)) is not None])
        count = -(-len(group) // size)
        bounds = [round(len(group) * i / count) for i in range(count + 1)]
        packs += [group[a:b] for a, b in pairwise(bounds)]
    return packs
