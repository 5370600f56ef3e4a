"""Regression on real rows: how far a disease has come, and what an article costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from sweeper.fetch import fetched
from sweeper.models.base import derived_seed
from sweeper.spec import TrainArgs
from sweeper.tasks.base import Split, TaskData, strata, stratified
from sweeper.work import REGRESSION


@dataclass(frozen=True)
class Diabetes:
    """How far will diabetes have come in a year? Source: women; target: men (scikit-learn's bundled rows).

    442 patients, ten measurements each (Efron et al. 2004, "Least angle regression", section 1); the sex is left
    out, since it is what tells the domains apart.
    """

    name: str = "diabetes"
    summary: str = "nine measurements -> the disease a year later; from women to men (scikit-learn's diabetes)"
    metric: str = "r2"
    n_train: int = 60
    pool: int = 80

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return source splits of women and target splits of men; targets are standardised by the source."""
        if not 2 <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has 2 to {self.pool} training rows to give, not {n_train}: choose n_train among them"
            )
        from sklearn.datasets import load_diabetes

        x, y = load_diabetes(return_X_y=True, scaled=False)
        sex = x[:, 1]
        x = np.delete(x, 1, axis=1).astype(np.float32)
        rng = np.random.default_rng(derived_seed(seed, self.name))
        parts: dict[str, np.ndarray] = {}
        for value, names, sizes in (
            (1.0, ("source_train", "source_test"), [165, 70]),
            (2.0, ("train", "valid", "test"), [self.pool, 47, 80]),
        ):
            found = stratified(strata(y), sizes, rng, np.flatnonzero(sex == value))
            parts.update(zip(names, found, strict=True))
        parts["train"] = parts["train"][:n_train]
        known = parts["source_train"]
        x = (x - x[known].mean(0)) / x[known].std(0)
        mean, unit = y[known].mean(), float(y[known].std())
        splits = {
            name: Split(torch.from_numpy(x[rows]), torch.from_numpy(((y[rows] - mean) / unit).astype(np.float32)))
            for name, rows in parts.items()
        }
        pretrain = TrainArgs(lr=1e-3, batch_size=32, steps=150)
        context = {"modality": "tabular", "metric": self.metric}
        return TaskData(splits, 1, pretrain, context, work=REGRESSION, unit=unit, zero=float(mean))


@lru_cache(maxsize=1)
def products() -> tuple[tuple[str, ...], np.ndarray]:
    """Return titles of second-hand articles, each once, and the natural logarithms of their prices in dollars."""
    import pandas as pd

    rows = pd.read_parquet(fetched("products"), columns=["name", "price"])
    rows = rows[rows["price"] > 0]
    rows = rows.loc[~rows["name"].str.lower().str.split().str.join(" ").duplicated()]
    return tuple(rows["name"]), np.log(rows["price"].to_numpy())


@dataclass(frozen=True)
class ProductPrices:
    """What does a second-hand article cost, by its title? The target is the price's logarithm."""

    name: str = "product_prices"
    summary: str = "the title of a second-hand article -> the logarithm of its price"
    metric: str = "r2"
    n_train: int = 500
    pool: int = 4000

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test"; there is no source domain: the model's pretraining is."""
        if not 2 <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has 2 to {self.pool} training rows to give, not {n_train}: choose n_train among them"
            )
        texts, y = products()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        pool, valid, test = stratified(strata(y), [self.pool, 300, 1000], rng)
        train = pool[:n_train]
        mean, unit = y[train].mean(), float(y[train].std())
        splits = {
            name: Split(
                torch.empty(len(rows), 0),
                torch.from_numpy(((y[rows] - mean) / unit).astype(np.float32)),
                tuple(texts[row] for row in rows),
            )
            for name, rows in (("train", train), ("valid", valid), ("test", test))
        }
        context = {"modality": "text", "metric": self.metric}
        return TaskData(splits, 1, context=context, work=REGRESSION, unit=unit, zero=float(mean))
