"""From the rows of a results store to the fitted file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from advisor.doubt import doubts
from advisor.evidence import Fitted, Measured, Published, Rate, Setting
from advisor.portfolio import carries
from sweeper.output import whole
from sweeper.results import Contents
from sweeper.spec import Status
from sweeper.summary import SIMILAR_FROM, Line, similarity, summarise, untouched


def fit(contents: Contents, published: Sequence[Published] = (), rates: Sequence[Rate] = ()) -> Fitted:
    """Return what a store's complete trials say, learning rates chosen on valid.

    Args:
        contents: The rows; those that cannot be right are left out (`advisor.doubt`).
        published, rates: What figures of others say (`advisor.published`).

    Raises:
        ValueError: the store has no complete trial.
    """
    doubted = doubts(contents.results)
    kept = [row for row in contents.results if not (row.trial_id in doubted and doubted[row.trial_id].left_out)]
    complete = [result for result in kept if result.status is Status.COMPLETE]
    if not complete:
        raise ValueError("the store has no complete trial to fit from. `sweeper launch --grid smoke` makes some")
    lines = sorted(summarise(kept), key=lambda line: (line.situation, line.strategy, str(line.hparams)))
    situations = [
        _measured([line for line in lines if line.situation == situation], contents.stores)
        for situation in dict.fromkeys(line.situation for line in lines)
    ]
    newest = max(str(result.provenance.get("recorded_at", "")) for result in complete)
    return Fitted(
        trials=len(complete),
        newest=newest,
        situations=situations,
        published=list(published),
        rates=list(rates),
        carries=carries(situations),
        doubted={
            trial: doubt.reason + (": left out" if doubt.left_out else "") for trial, doubt in sorted(doubted.items())
        },
    )


def _measured(lines: list[Line], stores: Mapping[str, str]) -> Measured:
    """Return one situation from its lines."""
    first = lines[0].trials[0]
    found = similarity(lines)
    before = untouched(lines)
    return Measured(
        model=first.spec.model,
        task=first.spec.task,
        model_params=first.context["model_params"],
        n_train=first.spec.n_train,
        steps=first.spec.train.steps,
        modality=first.context["modality"],
        metric=first.context["metric"],
        similar=None if found is None else found >= SIMILAR_FROM,
        similarity=found,
        untouched=before.mean if before else None,
        settings=[_setting(line, stores) for line in lines],
    )


def _setting(line: Line, stores: Mapping[str, str]) -> Setting:
    return Setting(
        strategy=line.strategy,
        hparams=dict(line.hparams),
        train=dict(line.train),
        searched=line.searched,
        seeds=[trial.spec.seed for trial in line.trials],
        valid=[trial.metrics["valid_score"] for trial in line.trials],
        test=[trial.metrics["test_score"] for trial in line.trials],
        trainable_params=line.mean("trainable_params"),
        total_params=line.mean("total_params"),
        train_seconds=line.mean("train_seconds"),
        trial_ids=[trial.trial_id for trial in line.trials],
        forgetting=forgetting.mean if (forgetting := line.spread("forgetting")) else None,
        stores=dict(Counter(Path(stores[trial.trial_id]).as_posix() for trial in line.trials)),
    )


def write(fitted: Fitted, path: Path) -> None:
    """Write the fitted file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        file.write_text(fitted.to_json(), encoding="utf-8")
