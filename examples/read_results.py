"""Read a results store with pandas: for each strategy, the rate that is best on valid, and its test score."""

import sys

import sweeper

frame = sweeper.load_results(sys.argv[1] if len(sys.argv) > 1 else "results")
frame = frame[frame["status"] == "complete"]
situation = ["model", "task", "n_train"]
by_rate = frame.groupby([*situation, "strategy", "hparams", "lr"])[["valid_score", "test_score"]].mean()
best = by_rate.loc[by_rate.groupby([*situation, "strategy"])["valid_score"].idxmax()]
print(best.round(3).to_string())
