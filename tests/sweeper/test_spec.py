"""Identity and bounds of specs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.spec import Status, TrainArgs, TrialResult, TrialSpec
from tests import small

names = st.text(min_size=1, max_size=10).filter(str.isprintable)
json_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), names
)
specs = st.builds(
    TrialSpec,
    model=names,
    task=names,
    n_train=st.integers(1, 10**6),
    strategy=names,
    hparams=st.dictionaries(names, json_values, max_size=4),
    train=st.builds(TrainArgs, lr=st.floats(1e-6, 1.0), steps=st.integers(1, 1000)),
    seed=st.integers(0, 100),
)


@given(specs)
def test_a_spec_survives_json_with_its_id(spec: TrialSpec) -> None:
    again = TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.trial_id == spec.trial_id


@given(specs, specs)
def test_equal_specs_and_only_those_share_an_id(one: TrialSpec, other: TrialSpec) -> None:
    assert (one.trial_id == other.trial_id) == (one.to_dict() == other.to_dict())


def test_the_id_is_the_same_on_every_machine_and_forever() -> None:
    assert small.spec(rank=4).trial_id == "f894008ff0eeb078"


def test_the_order_of_hyperparameters_and_whole_floats_do_not_matter() -> None:
    spec = small.spec(rank=4)
    turned = replace(spec, hparams=dict(reversed(spec.hparams.items())))
    assert turned.trial_id == spec.trial_id
    assert TrainArgs(lr=1) == TrainArgs(lr=1.0)
    assert replace(spec, train=TrainArgs(lr=1)).trial_id == replace(spec, train=TrainArgs(lr=1.0)).trial_id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("lr", "fast"),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("steps", True),
        ("weight_decay", -1),
        ("warmup", 1.0),
    ],
)
def test_impossible_training_arguments_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        TrainArgs(**{field: value})


def test_a_row_with_a_foreign_id_is_refused() -> None:
    content = small.row().to_dict()
    content["spec"]["seed"] = 99
    with pytest.raises(ValueError, match="does not belong to this spec"):
        TrialResult.from_dict(content)


def test_only_crashes_and_time_outs_are_run_again() -> None:
    assert {status for status in Status if not status.is_final} == {Status.FAILED, Status.TIMED_OUT, Status.PREEMPTED}


@pytest.mark.parametrize("name", ["model", "task", "strategy"])
def test_a_name_cannot_move_the_cursor(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' must be without control characters"):
        replace(small.spec(), **{name: "mlp\x1b[2J"})
