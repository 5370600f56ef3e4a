"""Promises of every task whose rows are here."""

from __future__ import annotations

import sys

import pytest
import torch

from sweeper.metrics import METRICS
from sweeper.models.base import UnavailableError
from sweeper.tasks import TASKS, Split, TaskData
from sweeper.tasks import rows as rows_of_any_kind
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED, TAGGING

DOWNLOADED = {"mnist_shifted"}
here = pytest.mark.parametrize("name", [name for name in TASKS if name not in DOWNLOADED])


def load(name: str, seed: int, n_train: int) -> TaskData:
    """Return a task's final rows; a test is skipped where they were not fetched."""
    try:
        return final(TASKS[name].load(seed, n_train))
    except UnavailableError as error:
        pytest.skip(str(error))


def final(data: TaskData) -> TaskData:
    """Return the rows after `focus`, the second class being the weak one."""
    return data.focus([0, 5] + [0] * (data.n_classes - 2)) if data.focus else data


def keys(split: Split) -> list[bytes]:
    return [repr(text).casefold().encode() for text in split.texts] or [x.numpy().tobytes() for x in split.x]


@here
def test_splits_share_no_example(name: str) -> None:
    data = load(name, 0, TASKS[name].n_train)
    seen: dict[bytes, str] = {}
    for split_name, split in data.splits.items():
        for key in keys(split):
            assert seen.setdefault(key, split_name) == split_name, f"{split_name} and {seen[key]} share a row"


@here
def test_splits_come_from_disjoint_rows_of_the_source(name: str) -> None:
    # Shifted images differ in bytes from their clean originals: look at which rows were drawn.
    task = TASKS[name]
    own = sys.modules[type(task).__module__]
    module = own if hasattr(own, "stratified") else rows_of_any_kind
    load(name, 0, task.n_train)  # what is drawn once for all seeds is not counted
    drawn = []
    original = module.stratified

    def spy(*args: object) -> object:
        drawn.extend(parts := original(*args))  # type: ignore[arg-type]
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "stratified", spy)
        load(name, 0, task.n_train)
    rows = [int(row) for part in drawn for row in part]
    assert rows
    assert len(rows) == len(set(rows))


@here
def test_the_seed_decides_the_rows(name: str) -> None:
    task = TASKS[name]
    once, again, other = (load(name, seed, task.n_train) for seed in (0, 0, 1))
    for split in once.splits:
        assert keys(once.splits[split]) == keys(again.splits[split])
        assert torch.equal(once.splits[split].y, again.splits[split].y)
        assert keys(once.splits[split]) != keys(other.splits[split])


@here
def test_rows_are_as_declared(name: str) -> None:
    task = TASKS[name]
    data = load(name, 0, task.n_train)
    assert {"train", "valid", "test"} <= set(data.splits)
    assert len(data.splits["train"]) == task.n_train
    assert METRICS[task.metric].compute
    assert data.context["metric"] == task.metric
    if data.work == GENERATION:
        assert data.context["metric"] == "inverse_perplexity"
        for split in data.splits.values():
            assert split.y.shape == (len(split), 0)
            assert all(prompt.strip() and answer.strip() for prompt, answer in split.texts)
        return
    for split in data.splits.values():
        assert split.x.dtype == torch.float32
        assert split.texts or data.context["modality"] != "image" or 0 <= split.x.min() <= split.x.max() <= 1
    if data.work == TAGGING:
        assert all(
            set(split.y.unique().tolist()) <= {IGNORED, *range(data.n_classes)} for split in data.splits.values()
        )
    if data.work == CLASSIFICATION:
        assert all(set(split.y.tolist()) <= set(range(data.n_classes)) for split in data.splits.values())
        shares = [torch.bincount(data.splits[part].y, minlength=data.n_classes) for part in ("valid", "test")]
        assert (shares[0] / shares[0].sum() - shares[1] / shares[1].sum()).abs().max() < 0.02, "they are stratified"


@here
def test_fewer_rows_are_a_part_of_more(name: str) -> None:
    task = TASKS[name]
    few, many = (keys(load(name, 0, n).splits["train"]) for n in (task.n_train // 2, task.n_train))
    assert set(few) <= set(many)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("n_train", [1, 10**9])
def test_too_many_rows_are_refused_with_the_number_there_is(name: str, n_train: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} has .* not {n_train}"):
        load(name, 0, n_train)
