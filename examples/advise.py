"""Ask for advice from Python: of what ships with the package, then of one's own trials, in scikit-learn's manners."""

import sys
from pathlib import Path

import advisor
import sweeper

answer = advisor.recommend(advisor.Situation(model_params=40e3, n_train=100, modality="image", similar=False))
first = answer.candidates[0]
print(f"{answer.spoke}: {first.strategy} with {dict(first.settings)}")
if first.estimate is not None:
    print(f"test {first.estimate.mean:.3f} ± {first.estimate.std:.3f} over {first.estimate.n_trials} trials")
for lead in answer.leads:
    print(lead)

# The same from trials of one's own: `sweeper launch` made these rows.
store = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "results" / "shipped"
learned = advisor.Advisor().fit(sweeper.load_results(store))
asked = [
    advisor.Situation(model_params=22e6, n_train=500, modality="text", similar=False),
    {"model_params": 7e9, "compute": "low"},
]
for situation, strategy in zip(asked, learned.predict(asked), strict=True):
    print(f"{strategy} for {situation}")
