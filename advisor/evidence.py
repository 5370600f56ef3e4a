"""The fitted file: what the trials of a results store say, situation by situation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advisor.situation import Situation

FORMAT = "advisor-fitted"
SCHEMA = 1
PACKAGED = Path(__file__).with_name("fitted.json")

# Evidence may overrule a rule only from near by: the same modality and similarity, a model within a factor
# of 10 in size, a training set within a factor of 4 (both in powers of ten).
NEAR_MODEL, NEAR_DATA = 1.0, 0.6021
# Scores closer than this cannot be told apart: equal runs differ by 0.9 points (std) in the public tables
# of peft, and a cheaper setting is then the better one.
TIE = 0.01

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


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

    @property
    def mean_valid(self) -> float:
        """Mean valid score over seeds."""
        return statistics.fmean(self.valid)

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
        quantile = _T[len(gaps) - 2] if len(gaps) - 2 < len(_T) else 1.96
        mean, half = statistics.fmean(gaps), quantile * statistics.stdev(gaps) / math.sqrt(len(gaps))
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
        return all(asked is None or asked == own for asked, own in pairs)

    def distance(self, situation: Situation) -> float:
        """Return how far off the numbers are, in powers of ten; unknown numbers count as no distance."""
        model = _gap(self.model_params, situation.model_params)
        return (model or 0.0) + (_gap(self.n_train, situation.n_train) or 0.0)

    def is_near(self, situation: Situation) -> bool:
        """Return whether the user's situation is known in enough detail, and close enough, to overrule a rule."""
        model, data = _gap(self.model_params, situation.model_params), _gap(self.n_train, situation.n_train)
        return (
            self.fits(situation)
            and situation.modality is not None
            and situation.similar is not None
            and model is not None
            and model <= NEAR_MODEL
            and data is not None
            and data <= NEAR_DATA
        )

    def best(self, strategy: str) -> Setting:
        """Return a strategy's setting with the fewest trainable parameters among those that tie with its best."""
        mine = [setting for setting in self.settings if setting.strategy == strategy]
        limit = max(setting.mean_valid for setting in mine) - TIE
        return min((s for s in mine if s.mean_valid >= limit), key=lambda s: (s.trainable_params, -s.mean_valid))

    def ranked(self) -> list[Setting]:
        """Return each strategy's best setting, best valid score first; ties go to fewer trainable parameters."""
        best = [self.best(strategy) for strategy in dict.fromkeys(s.strategy for s in self.settings)]
        top = max(setting.mean_valid for setting in best)
        return sorted(
            best,
            key=lambda s: (0, s.trainable_params) if s.mean_valid >= top - TIE else (1, -s.mean_valid),
        )


def _gap(a: float, b: float | None) -> float | None:
    return None if b is None else abs(math.log10(a / b))


@dataclass(frozen=True)
class Fitted:
    """Everything that `advisor fit` found in a store."""

    trials: int
    newest: str
    situations: Sequence[Measured]

    def to_json(self) -> str:
        """Return the file's text: readable, and equal for equal stores."""
        return json.dumps({"format": FORMAT, "schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def load(path: Path) -> Fitted:
    """Return a fitted file.

    Raises:
        ValueError: it does not exist, or is not a fitted file of this version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        if content["schema"] > SCHEMA:
            raise ValueError(f"its schema {content['schema']} is newer than this version's {SCHEMA}")
        situations = [
            Measured(**{**entry, "settings": [Setting(**setting) for setting in entry["settings"]]})
            for entry in content["situations"]
        ]
        return Fitted(content["trials"], content["newest"], situations)
    except FileNotFoundError:
        raise ValueError(f"no fitted file {str(path)!r}; `advisor fit` writes one") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{str(path)!r} is not a fitted file ({error}); `advisor fit` writes one") from None
