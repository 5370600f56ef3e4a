"""Frozen prefixes: what is computed once gives what the whole network gives, and is left alone where it would not."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper import prefix, train
from sweeper.answers import predict
from sweeper.models import LoadedModel, find_model
from sweeper.prefix import Prefix, find_prefix
from sweeper.tasks import Split
from sweeper.train import train_pack
from tests import small
from tests.families import FAMILIES

# What trains -> how many blocks lie before it, and whether only the head is left.
CUTS = {
    "feature_extraction": (None, True),
    "partial_unfreeze": (-1, False),
    "gradual_unfreeze": (-2, False),
}
NONE = ("full", "lora", "bitfit", "adapter")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    return tmp_path / "prefixes"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Prefix | None]:
    """What was found at each stage of what trains."""
    stages: list[Prefix | None] = []

    def note(*args: Any) -> Prefix | None:
        stages.append(find_prefix(*args))
        return stages[-1]

    monkeypatch.setattr(train, "find_prefix", note)
    return stages


def build(name: str) -> LoadedModel:
    shape = (3, 8, 8) if name.startswith("torchvision") else (1, 8, 8)
    loaded = (FAMILIES.get(name) or find_model(name))(shape, 10, 0)
    loaded.head_is_fresh, loaded.seeds = True, (3, 4)
    return loaded


def rows(name: str, split: str, n: int = 40) -> Split:
    found = small.data().splits[split].rows(torch.arange(n))
    return replace(found, x=found.x.expand(-1, 3, -1, -1)) if name.startswith("torchvision") else found


def trained(name: str, strategy: str) -> tuple[LoadedModel, Any, list[Any]]:
    loaded, splits = build(name), [rows(name, "train")] * 2
    measured = train_pack(
        loaded,
        small.strategies(strategy, [0, 1]),
        [small.train_args(k, steps=12) for k in (0, 1)],
        splits,
        [rows(name, "valid")] * 2,
        "accuracy",
    )
    test = [rows(name, "test")] * 2
    return loaded, measured, predict(loaded, test)


MODELS = ("mlp", "small_cnn", "tiny_transformer", "torchvision:resnet18@32:random", "bert", "gpt2", "llama", "vit")


@pytest.mark.parametrize("strategy", CUTS)
@pytest.mark.parametrize("name", MODELS)
def test_with_a_prefix_everything_is_as_without(
    name: str, strategy: str, found: list[Prefix | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in FAMILIES:
        pytest.importorskip("transformers")
    loaded, measured, predicted = trained(name, strategy)
    blocks, head = CUTS[strategy]
    *_, last = (stage for stage in found if stage or len(found) == 1)  # the last stage may wake every block
    assert last is not None
    if last is found[-1]:
        # A fresh layer before the head, or an answer picked out behind it, leaves the blocks alone to be skipped.
        assert last.head is (head and name not in ("bert", "gpt2", "llama"))
        assert last.before == loaded.blocks[:blocks]
    else:
        assert not loaded.blocks[:blocks]
    replayed = []
    monkeypatch.setattr(Prefix, "replay", lambda *args: replayed.append(args))  # never
    _, plainly, wanted = trained(name, strategy)
    assert replayed
    for ours, theirs in zip(measured, plainly, strict=True):
        assert ours.train_flops == theirs.train_flops
        for point, other in zip(ours.curve, theirs.curve, strict=True):
            assert point["valid_score"] == other["valid_score"]
            assert point["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    for one, other in zip(predicted, wanted, strict=True):
        assert one.predicted == other.predicted
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


@pytest.mark.parametrize("strategy", NONE)
def test_what_trains_from_the_start_has_no_prefix(strategy: str, found: list[Prefix | None], own_cache: Path) -> None:
    trained("small_cnn", strategy)
    assert found == [None]
    assert not own_cache.exists()


def head_awake(loaded: LoadedModel) -> LoadedModel:
    loaded.wake_fresh_head()
    return loaded


def test_what_changes_from_pass_to_pass_is_no_prefix() -> None:
    loaded, splits = head_awake(build("torchvision:resnet18@32:random")), [rows("torchvision", "train")] * 2
    assert find_prefix(loaded, splits) is not None
    loaded.get(loaded.blocks[0]).train()  # normalised by the batch, or dropped out
    assert find_prefix(loaded, splits) is None


def test_a_replay_that_gives_something_else_is_not_used() -> None:
    class Around(nn.Module):
        """A network with a way around its second block, outside of the blocks."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x.flatten(1))
            return self.head((self.second(hidden) + hidden).flatten(1)).exp()

    loaded = LoadedModel(Around(), "head", ("first", "second"), (64, 64), {"first": "linear", "second": "linear"})
    assert find_prefix(head_awake(loaded), [rows("mlp", "train")]) is None


