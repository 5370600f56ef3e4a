"""Tasks of clean images, and rows that are shifted from those trained on."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sweeper import fetch
from sweeper.models.base import UnavailableError
from sweeper.tasks import TASKS
from sweeper.tasks.digits import DEGREES, NOISE_STD
from sweeper.tasks.images import CleanImages, cifar10

FIRST_TRAIN = "these are textbook lives of quiet desperation ."
MIDDLE_TEST = "it's endlessly inventive , consistently intelligent and sickeningly savage ."


def two_kinds() -> tuple[np.ndarray, np.ndarray]:
    """Return bytes: bright images with a dark row at the top, and dark ones."""
    x = np.full((60, 3, 16, 16), 128, np.uint8)
    x[30:] = 0
    x[:30, :, 0] = 0
    return x + np.arange(60, dtype=np.uint8)[:, None, None, None], np.repeat([0, 1], 30)


def test_shifted_rows_are_turned_and_noisy_and_all_others_as_they_are() -> None:
    task = CleanImages("two", "", two_kinds, ("bright", "dark"), pool=20, valid=10, test=10, shifted_test=20)
    splits = task.load(0, 10).splits
    for name in ("train", "valid", "test"):
        assert all(len(image.unique()) <= 2 for image in splits[name].x), "clean"
    noisy = splits["shifted_test"].x
    middle = noisy[:, :, 6:10, 6:10]
    assert (middle.std((1, 2, 3)).mean() - NOISE_STD).abs() < 0.03
    bright = noisy[splits["shifted_test"].y == 0].mean((0, 1))
    assert bright[0, 0] < 0.2 < bright[8, 8], f"corners are empty after a turn by {DEGREES} degrees"
    numbers = {round(float(x.max() * 255)) for name in ("train", "valid", "test") for x in splits[name].x}
    assert len(numbers) == 30, "no image is in two splits"


def test_a_row_of_pixels_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels.reshape(3, 1024, 3)).save(tmp_path / "test_batch.png")
    (tmp_path / "test_lables.json").write_text(json.dumps([3, 8, 0]))
    monkeypatch.setattr("sweeper.tasks.images.fetched", lambda name: tmp_path / "test_batch.png")
    x, y = cifar10.__wrapped__()
    assert x.shape == (3, 3, 32, 32)
    assert y.tolist() == [3, 8, 0]
    assert (x[1, 2, 5, 7], x[2, 0, 31, 0]) == (pixels[1, 5, 7, 2], pixels[2, 31, 0, 0])


def test_what_comes_with_a_file_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    archive = tmp_path / "some.tgz"
    with tarfile.open(archive, "w:gz") as out:
        for name in ("a.txt", "b.txt"):
            out.add(tmp_path / name, f"package/{name}")
    hashes = {f"package/{name}": hashlib.sha256(name.encode()).hexdigest() for name in ("a.txt", "b.txt")}
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fetch, "_download", lambda source, folder: archive)
    first, second = hashes
    source = fetch.Source("", "p@1", first, hashes[first], "", beside={second: hashes[second]})
    monkeypatch.setitem(fetch.SOURCES, "some", source)
    file = fetch.fetch("some")
    assert (file.read_text(), file.with_name("b.txt").read_text()) == ("a.txt", "b.txt")
    file.with_name("b.txt").write_text("other")
    with pytest.raises(UnavailableError, match=r"b\.txt' is damaged: sweeper data fetch some"):
        fetch.fetched("some")
    assert fetch.fetch("some") == file
    assert file.with_name("b.txt").read_text() == "b.txt", "what is damaged is fetched again"


def test_long_reviews_are_no_part_of_the_short_ones_and_leave_them_as_they_were() -> None:
    task = TASKS["film_reviews"]
    try:
        splits = task.load(0, 500).splits
    except UnavailableError as error:
        pytest.skip(str(error))
    lengths = {name: torch.tensor([len(text.split()) for text in split.texts]) for name, split in splits.items()}
    assert lengths["test"].max() <= 20
    assert lengths["shifted_test"].float().median() == 64
    assert len(splits["shifted_test"]) == 500
    assert 0.4 < splits["shifted_test"].y.float().mean() < 0.6
    # The ids of stored trials stand for these rows.
    assert splits["train"].texts[0] == FIRST_TRAIN
    assert splits["test"].texts[500] == MIDDLE_TEST
