"""A small convolutional network for digit-sized images."""

from __future__ import annotations

from torch import Tensor, nn

from sweeper.models.base import LoadedModel, NotApplicableError, check_work, kind, seeded
from sweeper.work import CLASSIFICATION, REGRESSION


class SmallCNN(nn.Module):
    """A stem on the raw pixels, two convolution blocks, one linear block, a linear head."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
                nn.Sequential(nn.Flatten(), nn.Linear(64 * 2 * 2, 64), nn.ReLU()),
            ]
        )
        self.head = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)``, 4 pixels a side or more, to ``(batch, classes)``."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
    """Return a small convolutional network for digit-sized images, random weights.

    The stem counts as embedding: it turns pixels into features, as a patch or word embedding does.
    """
    check_work("small_cnn", work, CLASSIFICATION, REGRESSION)
    if len(input_shape) != 3:
        raise NotApplicableError(f"small_cnn reads images, and these rows are {kind(input_shape)}")
    return LoadedModel(
        network=seeded(seed, lambda: SmallCNN(input_shape[0], n_classes)),
        head="head",
        blocks=("blocks.0", "blocks.1", "blocks.2"),
        widths=(32, 64, 64),
        roles={"blocks.0.0": "conv", "blocks.1.0": "conv", "blocks.2.1": "linear"},
        embedding="stem",
    )