def test_the_comparison_is_in_full_precision_and_what_was_set_stays_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Found on a GPU: rounded to TF32, no cut of a convolutional network replayed within the tolerance.
    loaded = small.model("small_cnn", [0])
    (chosen,) = small.strategies("feature_extraction", [0])
    next(chosen.adapt(loaded, [chosen]))
    seen: list[tuple[str, bool]] = []
    compute = Prefix.compute

    def spy(self: Prefix, x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return compute(self, x)

    monkeypatch.setattr(Prefix, "compute", spy)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        assert find_prefix(loaded, [small.data().splits["train"]]) is not None
        assert seen == [("highest", False)]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_running_statistics_do_not_hear_of_the_comparison() -> None:
    loaded = build("torchvision:resnet18@32:random")
    loaded.wake(loaded.blocks[-1])
    awake = [module.training for module in loaded.network.modules()]
    assert any(awake)
    before = {name: value.clone() for name, value in loaded.network.state_dict().items()}
    assert find_prefix(loaded, [rows("torchvision", "train")] * 2) is not None
    assert all(torch.equal(value, before[name]) for name, value in loaded.network.state_dict().items())
    assert [module.training for module in loaded.network.modules()] == awake


def test_files_are_shared_by_content_and_made_again_where_broken(own_cache: Path) -> None:
    def activations(change: float = 0.0, more: float = 0.0) -> torch.Tensor:
        loaded = head_awake(build("small_cnn"))
        with torch.no_grad():
            loaded.get(loaded.blocks[0]).get_parameter("0.weight").add_(change)
        split = rows("small_cnn", "train")
        split = replace(split, x=split.x + more)
        cut = find_prefix(loaded, [split] * 2)
        assert cut is not None
        kept = cut.of(split)
        assert kept is not None
        return kept.clone()

    first = activations()
    (file,) = own_cache.glob("*.safetensors")
    made = file.stat().st_ino
    assert torch.equal(activations(), first)
    assert file.stat().st_ino == made
    assert not torch.equal(activations(change=0.1), first)
    assert not torch.equal(activations(more=0.1), first)
    assert len([*own_cache.glob("*.safetensors")]) == 3
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(activations(), first)
    assert file.stat().st_ino != made


def test_processes_that_want_the_same_rows_share_the_work(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "WORTH_SHARING", 0.0)
    monkeypatch.setattr(prefix, "BATCH", 8)
    split, computed = rows("small_cnn", "train"), []
    compute = Prefix.compute

    def slow(self: Prefix, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            computed.append(x[0])
            time.sleep(0.02)
        return compute(self, x)

    cuts = [find_prefix(build("small_cnn"), [split]) for _ in range(2)]
    monkeypatch.setattr(Prefix, "compute", slow)
    with ThreadPoolExecutor(2) as pool:
        both = [*pool.map(lambda cut: cut.of(split), cuts)]
    assert torch.equal(both[0], both[1])
    torch.testing.assert_close(both[0], compute(cuts[0], split.x))
    assert len(computed) == 5, "each of 5 parts once"
    assert sum(file.suffix == ".safetensors" for file in own_cache.iterdir()) == 1


def test_the_folder_is_bounded(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = find_prefix(head_awake(build("small_cnn")), [rows("small_cnn", "train")] * 2)
    assert cut is not None
    monkeypatch.setattr(prefix, "MOST_FOLDER", 30_000)  # 40 rows of 64 numbers have 10,240 bytes
    splits = [rows("small_cnn", name) for name in ("train", "valid", "test", "source_test")]
    for age, split in enumerate(splits):
        cut.of(split)
        newest = max(own_cache.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    assert len([*own_cache.glob("*.safetensors")]) == 2
    monkeypatch.setattr(prefix, "MOST_SPLIT", 10_000)
    assert cut.of(rows("small_cnn", "train")) is None
