"""Promises of every strategy on every model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields

import pytest
import torch

from sweeper.spec import Status, TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES, hparams_of
from sweeper.trial import run_pack
from tests import small

pairs = pytest.mark.parametrize(
    ("model", "strategy"), [(m, s) for m in small.LEFT_OUT for s in STRATEGIES if s not in small.LEFT_OUT[m]]
)
left_out = pytest.mark.parametrize(
    ("model", "strategy"), [(m, s) for m, names in small.LEFT_OUT.items() for s in sorted(names)]
)
every = pytest.mark.parametrize("strategy", STRATEGIES)


def inputs(rows: int = 5) -> torch.Tensor:
    return small.data().splits["test"].x[:rows]


def test_every_strategy_has_members_to_test() -> None:
    assert set(small.MEMBERS) >= set(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        for field in strategy.per_member:
            values = {getattr(member, field) for member in small.strategies(name, [0, 1, 2])}
            assert len(values) > 1, f"{name}.{field} does not differ between the members under test"


@pairs
@pytest.mark.parametrize("head_is_fresh", [False, True])
def test_a_stage_moves_its_own_parameters_and_no_others(model: str, strategy: str, head_is_fresh: bool) -> None:
    loaded = small.model(model, [0, 1], head_is_fresh)
    untouched = {name: p.clone() for name, p in loaded.network.named_parameters()}
    chosen = small.strategies(strategy, [0, 1])
    rows = small.data()
    x, y = rows.splits["train"].x[:16], rows.splits["train"].y[:16]
    stages = 0
    for _ in chosen[0].adapt(loaded, chosen):
        stages += 1
        trainable = loaded.trainable()
        assert trainable
        before = {name: p.clone() for name, p in loaded.network.named_parameters()}
        for _ in range(2):  # B and up start at zero: the first step does not reach the factor before them
            logits = loaded.logits(torch.cat([x, x])).flatten(0, 1)
            torch.nn.functional.cross_entropy(logits, torch.cat([y, y])).backward()
            with torch.no_grad():
                for p in trainable.values():
                    assert p.grad is not None
                    p.sub_(0.1 * p.grad)
                    p.grad = None
        for name, p in loaded.network.named_parameters():
            if name.endswith("key.bias") and name in trainable:
                continue  # softmax does not see it: its gradient is zero but for rounding
            assert torch.equal(p, before[name]) == (name not in trainable), name
    assert stages
    # The plain tensors that are still there are the frozen base, bit for bit.
    for name, p in loaded.network.named_parameters():
        if not p.requires_grad and name in untouched:
            assert torch.equal(p, untouched[name])


@left_out
def test_what_makes_no_sense_is_refused_with_a_reason(model: str, strategy: str) -> None:
    small.check_refused(small.model(model, [0]), strategy)


@pairs
def test_merged_it_is_one_plain_network_that_computes_the_same(model: str, strategy: str) -> None:
    trained, _ = small.train_some(model, strategy, [0, 1], [0, 1])
    packed = trained.logits(torch.cat([inputs()] * 2))
    for k in (0, 1):
        merged = trained.merged(k)
        assert (merged is None) == (strategy in small.STAYS_BESIDE)
        if merged is None:
            return
        torch.testing.assert_close(merged(inputs()), packed[k], rtol=1e-5, atol=1e-5)
        plain = small.model(model, [0]).network
        assert list(merged.state_dict()) == list(plain.state_dict()), "the network as it was before it was adapted"


@pairs
def test_a_pack_gives_what_its_members_give_alone_whoever_leaves(model: str, strategy: str) -> None:
    leave = {2: 0, 4: 2}

    def stop(step: int, members: Sequence[int], scores: Sequence[float]) -> dict[int, str]:
        return {leave[step]: "told to"} if step in leave else {}

    together, pack = small.train_some(model, strategy, [0, 1, 2], [5, 5, 7])
    packed = together.logits(torch.cat([inputs()] * 3))
    last, left = small.train_some(model, strategy, [0, 1, 2], [5, 5, 7], stop)
    assert [member.place for member in left] == [None, 0, None]
    assert [member.stopped for member in left] == ["told to", None, "told to"]
    for k, (seed, points) in enumerate([(5, 2), (5, 6), (7, 4)]):
        alone, (single,) = small.train_some(model, strategy, [k], [seed])
        torch.testing.assert_close(packed[k], alone.logits(inputs())[0], rtol=1e-3, atol=1e-4)
        if k == 1:
            torch.testing.assert_close(last.logits(inputs())[0], packed[1], rtol=1e-3, atol=1e-4)
        for member, length in ((pack[k], 6), (left[k], points)):
            for name in ("trainable_params", "saved_bytes", "total_params") if length == 6 else ():
                assert getattr(member, name) == getattr(single, name), name
            for ours, theirs in zip(member.curve, single.curve[:length], strict=True):
                assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
                assert ours["valid_score"] == pytest.approx(theirs["valid_score"], abs=0.011)  # two of 197 rows


def test_who_stays_keeps_its_own_stream_of_dropout() -> None:
    _, left = small.train_some(
        "mlp", "lora", [0, 1], [5, 7], lambda step, *_: {0: "told to"} if step == 3 else {}, dropout=0.4
    )
    _, (alone,) = small.train_some("mlp", "lora", [1], [7], dropout=0.4)
    assert [point["train_loss"] for point in left[1].curve] == pytest.approx(
        [p["train_loss"] for p in alone.curve], rel=1e-4
    )


@pairs
def test_the_seed_decides_the_run(model: str, strategy: str) -> None:
    once, again, other = (small.train_some(model, strategy, [0], [seed])[0].logits(inputs()) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)


@pairs
def test_what_is_added_starts_at_the_loaded_function_and_switches_off_bit_for_bit(model: str, strategy: str) -> None:
    before = small.model(model, [0, 1]).network(inputs())
    loaded = small.model(model, [0, 1])
    chosen = small.strategies(strategy, [0, 1])
    next(chosen[0].adapt(loaded, chosen))
    if not loaded.switches:
        assert not loaded.can_switch_off
        return
    both = loaded.logits(torch.cat([inputs(), inputs()]))
    if strategy in small.QUANTISE:
        assert not loaded.can_switch_off
        torch.testing.assert_close(both, torch.stack([before, before]), rtol=0.1, atol=0.1)
        return
    if strategy not in small.STARTS_ELSEWHERE:
        torch.testing.assert_close(both, torch.stack([before, before]), rtol=1e-5, atol=1e-6)

    trained, _ = small.train_some(model, strategy, [0, 1], [0, 1])
    assert trained.can_switch_off
    assert not torch.allclose(trained.logits(torch.cat([inputs()] * 2))[0], before)
    trained.switch(False)
    assert torch.equal(trained.network(inputs()), before)


@pairs
def test_a_trial_learns_from_a_real_source_model(model: str, strategy: str) -> None:
    args = TrainArgs(lr=small.LEARNS_AT.get(strategy, 1e-2), steps=80)
    spec = TrialSpec(model, small.TASK, 100, strategy, small.spec(strategy).hparams, args, 0)
    (row,) = run_pack([spec], {})
    assert row.status is Status.COMPLETE, row.error
    assert row.curve[-1]["train_loss"] < row.curve[0]["train_loss"]
    # A fresh head starts from chance (0.1), all others from the source model.
    start = 0.1 if strategy == "feature_extraction" else row.metrics["untouched_test_score"]
    assert row.metrics["test_score"] > start + 0.02
    assert row.metrics["untouched_source_test_score"] > 0.85
    assert row.metrics.get("off_test_score", row.metrics["untouched_test_score"]) == row.metrics["untouched_test_score"]


@every
def test_hyperparameters_survive_json(strategy: str) -> None:
    spec = small.spec(strategy)
    again = TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.trial_id == spec.trial_id
    assert STRATEGIES[strategy](**again.hparams) == STRATEGIES[strategy]()


def test_fields_that_came_later_leave_old_ids_alone() -> None:
    later = [(s, f) for s in STRATEGIES.values() for f in fields(s) if f.metadata.get("later")]  # type: ignore[arg-type]
    assert later
    for strategy, field in later:
        assert field.name not in hparams_of(strategy())
    assert hparams_of(STRATEGIES["lora"](b_rate=16.0)) == {"rank": 8, "alpha": 16.0, "targets": "all", "b_rate": 16.0}


@every
def test_its_space_is_of_its_own_fields_and_as_large_in_rates_as_any(strategy: str) -> None:
    space = dict(STRATEGIES[strategy].space)
    rates = space.pop("lr")
    assert len(rates) == 3
    assert 9 < rates[-1] / rates[0] < 11  # type: ignore[operator]
    for name, values in space.items():
        for value in values:
            assert getattr(STRATEGIES[strategy](**{name: value}), name) == value


@every
def test_docstrings_say_what_trains(strategy: str) -> None:
    assert STRATEGIES[strategy].__doc__
    assert "Train" in STRATEGIES[strategy].__doc__.splitlines()[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("strategy", "hparams"),
    [
        ("lora", {"rank": 1000}),  # wider than any layer
        ("lora", {"targets": "nonsense"}),
        ("adapter", {"bottleneck": 65}),
        ("partial_unfreeze", {"blocks": 4}),
        ("domain_adaptation", {"blocks": 4}),
    ],
)
@pytest.mark.parametrize("model", small.LEFT_OUT)
def test_what_does_not_fit_leaves_the_model_as_it_was(model: str, strategy: str, hparams: dict[str, object]) -> None:
    loaded = small.model(model, [0])
    before = {name: p.clone() for name, p in loaded.network.state_dict().items()}
    bad = STRATEGIES[strategy](**hparams)
    with pytest.raises(ValueError, match=r"rank 1000|nonsense|bottleneck 65|blocks is 4"):
        next(bad.adapt(loaded, [bad]))
    after = loaded.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not loaded.trainable()


@pytest.mark.parametrize(
    ("strategy", "hparams"),
    [
        ("lora", {"rank": 0}),
        ("lora", {"rank": 2.5}),
        ("lora", {"rank": True}),
        ("lora", {"alpha": 0}),
        ("lora", {"alpha": float("nan")}),
        ("lora", {"scaling": "rs"}),
        ("lora", {"b_rate": -1}),
        ("probe_then_full", {"probe_share": 1.0}),
        ("gradual_unfreeze", {"blocks": 0}),
        ("adapter", {"bottleneck": -1}),
        ("domain_adaptation", {"labelled_share": 1.5}),
        ("domain_adaptation", {"labelled_share": 0}),
        ("domain_adaptation", {"align": "covariance"}),
        ("domain_adaptation", {"align_weight": 0}),
        ("domain_adaptation", {"blocks": 0}),
        ("partial_unfreeze", {"blocks": 0}),
        ("partial_unfreeze", {"backbone_rate": 0}),
    ],
)
def test_impossible_hyperparameters_are_named(strategy: str, hparams: dict[str, object]) -> None:
    (name, value), *_ = hparams.items()
    with pytest.raises(ValueError, match=f"{strategy}.{name}.*{value!r}"):
        STRATEGIES[strategy](**hparams)
