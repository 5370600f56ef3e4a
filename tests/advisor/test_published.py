"""Figures of others: what is told of them stands in a row that is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from advisor.evidence import PACKAGED, load
from advisor.published import cited_tables, published
from advisor.recommend import recommend
from advisor.report import as_text
from advisor.situation import Situation
from advisor.table import size_in_name

SHIPPED = Path(__file__).parent.parent.parent / "results" / "shipped"


def test_every_figure_that_ships_stands_in_the_row_that_it_names() -> None:
    rows = [row for file in cited_tables(SHIPPED) for row in csv.DictReader(file.open(encoding="utf-8"))]
    by_row: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_row.setdefault(row["source"], []).append(row)
    fitted = load(PACKAGED)
    assert len(fitted.published) > 40
    for own in fitted.published:
        mine = [r for r in by_row[own.row] if (r["task"], r["backbone"]) == (own.task, own.backbone)]
        assert own.score in [float(r["score"]) for r in mine]
        assert own.best_in <= own.situations
        assert own.behind >= 0


def test_means_and_wins_are_those_of_the_table(tmp_path: Path) -> None:
    lines = ["source,task,backbone,strategy,score,hparams"]
    lines += [f"lab 1 row {n},t{n},m-7B,LoRA,{50 + n},{{}}" for n in range(4)]
    lines += [f"lab 1 row {n},t{n},m-7B,Full Fine-Tuning,{53 - n},{{}}" for n in range(4)]
    file = tmp_path / "cited" / "lab.csv"
    file.parent.mkdir()
    file.write_text("\n".join(lines))
    assert cited_tables(tmp_path) == [file]
    found, rates = published([file])
    assert rates == []
    lora, full = sorted(found, key=lambda own: own.strategy, reverse=True)
    assert (lora.strategy, lora.source, lora.situations, lora.best_in) == ("lora", "lab", 4, 2)
    assert full.strategy == "full"
    assert lora.behind == pytest.approx((3 + 1 + 0 + 0) / 4)
    assert full.behind == pytest.approx((0 + 0 + 1 + 3) / 4)
    assert (lora.smallest, lora.largest) == (7e9, 7e9)


@pytest.mark.parametrize(
    ("name", "size"),
    [("Llama-3.2-1B", 1e9), ("Qwen3-30B-A3B", 30e9), ("gpt-oss-120b", 120e9), ("opt-350m", 350e6), ("BLOOMz-7B", 7e9)],
)
def test_a_name_tells_its_size(name: str, size: float) -> None:
    assert size_in_name(name) == size


@pytest.mark.parametrize("name", ["GPT-2 M", "Kimi-K2.5", "minilm", "", "b2b"])
def test_most_names_tell_none(name: str) -> None:
    assert size_in_name(name) != size_in_name(name)


def test_large_models_have_figures_behind_them() -> None:
    answer = recommend(Situation(large=True, compute="low"), load(PACKAGED))
    lora, prompt = answer.candidates
    assert (lora.strategy, prompt.strategy) == ("lora", "prompt_tuning")
    assert not answer.abstains
    assert {own.source.split("/")[0] for own in lora.published} >= {"AGI-Edgerunners", "microsoft", "huggingface"}
    assert all(own.row in " ".join(as_text(answer).split()) for own in lora.published)
    assert 1e-4 <= lora.settings["lr"] <= 1e-3
    assert "learned from 35 language models" in lora.settings_from
    small, large = (recommend(Situation(model_params=n), load(PACKAGED)).candidates[0] for n in (1.1e9, 70e9))
    assert small.settings["lr"] > large.settings["lr"], "small models take a higher rate"
    assert json.dumps(dict(lora.settings))
