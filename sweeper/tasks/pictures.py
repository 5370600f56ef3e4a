"""Folders of images, a folder for each class, as rows."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.tasks.files import PARTS, Table

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
LARGEST_SIDE = 96
MAX_PIXELS = 2**26  # of one file; more is a mistake, or meant to fill the memory
MAX_TOTAL = 2**30


@dataclass(frozen=True)
class Picture:
    """An encoded image: in a file, or in memory."""

    file: Path | None = None
    content: bytes = b""

    def open(self) -> Image:
        """Return the image, not yet decoded.

        Raises:
            ValueError: it is no image, or larger than any.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(self.file or io.BytesIO(self.content))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
            raise ValueError(f"no image that can be read ({type(error).__name__})") from None
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"an image of {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
        return image


def read_folder(folder: Path) -> Table:
    """Return the images of ``FOLDER/CLASS/*``, or of ``FOLDER/train/CLASS/*`` and ``FOLDER/test/CLASS/*``.

    Raises:
        ValueError: the folder is not laid out so.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = {path: PARTS[path.name.lower()] for path in inside if path.name.lower() in PARTS}
    given = bool(parts) and len(parts) == len(inside)
    pictures: list[Picture] = []
    labels: list[str] = []
    split: list[str] = []
    roots = inside if given else [folder]
    for root in roots:
        for place in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            for file in sorted(place.rglob("*")):
                if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                    pictures.append(Picture(file))
                    labels.append(place.name)
                    split.append(parts.get(root, ""))
    if not pictures:
        raise ValueError(_no_images(folder))
    columns: dict[str, list[Any]] = {"image": pictures, "label": labels}
    notes = ["classes: the names of the folders"]
    if given:
        columns["split"] = split
    return Table(folder.name, columns, [str(p.file.relative_to(folder)) for p in pictures if p.file], notes)


def _no_images(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if any(file.suffix.lower() in SUFFIXES for file in files):
        return f"the images in {str(folder)!r} lie in no folder of a class: FOLDER/CLASS/image.png is what is read"
    tables = [file.name for file in files if file.suffix.lower() in (".csv", ".tsv", ".parquet", ".jsonl", ".json")]
    if tables:
        return f"{str(folder)!r} has no images in folders of classes, but {tables[0]}: name that file"
    return f"{str(folder)!r} has no images in folders of classes (FOLDER/CLASS/image.png)"


def decode(
    pictures: list[Picture], side: int | None, grey: bool | None = None
) -> tuple[np.ndarray, dict[int, str], int]:
    """Return square images, all of one size and as uint8, of those pictures that can be read.

    Other shapes than squares are stretched.

    Args:
        pictures: The encoded images.
        side: Of the squares in pixels; ``None`` for the median of the images' longer sides, at most 96.
        grey: Whether they become grey; ``None`` for where all of them are.

    Returns:
        Images ``(rows, side, side, channels)`` of the readable ones; the numbers of the others with the reason; and how
        many were no squares.
    """
    from PIL import Image, ImageOps

    opened: dict[int, tuple[int, int, str]] = {}
    bad: dict[int, str] = {}
    for number, picture in enumerate(pictures):
        try:
            with picture.open() as image:
                opened[number] = (image.width, image.height, image.mode)
        except ValueError as error:
            bad[number] = str(error)
    if not opened:
        return np.zeros((0, 1, 1, 1), np.uint8), bad, 0
    side = side or min(LARGEST_SIDE, int(np.median([max(width, height) for width, height, _ in opened.values()])))
    if grey is None:
        grey = all(mode in ("1", "L", "LA") or mode.startswith("I") for _, _, mode in opened.values())
    channels = 1 if grey else 3
    if len(opened) * side * side * channels > MAX_TOTAL:
        raise ValueError(
            f"{len(opened):,} images of {side} x {side} pixels are more than {MAX_TOTAL // 2**20:,} MB: "
            "take a smaller --image-size, or fewer images"
        )
    found = []
    for number in opened:
        try:
            with warnings.catch_warnings(), pictures[number].open() as image:
                warnings.simplefilter("ignore")
                image.load()
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I;16") or upright.mode == "I":  # 16 bits a pixel
                    upright = Image.fromarray((np.asarray(upright) // 256).clip(0, 255).astype(np.uint8))
                square = upright.convert("L" if grey else "RGB")
                if square.size != (side, side):
                    square = square.resize((side, side), Image.Resampling.BILINEAR)
                found.append(np.asarray(square, np.uint8).reshape(side, side, channels))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            bad[number] = f"an image that cannot be decoded ({' '.join(str(error).split())[:80]})"
    stretched = sum(width != height for width, height, _ in opened.values())
    return np.stack(found) if found else np.zeros((0, side, side, channels), np.uint8), bad, stretched
