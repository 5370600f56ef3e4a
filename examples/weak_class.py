"""Teach a digit classifier the digit that it does worst on, with LoRA on and off (SPEC of the task: `sweeper ls`).

Runs one trial in this process, without Ray, and prints the wrong test rows of each digit.
"""

from sweeper.spec import TrainArgs, TrialSpec
from sweeper.strategies import hparams_of
from sweeper.strategies.lora import Lora
from sweeper.trial import run_trials

spec = TrialSpec(
    model="small_cnn",
    task="digits_weak_class",
    n_train=100,
    strategy="lora",
    hparams=hparams_of(Lora(rank=4)),
    train=TrainArgs(lr=1e-3, steps=120),
    seed=0,
)
(row,) = run_trials([spec])
print(f"weak digit: {row.context['weak_class']}")
print(f"{'digit':24}" + "".join(f"{digit:4}" for digit in range(10)))
for when, column in (
    ("before", "untouched_wrong_by_class"),
    ("after, LoRA on", "wrong_by_class"),
    ("after, LoRA off", "off_wrong_by_class"),
):
    print(f"{when:24}" + "".join(f"{wrong:4}" for wrong in row.metrics[column]))
