"""What training goes on from: the same comes out as without an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper import checkpoint
from sweeper.checkpoint import State
from sweeper.strategies import STRATEGIES
from sweeper.train import Trained
from sweeper.trial import run_planned
from tests.small import spec, train_some

IDS = ("a", "b", "c")


class Interrupted(BaseException):
    """The process is gone."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have a checkpoint written after each step, and everything end after so many."""
    whole = checkpoint.write

    def after(steps: int) -> None:
        def write(file: Path, trials: Sequence[str], state: State) -> None:
            whole(file, trials, state)
            if state.step == steps:
                raise Interrupted

        monkeypatch.setattr(checkpoint, "write", write)

    monkeypatch.setattr(checkpoint, "EVERY", -1.0)
    return after


def second_leaves(step: int, members: Sequence[int], scores: Sequence[float]) -> dict[int, str]:
    return {1: "it is told to"} if step == 2 else {}


def curves(trained: Sequence[Trained]) -> list[list[dict[str, float]]]:
    return [[{k: v for k, v in point.items() if k != "seconds"} for point in member.curve] for member in trained]


def facts(trained: Sequence[Trained]) -> list[Any]:
    return [(m.stopped, m.left, m.place, m.trainable_params, m.total_params, len(m.step_durations)) for m in trained]


@pytest.mark.parametrize(
    ("model", "strategy"),
    [("tiny_transformer", name) for name in STRATEGIES] + [("small_cnn", "lora"), ("small_cnn", "gradual_unfreeze")],
)
def test_training_that_was_interrupted_twice_comes_to_the_same_end(
    model: str, strategy: str, interrupt: Callable[[int], None], tmp_path: Path
) -> None:
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    seeds, members = [0, 0, 0], [0, 1, 2]
    interrupt(-1)
    network, whole = train_some(model, strategy, members, seeds, second_leaves)
    kept = (checkpoint.file_for(tmp_path, IDS), IDS)
    for step in (1, 4):  # before and after one of them has left
        interrupt(step)
        with pytest.raises(Interrupted):
            train_some(model, strategy, members, seeds, second_leaves, kept)
    interrupt(-1)
    again, resumed = train_some(model, strategy, members, seeds, second_leaves, kept)
    state = again.network.state_dict()
    for name, tensor in network.network.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)
    assert facts(resumed) == facts(whole)
    torch.testing.assert_close(curves(resumed), curves(whole), rtol=1e-4, atol=1e-5)
    for one, other in zip(whole, resumed, strict=True):
        assert other.train_flops == pytest.approx(one.train_flops, rel=0.2)  # not the first step of all again


def test_weights_are_written_as_they_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    last: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(checkpoint, "EVERY", -1.0)
    monkeypatch.setattr(checkpoint, "write", lambda file, trials, state: last.update(state.tensors))
    kept = (checkpoint.file_for(tmp_path, IDS), IDS)
    model, _ = train_some("tiny_transformer", "full", [0, 1, 2], [0, 0, 0], None, kept)
    for name, parameter in model.network.named_parameters():
        assert last[f"network/{name}"].data_ptr() == parameter.data_ptr(), f"{name} was copied"


def test_what_is_damaged_or_another_packs_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    file = checkpoint.file_for(tmp_path, IDS)
    assert checkpoint.read(file, IDS) is None
    state = State(1, 1, [0], [{}], [("train", 1.0, 1)], 1, {"losses": torch.ones(2, 3)})
    checkpoint.write(file, IDS, state)
    found = checkpoint.read(file, IDS)
    assert found is not None
    assert (found.step, found.here) == (1, [0])
    assert checkpoint.read(file, ("a", "b")) is None
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 4
        file.write_bytes(bytes(changed))
        assert checkpoint.read(file, IDS) is None, place
        file.write_bytes(content[:place])
        assert checkpoint.read(file, IDS) is None, place
    assert not list(tmp_path.glob("*.tmp"))


def test_those_that_trained_together_are_found_and_forgotten_together(tmp_path: Path) -> None:
    state = State(1, 1, [0], [{}], [], 1, {"losses": torch.ones(1)})
    for trials in (IDS, ("d",), ("c", "e")):
        checkpoint.write(checkpoint.file_for(tmp_path, trials), trials, state)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    found = checkpoint.groups(tmp_path, {*IDS, "d"})
    assert sorted(found) == [list(IDS), ["d"]]
    checkpoint.forget(tmp_path, {*IDS})
    assert sorted(checkpoint.groups(tmp_path, {*IDS, "d", "e"})) == [["c", "e"], ["d"]]


def test_a_trial_goes_on_where_it_was_and_its_row_says_what_it_would_have(
    interrupt: Callable[[int], None], tmp_path: Path
) -> None:
    trial = spec("full")
    interrupt(-1)
    ((whole,),) = run_planned([trial], {})
    interrupt(4)
    with pytest.raises(Interrupted):
        list(run_planned([trial], {}, checkpoints=tmp_path))
    interrupt(3)  # is not come by again
    ((row,),) = run_planned([trial], {}, checkpoints=tmp_path)
    assert row.metrics["test_score"] == whole.metrics["test_score"]
    assert row.metrics["confusion"] == whole.metrics["confusion"]
    assert [point["step"] for point in row.curve] == [point["step"] for point in whole.curve]
