"""Figures of others come in as they were, or are refused by name and line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sweeper import cited
from sweeper.results import read_store
from tests.conftest import Command

TABLE = (
    "source,task,backbone,strategy,hparams,score,better,forgetting,extra\n"
    'lab,imdb,bert,lora,"{""r"": 8}",0.9,higher,nan,x\n'
    "lab,imdb,bert,full,,0.92,,0.1,x\n"
    "lab,imdb,bert,crashed,,,,,x\n"
)
PEFT = {
    "run_info": {
        "experiment_name": "ia3/default",
        "train_config": {"model_id": "some/llama", "seed": 3, "batch_size": 4, "optimizer_kwargs": {"lr": 1e-4}},
        "peft_config": {"peft_type": "IA3", "target_modules": ["v_proj"], "init_ia3_weights": True},
    },
    "train_info": {
        "status": "success",
        "num_trainable_params": 286720,
        "train_time": 1782.9,
        "metrics": [{"valid accuracy": 0.3}, {"step": 5000, "test accuracy": 0.345, "train samples": 20000}],
    },
    "meta_info": {"dataset_info": {"metamath": {}, "gsm8k": {}}},
}


def test_a_long_table_is_taken_and_beside_trials_nobody_sees_it(command: Command, tmp_path: Path) -> None:
    (tmp_path / "lab.csv").write_text(TABLE)
    done = command("sweeper", "import", "lab.csv")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "2 rows, 2 strategies, 1 tasks -> results/cited/lab.csv\n"
    with (tmp_path / "results" / "cited" / "lab.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["strategy"] for row in rows] == ["lora", "full"]
    assert json.loads(rows[0]["hparams"]) == {"r": 8}
    assert (rows[0]["forgetting"], rows[1]["better"]) == ("", "higher")
    assert read_store(tmp_path / "results").results == []


def test_results_of_peft_and_of_ray_tune_are_taken(tmp_path: Path) -> None:
    (tmp_path / "peft" / "results").mkdir(parents=True)
    (tmp_path / "peft" / "results" / "ia3.json").write_text(json.dumps(PEFT))
    crashed = {**PEFT, "train_info": {"status": "failed"}}
    (tmp_path / "peft" / "results" / "crashed.json").write_text(json.dumps(crashed))
    (row,) = cited.read(tmp_path / "peft", "peft")
    assert (row["task"], row["strategy"], row["score"], row["seed"]) == ("gsm8k+metamath", "ia3", 0.345, 3)
    assert (row["n_train"], row["trainable_params"], row["backbone"]) == (20000, 286720, "some/llama")
    assert json.loads(row["hparams"])["lr"] == 1e-4

    trial = tmp_path / "tune" / "train_0"
    trial.mkdir(parents=True)
    lines = [{"accuracy": 0.5, "config": {"lr": 0.1}}, {"accuracy": 0.7, "config": {"lr": 0.1}, "time_total_s": 3.0}]
    (trial / "result.json").write_text("\n".join(map(json.dumps, lines)))
    columns = {"task": "=digits", "strategy": "=full", "score": "accuracy"}
    (row,) = cited.read(tmp_path / "tune", None, columns)
    assert (row["source"], row["score"], row["hparams"], row["train_seconds"]) == ("tune", 0.7, '{"lr": 0.1}', 3.0)


def test_columns_of_others_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("Name,params.lr,params.method,metrics.acc\na,0.1,LoRA,0.8\nb,0.2,LoRA,\n")
    columns = {"task": "=imdb", "strategy": "params.method", "score": "metrics.acc", "hparams.lr": "params.lr"}
    (row,) = cited.read(tmp_path / "runs.csv", None, columns)
    assert (row["source"], row["task"], row["strategy"], row["score"]) == ("runs", "imdb", "LoRA", "0.8")
    assert json.loads(row["hparams"]) == {"lr": 0.1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("task,score\na,1\n", "lacks the column strategy; it has task, score"),
        ("task,strategy,score\na,b,high\n", "lab.csv:2: score must be a number, got 'high'"),
        ("task,strategy,score\na,b,inf\n", "score must be a finite number"),
        ("task,strategy,score\n\x1b[2J,b,1\n", "task must be a name"),
        ("task,strategy,score,better\na,b,1,bigger\n", "better must be higher or lower"),
        ('task,strategy,score,hparams\na,b,1,"[1]"\n', "hparams must be a JSON object"),
        ("task,strategy,score\na,b,\n", "no row with a score"),
        ("", "lacks the column task, strategy, score"),
    ],
)
def test_what_is_no_figure_is_named_by_its_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "lab.csv").write_text(content)
    with pytest.raises(ValueError, match=says.replace("[", r"\[")) as refused:
        cited.read(tmp_path / "lab.csv")
    assert "\n" not in str(refused.value)
