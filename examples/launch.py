"""Launch a sweep from Python, look at what came of it, and go on from what the store holds."""

import tempfile
from pathlib import Path

import sweeper

# What a grid file holds, as a dict: a list is swept, a single value is held. A shipped grid's name does as well.
grid = {
    "name": "ranks",
    "question": "Does a higher rank help?",
    "models": ["mlp"],
    "tasks": ["digits_shifted"],
    "n_train": 50,
    "seeds": range(3),
    "strategies": [{"name": "lora", "rank": [1, 8]}, {"name": "full"}],
    "train": {"lr": [3e-3, 1e-2], "steps": 30},
}

with tempfile.TemporaryDirectory() as folder:
    store = Path(folder) / "results"
    plan = sweeper.launch(grid, store, dry_run=True)
    print(f"{len(plan.grid.trials)} trials, {len(plan.done)} of them done")

    outcome = sweeper.launch(grid, store, budget="5m")
    print(outcome)
    print(outcome.summary()[["strategy", "settings", "lr", "seeds", "test_score", "trainable_params"]].to_string())
    if outcome.best is not None:
        print(f"best on valid: {outcome.best.spec.strategy}, trial {outcome.best.trial_id}")

    # The same call again finds everything in the store, and so does a longer one find its part.
    print(f"ran now: {sum(sweeper.launch(grid, store, quiet=True).ran.values())}")
    print(f"{len(sweeper.load_results(store))} rows in the store")
