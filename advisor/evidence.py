"""The fitted file: what the trials of a results store say, situation by situation."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from advisor.situation import Situation
from sweeper.disk import read_small

FORMAT = "advisor-fitted"
SCHEMA = 2
PACKAGED = Path(__file__).with_name("fitted.json")

# Evidence may overrule a rule only from near by: the same modality and similarity, a model within a factor
# of 10 in size, a training set within a factor of 4 (both in powers of ten).
NEAR_MODEL, NEAR_DATA = 1.0, 0.6021
# Scores closer than this cannot be told apart: equal runs differ by 0.9 points (std) in the public tables
# of peft, and a cheaper setting is then the better one.
TIE = 0.01

# Fewer seeds than this decide nothing.
MIN_SEEDS = 3

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t: tabulated, then by its expansion (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Setting:
    """One strategy with hyperparameters, at the learning rate that was best on valid.

    Lists have one entry a seed, in the order of ``seeds``.
    """

    strategy: str
    hparams: Mapping[str, Any]
    train: Mapping[str, Any]
    searched: int
    seeds: Sequence[int]
    valid: Sequence[float]
    test: Sequence[float]
    trainable_params: float
    total_params: float
    train_seconds: float
    trial_ids: Sequence[str]
    stores: Mapping[str, int]
    forgetting: float | None = None

    def mean_valid(self, seeds: frozenset[int]) -> float:
        """Return the mean valid score over those of these seeds that were run; over all, if none was."""
        mine = [score for seed, score in zip(self.seeds, self.valid, strict=True) if seed in seeds]
        return statistics.fmean(mine or self.valid)

    @property
    def mean_test(self) -> float:
        """Mean test score over seeds."""
        return statistics.fmean(self.test)

    @property
    def std_test(self) -> float | None:
        """Standard deviation of the test score over seeds, ``None`` for one seed."""
        return statistics.stdev(self.test) if len(self.test) > 1 else None

    def ahead_of(self, other: Setting) -> tuple[float, float, float] | None:
        """Return by how much this test score leads, paired by seed: mean and 95 % interval (Student's t).

        ``None`` where fewer than two seeds are shared.
        """
        theirs = dict(zip(other.seeds, other.test, strict=True))
        gaps = [mine - theirs[seed] for seed, mine in zip(self.seeds, self.test, strict=True) if seed in theirs]
        if len(gaps) < 2:
            return None
        mean = statistics.fmean(gaps)
        half = t_quantile(len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        return mean, mean - half, mean + half


@dataclass(frozen=True)
class Measured:
    """A situation that was measured: what it is, and every setting tried in it.

    ``similarity`` is the source model's score on the new task over its score on its own, before it
    trains; ``similar`` whether that is 0.9 or more; ``untouched`` that score itself, on the new task's test
    rows. ``None`` where there is no source model.
    """

    model: str
    task: str
    model_params: float
    n_train: int
    steps: int
    modality: str
    metric: str
    similar: bool | None
    similarity: float | None
    untouched: float | None
    settings: Sequence[Setting]

    def as_situation(self) -> Situation:
        """Return the measured situation in the user's terms."""
        return Situation(
            similar=self.similar, modality=self.modality, model_params=self.model_params, n_train=self.n_train
        )

    def fits(self, situation: Situation) -> bool:
        """Return whether the model's size is known to be of this class, and no other known answer differs."""
        mine = self.as_situation()
        if situation.large is None:
            return False
        pairs = [
            (situation.large, mine.large),
            (situation.similar, mine.similar),
            (situation.data, mine.data),
            (situation.modality, mine.modality),
        ]
        return all(asked is None or own is None or asked == own for asked, own in pairs)

    def distance(self, situation: Situation) -> float:
        """Return how far off the numbers are, in powers of ten; unknown numbers count as no distance."""
        model = _gap(self.model_params, situation.model_params)
        return (model or 0.0) + (_gap(self.n_train, situation.n_train) or 0.0)

    def is_near(self, situation: Situation) -> bool:
        """Return whether the user's situation is known in enough detail, and close enough, to overrule a rule.

        Never for a large model on a small budget: whether a strategy fits into memory is not measured here.
        """
        model, data = _gap(self.model_params, situation.model_params), _gap(self.n_train, situation.n_train)
        return (
            self.fits(situation)
            and situation.modality is not None
            and (situation.similar is not None or self.similar is None)
            and not (situation.large and situation.compute == "low")
            and model is not None
            and model <= NEAR_MODEL
            and data is not None
            and data <= NEAR_DATA
        )

    def shared_seeds(self) -> frozenset[int]:
        """Return the seeds that all settings have, settings with fewer than `MIN_SEEDS` left aside.

        Scores are compared on these alone: means over different seeds are means over different rows.
        """
        enough = [frozenset(s.seeds) for s in self.settings if len(s.seeds) >= MIN_SEEDS]
        return frozenset.intersection(*enough) if enough else frozenset()

    def weight(self) -> tuple[bool, int]:
        """Return what makes one of two equally near situations count: enough seeds, then a longer budget."""
        return bool(self.shared_seeds()), self.steps

    def best(self, strategy: str) -> Setting:
        """Return a strategy's setting with the fewest trainable parameters among those that tie with its best."""
        return self._order([s for s in self.settings if s.strategy == strategy])[0]

    def ranked(self) -> list[Setting]:
        """Return each strategy's best setting, best valid score first; ties go to fewer trainable parameters."""
        return self._order([self.best(strategy) for strategy in dict.fromkeys(s.strategy for s in self.settings)])

    def _order(self, settings: Sequence[Setting]) -> list[Setting]:
        """Return settings best first; those with fewer than `MIN_SEEDS` come last, however lucky their seed."""
        seeds = self.shared_seeds()

        def few(setting: Setting) -> bool:
            return len(setting.seeds) < MIN_SEEDS

        top = max(s.mean_valid(seeds) for s in settings if few(s) == min(map(few, settings)))

        def key(setting: Setting) -> tuple[bool, bool, float]:
            ties = setting.mean_valid(seeds) >= top - TIE
            return few(setting), not ties, setting.trainable_params if ties else -setting.mean_valid(seeds)

        return sorted(settings, key=key)


def _gap(a: float, b: float | None) -> float | None:
    return None if b is None else abs(math.log10(a / b))


@dataclass(frozen=True)
class Published:
    """What figures of others say of a strategy.

    Attributes:
        smallest, largest: Parameters of the models it was tried on.
        situations, best_in: In how many it was tried, and in how many it was the best of what was tried there.
        behind: Points below the best of each situation, the mean; per cent of the loss where the score is a loss.
        task, backbone, score, peak_memory_bytes, train_seconds: Of the row in which it did best against the others.
        row: Where that row stands.
    """

    source: str
    strategy: str
    modality: str | None
    smallest: float | None
    largest: float | None
    situations: int
    best_in: int
    behind: float
    task: str
    backbone: str
    score: float
    row: str
    peak_memory_bytes: float | None = None
    train_seconds: float | None = None


@dataclass(frozen=True)
class Rate:
    """The learning rate and rank that figures of others make one expect to be best for a model that they do not have.

    Attributes:
        model_params: Of the model; ``None`` where its size is not known.
        backbones: How many models it is learned from.
    """

    source: str
    strategy: str
    model_params: float | None
    lr: float
    rank: int
    backbones: int


@dataclass(frozen=True)
class Carry:
    """How far the test scores of one measured situation are from those of another task.

    Attributes:
        points: 90 % of the errors are within, each task counting the same.
        tasks: That were left out, one after the other.
    """

    points: float
    tasks: int


@dataclass(frozen=True)
class Fitted:
    """Everything that `advisor fit` found in a store.

    Attributes:
        published, rates: What figures of others beside the store say.
        carries: How far scores of a "near" situation, and of one that is "far", are from those of another task.
        doubted: Trials that cannot be right, or stand alone -> why; those that were left out say so.
    """

    trials: int
    newest: str
    situations: Sequence[Measured]
    published: Sequence[Published] = ()
    rates: Sequence[Rate] = ()
    carries: Mapping[str, Carry] = field(default_factory=dict)
    doubted: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the file's text: readable, and equal for equal stores."""
        return json.dumps({"format": FORMAT, "schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n"


MOST_BYTES = 64 * 2**20
log = logging.getLogger(__name__)


def load(path: Path) -> Fitted:
    """Return a fitted file.

    Raises:
        ValueError: it does not exist, or is not a fitted file of this version.
    """
    try:
        content = json.loads(read_small(path, MOST_BYTES))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        if content["schema"] > SCHEMA:
            raise ValueError(f"its schema {content['schema']} is newer than this version's {SCHEMA}")
        situations = [_measured(entry) for entry in content["situations"]]
        log.debug("%d situations of %s trials in %s", len(situations), content["trials"], path)
        return Fitted(
            content["trials"],
            content["newest"],
            situations,
            [_checked(Published(**entry)) for entry in content.get("published", [])],
            [_checked(Rate(**entry)) for entry in content.get("rates", [])],
            {str(kind): _checked(Carry(**entry)) for kind, entry in content.get("carries", {}).items()},
            {str(trial): str(reason) for trial, reason in content.get("doubted", {}).items()},
        )
    except FileNotFoundError:
        raise ValueError(f"no fitted file {str(path)!r}; `advisor fit` writes one") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError) as error:
        raise ValueError(f"{str(path)!r} is not a fitted file ({error}); `advisor fit` writes one") from None


def _measured(entry: Mapping[str, Any]) -> Measured:
    """Return one situation of the file; raise ValueError or TypeError where a value is not what it must be."""
    measured = Measured(**{**entry, "settings": [Setting(**setting) for setting in entry["settings"]]})
    for name in ("model", "task", "modality", "metric"):
        _require(isinstance(getattr(measured, name), str), name)
    for name in ("model_params", "n_train", "steps"):
        _require(_is_number(getattr(measured, name)) and getattr(measured, name) > 0, name)
    for name in ("similarity", "untouched"):
        _require(getattr(measured, name) is None or _is_number(getattr(measured, name)), name)
    _require(measured.similar in (True, False, None), "similar")
    _require(bool(measured.settings), "settings")
    for setting in measured.settings:
        for name in ("seeds", "valid", "test"):
            values = getattr(setting, name)
            _require(isinstance(values, list) and all(map(_is_number, values)), name)
            _require(len(values) == len(setting.seeds) > 0, name)
        for name in ("trainable_params", "total_params", "train_seconds", "searched"):
            _require(_is_number(getattr(setting, name)), name)
        _require(setting.forgetting is None or _is_number(setting.forgetting), "forgetting")
        _require(isinstance(setting.strategy, str), "strategy")
        _require(
            isinstance(setting.trial_ids, list) and all(isinstance(i, str) for i in setting.trial_ids), "trial_ids"
        )
        _require(all(isinstance(getattr(setting, name), dict) for name in ("hparams", "train", "stores")), "settings")
    return measured


_Entry = TypeVar("_Entry", Published, Rate, Carry)


def _checked(entry: _Entry) -> _Entry:
    """Return an entry; raise ValueError where a value is not what it must be."""
    for name, value in asdict(entry).items():
        text = name in ("source", "strategy", "task", "backbone", "row") or (name == "modality" and value is not None)
        _require(isinstance(value, str) if text else value is None or _is_number(value), name)
    return entry


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"bad value of {name!r}")
