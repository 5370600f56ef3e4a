"""Add a strategy from outside the package: one class and one line. Here: train the first block and the head.

A package of your own would register the class under the entry-point group ``sweeper.strategies`` instead of
the one line; the rest is the same, packs of trials and the results store included.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sweeper.models import LoadedModel
from sweeper.spec import TrainArgs, TrialSpec
from sweeper.strategies import STRATEGIES, Stage, hparams_of
from sweeper.trial import run_trials


@dataclass(frozen=True)
class FirstBlock:
    """Train the first block at a rate of its own, and the head: where a shift is in the raw input, it starts there.

    (Surgical fine-tuning, arXiv 2210.11466, section 3.)
    """

    name: ClassVar[str] = "first_block"
    per_member: ClassVar[frozenset[str]] = frozenset({"block_rate"})  # may differ between trials of one pack
    space: ClassVar[Mapping[str, Sequence[Any]]] = {"block_rate": (0.3, 1.0), "lr": (1e-3, 3e-3, 1e-2)}

    block_rate: float = 1.0

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the head and the first block."""
        if model.head_is_fresh:
            model.wake_fresh_head()
        model.wake(model.head)
        model.wake(model.blocks[0])
        yield Stage(rates={model.blocks[0]: [member.block_rate for member in members]})


STRATEGIES[FirstBlock.name] = FirstBlock  # the one line

chosen = [STRATEGIES["feature_extraction"](), FirstBlock(), FirstBlock(block_rate=0.3), STRATEGIES["full"]()]
specs = [
    TrialSpec("small_cnn", "digits_shifted", 100, s.name, hparams_of(s), TrainArgs(lr=lr, steps=120), seed=0)
    for s in chosen
    for lr in (3e-3, 1e-2)
]
for row in run_trials(specs):
    scores = f"valid {row.metrics['valid_score']:.3f}  test {row.metrics['test_score']:.3f}"
    print(f"{row.spec.strategy:20} {row.spec.hparams!s:22} lr {row.spec.train.lr:<6} {scores}")
