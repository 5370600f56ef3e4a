"""The command ``advisor plan``: verdicts, ways out, formats, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from advisor.cli import cli
from advisor.costs import Interval
from advisor.plan import Setup, plan, verdict
from advisor.shapes import from_count


def call(*args: str) -> Any:
    done = CliRunner().invoke(cli, ["plan", *args], catch_exceptions=True)
    return done


def choices(*args: str) -> dict[tuple[str, str], dict[str, Any]]:
    done = call(*args, "--format", "json")
    assert done.exit_code == 0, done.output
    return {(own["strategy"], own["precision"]): own for own in json.loads(done.stdout)["choices"]}


def test_verdicts() -> None:
    assert verdict(Interval(5, 4, 6), 6) == "fits"
    assert verdict(Interval(5, 4, 6), 5.5) == "tight"
    assert verdict(Interval(5, 4, 6), 4.5) == "does not fit"


def test_a_large_model_on_a_small_card() -> None:
    found = choices("--model-params", "7B", "--gpu-memory", "24GB", "--batch-size", "1", "--checkpointing")
    assert found["full", "bf16"]["verdict"] == "does not fit"
    assert found["qlora", "4bit"]["verdict"] == "fits"
    assert found["qlora", "4bit"]["memory_bytes"]["mean"] < found["lora", "bf16"]["memory_bytes"]["mean"]
    assert found["lora", "fp32"]["ways_out"][0]["change"] == "qlora"
    assert found["lora", "bf16"]["seconds"] is None
    order = [own["verdict"] for own in found.values()]
    assert order == sorted(order, key=["fits", "tight", "does not fit"].index)


@pytest.mark.parametrize("memory", [8e9, 16e9, 24e9, 48e9])
def test_ways_out_fit(memory: float) -> None:
    found, _ = plan(Setup(from_count(3e9), memory, batch_size=8, seq_len=512, steps=1))
    assert any(own.ways_out for own in found)
    for own in found:
        assert own.verdict != "fits" or not own.ways_out
        assert all(after.high <= memory for _, after in own.ways_out)


def test_time_is_of_a_device_and_goes_with_the_rows() -> None:
    model = ("--model-params", "110M", "--device", "T4")
    short = choices(*model, "--n-train", "1000", "--epochs", "1")["lora", "bf16"]["seconds"]
    long = choices(*model, "--n-train", "2000", "--epochs", "2")["lora", "bf16"]["seconds"]
    assert long["mean"] == pytest.approx(4 * short["mean"])
    assert short["low"] < short["mean"] < short["high"]


def test_a_model_is_read_from_its_files(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 50257}))
    done = call("--model", str(tmp_path), "--device", "l4", "--format", "json")
    found = json.loads(done.stdout)
    assert found["model"]["params"] == 124_439_808  # GPT-2 small
    assert {own["strategy"] for own in found["choices"]} >= {"bitfit", "lora", "full"}


def test_an_image_has_its_own_tokens() -> None:
    found = json.loads(
        call("--model-params", "86M", "--modality", "image", "--device", "t4", "--format", "json").stdout
    )
    assert found["seq_len"] == 197


def test_the_table_says_what_it_rests_on() -> None:
    shown = call("--model-params", "1B", "--gpu-memory", "12GB", "--batch-size", "4").stdout
    assert "a typical model of that count" in shown
    assert "fits with" in shown
    assert "Left out: bitfit trains biases, and this model has none" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--gpu-memory", "8GB"), "either --model-params or --model"),
        (("--model-params", "1B"), "--gpu-memory SIZE, or --device with one of t4"),
        (("--model-params", "much", "--device", "t4"), "'much' is not a number of parameters"),
        (("--model-params", "1B", "--device", "abacus"), "no device named 'abacus'"),
        (("--model", "nowhere", "--device", "t4"), "nowhere cannot be read"),
    ],
)
def test_errors_name_the_way_out(args: tuple[str, ...], message: str) -> None:
    done = call(*args)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
