"""What a grid file may hold, and what it says when it holds something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.grid import load_grid
from sweeper.strategies import STRATEGIES

GOOD = """
question = "Does it work?"
models = ["mlp"]
tasks = "digits_shifted"
seeds = [0, 1]
[[strategies]]
name = "lora"
rank = [1, 2]
[[strategies]]
name = "full"
lr = 1e-4
[train]
lr = [1e-3, 1e-2]
steps = 10
"""


def grid_file(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_a_list_is_swept_and_a_scalar_is_held(tmp_path: Path) -> None:
    grid = load_grid(grid_file(tmp_path, GOOD))
    assert grid.name == "mine"
    lora = [trial for trial in grid.trials if trial.strategy == "lora"]
    assert len(lora) == 2 * 2 * 2
    assert {trial.hparams["rank"] for trial in lora} == {1, 2}
    assert {trial.hparams["alpha"] for trial in lora} == {16.0}, "defaults are filled in"
    assert {trial.n_train for trial in lora} == {100}
    full = [trial for trial in grid.trials if trial.strategy == "full"]
    assert {trial.train.lr for trial in full} == {1e-4}, "a strategy's own rate replaces the common one"
    assert len(full) == 2
    assert {trial.train.steps for trial in grid.trials} == {10}


def test_what_is_listed_twice_runs_once(tmp_path: Path) -> None:
    grid = load_grid(grid_file(tmp_path, GOOD.replace("[1, 2]", "[1, 1]")))
    assert len([trial for trial in grid.trials if trial.strategy == "lora"]) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "seedz", "no key named 'seedz' in a grid. Did you mean 'seeds'"),
        ("rank = ", "rnak = ", "no hyperparameter named 'rnak' in the strategy lora. Did you mean 'rank'"),
        ("steps", "step", "no key named 'step' in .train.. Did you mean 'steps'"),
        ("steps = 10", "steps = 10\nsteps = 20", "overwrite"),
        ('"lora"', '"loar"', "no strategy named 'loar'. Did you mean 'lora'"),
        ('"mlp"', '"mpl"', "no model named 'mpl'"),
        ('"digits_shifted"', '"digits"', "no task named 'digits'"),
        ("rank = [1, 2]", "rank = 0", "lora.rank must be a whole number of at least 1, got 0"),
        ("rank = [1, 2]", "rank = []", "rank of the strategy lora is an empty list"),
        ("seeds = [0, 1]", "seeds = [0.5]", "seeds must hold whole numbers of at least 0, got 0.5"),
        ("seeds = [0, 1]", "n_train = 0", "n_train must hold whole numbers of at least 1, got 0"),
        ("lr = 1e-4", "lr = -1", "lr must be above 0, got -1"),
        ("[[strategies]]", "[strategies]", "overwrite"),
        ('models = ["mlp"]', "models = []", "models is an empty list"),
        ('question = "Does it work?"', "", "the grid has no question"),
        ("[train]", "[train", "(?i)expected|end of"),
        ("seeds = [0, 1]", "seeds = []", "seeds is an empty list"),
        ("seeds = [0, 1]", "n_train = []", "n_train is an empty list"),
        ("seeds = [0, 1]", f"seeds = [{10**30}]", "seeds must hold whole numbers"),
        ("steps = 10", f"steps = {10**20}", "steps must be a whole number from 1 to"),
        ("lr = 1e-4", f"lr = {10**400}", "too large|lr"),
        ("lr = 1e-4", f"lr = {'[' * 3000}{']' * 3000}", "(?i)recursion|lr"),
        ("lr = 1e-4", "lr = nan", "lr must be a finite number, got nan"),
        ("lr = 1e-4", "lr = 2026-01-01", "lr must be a finite number"),
        ("rank = [1, 2]", "targets = 5", "lora.targets must be roles joined by '.', got 5"),
        ("rank = [1, 2]", "targets = [['all']]", "lora.targets must be roles"),
        ('models = ["mlp"]', 'models = [["mlp"]]', "models must hold names, got .'mlp'."),
        ('models = ["mlp"]', "models = {a = 1}", "models must hold names"),
        ('name = "full"', 'name = ["full", "lora"]', "needs a name, got"),
        ('name = "full"', "", "needs a name, got None"),
        ('question = "Does it work?"', "question = 5", "question must be a text, got 5"),
        ("lr = 1e-4", "lr = { low = 1, hgih = 2 }", "no key named 'hgih' in the range lr. Did you mean 'high'"),
        ("lr = 1e-4", "lr = { low = 1e-2, high = 1e-3 }", "the range lr needs low < high"),
        ("lr = 1e-4", "lr = { low = 0, high = 1, log = true }", "the range lr needs low < high, both above 0"),
        (
            "rank = [1, 2]",
            "rank = { low = 1, high = 8, points = 1 }",
            "points of the range rank must be a whole number",
        ),
        ("[train]", "[trian]", "no key named 'trian' in a grid. Did you mean 'train'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(ValueError, match=message) as caught:
        load_grid(grid_file(tmp_path, text))
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_range_is_its_points(tmp_path: Path) -> None:
    text = GOOD.replace("rank = [1, 2]", "rank = { low = 1, high = 64, log = true, points = 7 }")
    text = text.replace("lr = 1e-4", "lr = { low = 1e-4, high = 1e-2, log = true, points = 5 }")
    trials = load_grid(grid_file(tmp_path, text)).trials
    assert [*dict.fromkeys(t.hparams["rank"] for t in trials if t.strategy == "lora")] == [1, 2, 4, 8, 16, 32, 64]
    assert [*dict.fromkeys(t.train.lr for t in trials if t.strategy == "full")] == [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]


def test_a_folder_or_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    for name in ("folder.toml", "binary.toml"):
        with pytest.raises(ValueError, match=name) as caught:
            load_grid(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora_rank", "no grid named 'lora_rank'.*Did you mean 'lora_ranks'"),
        ("nowhere.toml", "no grid file 'nowhere.toml'"),
        ("../../etc/passwd", "no grid named"),
    ],
)
def test_unknown_grids_are_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_grid(name)


def test_a_task_has_training_arguments_of_its_own_and_a_strategy_its_own_space(tmp_path: Path) -> None:
    text = GOOD.replace('tasks = "digits_shifted"', 'tasks = ["digits_shifted", "digits_weak_class"]')
    grid = load_grid(grid_file(tmp_path, text + "[train.digits_weak_class]\nsteps = 7\nlr = 'space'\n"))
    steps = {trial.task: trial.train.steps for trial in grid.trials}
    assert steps == {"digits_shifted": 10, "digits_weak_class": 7}
    weak = [trial for trial in grid.trials if trial.task == "digits_weak_class" and trial.strategy == "lora"]
    assert {trial.train.lr for trial in weak} == set(STRATEGIES["lora"].space["lr"])
    with pytest.raises(ValueError, match=r"no task named 'digits_weak'.*Did you mean 'digits_weak_class'"):
        load_grid(grid_file(tmp_path, text + "[train.digits_weak]\nsteps = 7\n"))
    with pytest.raises(ValueError, match="no hyperparameter named 'alpha' in the search space of lora"):
        load_grid(grid_file(tmp_path, GOOD.replace("rank = [1, 2]", 'alpha = "space"')))


def test_only_the_strategies_that_are_asked_for(tmp_path: Path) -> None:
    file = grid_file(tmp_path, GOOD)
    assert {trial.strategy for trial in load_grid(file, ["lora"]).trials} == {"lora"}
    with_new = load_grid(file, ["lora", "adapter"]).trials
    assert {trial.strategy for trial in with_new} == {"lora", "adapter"}
    assert {trial.hparams["bottleneck"] for trial in with_new if trial.strategy == "adapter"} == {16}
    with pytest.raises(ValueError, match="no strategy named 'lorra'"):
        load_grid(file, ["lorra"])
