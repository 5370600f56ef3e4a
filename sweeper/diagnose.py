"""What went wrong in a trial, read off its row: symptom, fix and source of each diagnosis, and when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.spec import Status, TrialResult


@dataclass(frozen=True)
class Diagnosis:
    """Something that can be wrong with a trial.

    Attributes:
        symptom: What is seen.
        fix: What to do about it.
        source: Where that is from.
    """

    symptom: str
    fix: str
    source: str


DIAGNOSES: Mapping[str, Diagnosis] = {
    "divergence": Diagnosis(
        "the loss or the weights were not finite",
        "lower the learning rate, or warm up longer",
        "Goyal et al. 2017, arXiv 1706.02677, section 2.2",
    ),
    "collapse": Diagnosis(
        "the validation score was above chance and ends at chance",
        "lower the learning rate, or warm up longer",
        "Mosbach et al. 2021, arXiv 2006.04884, sections 5 and 6",
    ),
    "at_chance": Diagnosis(
        "the validation score never rose above what the most frequent answer gets",
        "raise the learning rate or the steps; if that changes nothing, train more of the model or label more rows",
        "Mosbach et al. 2021, arXiv 2006.04884, sections 5 and 6",
    ),
    "overfitting": Diagnosis(
        "the training loss fell on while validation got worse",
        "fewer steps, a lower rate, fewer trainable parameters, or more rows",
        "Prechelt 1998, Early Stopping - But When?",
    ),
    "forgetting": Diagnosis(
        "the score on the source domain fell",
        "train less of the model (LoRA, an adapter that can be switched off), a lower rate, or source rows mixed in",
        "LoRA learns less and forgets less: Biderman et al. 2024, arXiv 2405.09673",
    ),
    "leakage": Diagnosis(
        "the validation score is higher than it can be: validation rows, or their answers, may stand in the training "
        "rows",
        "look for duplicated rows (`sweeper data check`), for rows of one source on both sides (--group-column), and "
        "for a column or word that gives the answer away",
        "the kinds of leakage in Kapoor and Narayanan 2023, arXiv 2207.07048",
    ),
    "too_few_labels": Diagnosis(
        "the smallest class has fewer than 8 training rows",
        "label more rows of that class before trusting a ranking of strategies",
        "8 rows a class are the least that SetFit is measured on: Tunstall et al. 2022, arXiv 2209.11055",
    ),
}

# A difference counts from this many standard errors on: about 1 in 40 by chance alone where one difference is
# looked at. Two scores of a trial are of the same rows, so that their difference varies less than is reckoned here.
NOISE = 2.0
# Losses of single rows spread about twice as widely as their mean is large, but a row's losses at two points go
# together: measured on digits, the error of the difference was 0.9 to 1.3 times what is reckoned from the means.
LOSS_NOISE = 1.3 * NOISE
# Validation above test is looked for in every row of a store: 1 in 30,000 by chance.
LEAKAGE_NOISE = 4.0
# Near perfect, by a model that could not tell much before: frozen features gave less than half way from chance.
NEAR_PERFECT, LITTLE_BEFORE = 0.99, 0.5
MOST_SHARED = 0.01
FEWEST_LABELS = 8
# Training is still learning where its loss fell by a tenth; less is the batches' luck.
FELL = 0.9

# Scores that are shares of rows, or nearly so, and so vary as a binomial share does.
SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "entity_f1", "token_accuracy")


def diagnose(row: TrialResult) -> list[str]:
    """Return the names in `DIAGNOSES` that a row shows, as far as what it holds allows to tell."""
    if row.status is Status.DIVERGED:
        return ["divergence"]
    if row.status is not Status.COMPLETE or not row.curve:
        return []
    lost = _lost(row)
    found = {
        "collapse": lost == "collapse",
        "at_chance": lost == "at_chance",
        "overfitting": lost is None and _overfits(row),
        "forgetting": _forgets(row),
        "leakage": _leaks(row),
        "too_few_labels": _has_few_labels(row),
    }
    return [name for name in DIAGNOSES if found.get(name)]


def diagnoses_of(row: TrialResult) -> list[str]:
    """Return what was diagnosed when the row was made; for an older row, what can be told from it now."""
    return list(row.metrics["diagnoses"]) if "diagnoses" in row.metrics else diagnose(row)


def standard_error(score: float, rows: int, metric: str) -> float | None:
    """Return by how much a score on so many rows varies with the rows; ``None`` where that cannot be told.

    Shares: binomial, with two rows added of either outcome, so that 0 and 1 have an error too (Agresti and
    Coull 1998). R2: Olkin and Finn 1995. The inverse of a perplexity: from the spread of losses.
    """
    if rows < 1:
        return None
    if metric in SHARES:
        share = (score * rows + 2) / (rows + 4)
        return math.sqrt(share * (1 - share) / (rows + 4))
    if metric == "r2":
        explained = min(1.0, max(score, 1 / rows))
        return 2 * math.sqrt(explained) * (1 - explained) / math.sqrt(rows)
    if metric == "inverse_perplexity" and 0 < score < 1:
        # exp(-loss), by the delta method; losses of rows spread twice as widely as their mean (`LOSS_NOISE`).
        return score * 2 * -math.log(score) / math.sqrt(rows)
    return None


def _is_lower(after: float, before: float, rows: tuple[int, int], metric: str, noise: float = NOISE) -> bool:
    """Return whether a score is lower than another by more than noise, given the rows of each."""
    errors = (standard_error(after, rows[0], metric), standard_error(before, rows[1], metric))
    return None not in errors and before - after > noise * math.hypot(*(error or 0.0 for error in errors))


def _facts(row: TrialResult) -> tuple[str, int]:
    """Return the metric and the number of validation rows."""
    return str(row.context.get("metric")), int(row.context.get("n_valid", 0))


def _chance(row: TrialResult) -> float | None:
    """Return the validation score of the most frequent answer; older rows are of tasks with classes alike."""
    context: Mapping[str, Any] = row.context
    if "chance_score" in context:
        return float(context["chance_score"])
    return 1 / context["n_classes"] if context.get("n_classes") and context.get("metric") in SHARES else None


def _lost(row: TrialResult) -> str | None:
    """Return whether the score ends at chance, and whether it was ever above it."""
    chance, (metric, rows) = _chance(row), _facts(row)
    error = None if chance is None else standard_error(chance, rows, metric)
    if chance is None or error is None or row.curve[-1]["valid_score"] > chance + NOISE * error:
        return None
    before = row.metrics.get("untouched_test_score", chance)  # a source model may do the task before it trains
    top = max(before, *(point["valid_score"] for point in row.curve))
    return "collapse" if _is_lower(row.curve[-1]["valid_score"], top, (rows, rows), metric) else "at_chance"


def _overfits(row: TrialResult) -> bool:
    metric, rows = _facts(row)
    last = row.curve[-1]

    def still_learned(since: Mapping[str, float]) -> bool:
        return last["train_loss"] < FELL * since["train_loss"]

    best = max(row.curve, key=lambda point: point["valid_score"])
    if still_learned(best) and _is_lower(last["valid_score"], best["valid_score"], (rows, rows), metric):
        return True
    if rows < 1 or not all("valid_loss" in point for point in row.curve):
        return False
    best = min(row.curve, key=lambda point: point["valid_loss"])
    noise = LOSS_NOISE * math.hypot(best["valid_loss"], last["valid_loss"]) / math.sqrt(rows)
    rose = last["valid_loss"] - best["valid_loss"] > noise
    # Where the score rises along with the loss, answers only grow too sure: that is calibration.
    return rose and still_learned(best) and last["valid_score"] <= best["valid_score"]


def _forgets(row: TrialResult) -> bool:
    before, after = (row.metrics.get(name) for name in ("untouched_source_test_score", "source_test_score"))
    rows = int(row.context.get("n_source_test", row.context.get("n_test", 0)))
    return before is not None and after is not None and _is_lower(after, before, (rows, rows), _facts(row)[0])


def _leaks(row: TrialResult) -> bool:
    metric, rows = _facts(row)
    n_test, valid = int(row.context.get("n_test", 0)), row.curve[-1]["valid_score"]
    if row.context.get("shared_rows", 0) > MOST_SHARED * (rows + n_test):
        return True
    test, worth = row.metrics.get("test_score"), _worth(row, metric)
    if test is not None and _is_lower(test, valid, (int(worth * n_test), int(worth * rows)), metric, LEAKAGE_NOISE):
        return True
    before = [row.context[name] for name in ("knn_score", "probe_score") if name in row.context]
    chance = _chance(row)
    if not before or chance is None or metric not in SHARES:
        return False
    return valid >= NEAR_PERFECT and max(before) < chance + LITTLE_BEFORE * (1 - chance)


def _worth(row: TrialResult, metric: str) -> float:
    """Return the share of its rows that a score is worth: a mean over classes varies with the rows of the rare ones.

    The mean of K shares of n_k rows each varies as one share of K^2 / sum(1 / n_k) rows does.
    """
    confusion = row.metrics.get("confusion")
    if metric not in ("macro_f1", "balanced_accuracy") or not confusion:
        return 1.0
    counts = [sum(answers) for answers in confusion if sum(answers)]
    return float(len(counts) ** 2 / sum(1 / count for count in counts) / sum(counts))


def _has_few_labels(row: TrialResult) -> bool:
    if row.context.get("n_classes") is None or row.context.get("work", "classification") != "classification":
        return False
    # Older rows do not say how many: no more than the average.
    smallest = row.context.get("n_smallest_class", row.spec.n_train // row.context["n_classes"])
    return bool(smallest < FEWEST_LABELS)
