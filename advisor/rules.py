"""The decision table and further rules of thumb, each with its reason and its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from advisor.situation import QUESTIONS, Situation


@dataclass(frozen=True)
class Rule:
    """One line of the decision table.

    Attributes:
        when: Question -> the answers under which the rule holds; a question that is not named does
            not matter.
        prefer: Strategies, the first choice first.
        because: The reason.
        source: Where the reason comes from.
    """

    name: str
    when: Mapping[str, frozenset[object]]
    prefer: tuple[str, ...]
    because: str
    source: str

    def holds(self, situation: Situation) -> bool:
        """Return whether every condition is known to be met."""
        return all(situation.answer(question) in answers for question, answers in self.when.items())


def _when(**answers: object) -> dict[str, frozenset[object]]:
    return {question: a if isinstance(a, frozenset) else frozenset([a]) for question, a in answers.items()}


_MEDIUM_OR_MORE = frozenset(["medium", "high"])

# The first rule that holds decides; the last one takes what the others leave.
DECISION_TABLE = (
    Rule(
        "large_low_compute",
        _when(large=True, compute="low"),
        ("lora", "prompt_tuning"),
        "a large model does not fit a small budget with its gradients and optimizer states; LoRA trains a percent "
        "of it or less and loses little, and prompt tuning comes close to full fine-tuning as models grow",
        "LoRA, arXiv 2106.09685, section 4.2; prompt tuning, arXiv 2104.08691, figure 1",
    ),
    Rule(
        "large_small_data",
        _when(large=True, data="small", compute=_MEDIUM_OR_MORE),
        ("prompt_tuning", "prefix_tuning"),
        "with few rows a large model overfits the sooner the more of it trains; a prompt or a prefix has the fewest "
        "parameters, and prefix tuning beat full fine-tuning where data were few",
        "prefix tuning, arXiv 2101.00190, section 6.3; prompt tuning, arXiv 2104.08691, section 3",
    ),
    Rule(
        "large_enough_data",
        _when(large=True, data=frozenset(["medium", "large"]), compute=_MEDIUM_OR_MORE),
        ("lora",),
        "with enough rows LoRA has the capacity that prompts lack, and matches full fine-tuning at a fraction of "
        "the memory",
        "LoRA, arXiv 2106.09685, section 5",
    ),
    Rule(
        "small_similar",
        _when(large=False, similar=True, data=frozenset(["small", "medium"])),
        ("feature_extraction",),
        "what a model learned on a similar task is already in its features; a new head on the frozen backbone is "
        "cheap, cannot forget, and does not distort them",
        "arXiv 1411.1792, section 4; arXiv 2202.10054, section 3",
    ),
    Rule(
        "small_large_data",
        _when(large=False, data="large", compute="high"),
        ("full",),
        "with plenty of rows and compute, nothing is gained by holding parameters back: full fine-tuning has the "
        "highest ceiling",
        "arXiv 1805.08974, section 4; BERT, arXiv 1810.04805, section 4",
    ),
    Rule(
        "small_different",
        _when(large=False, similar=False),
        ("partial_unfreeze",),
        "a different task needs new features, but few rows or little compute do not pay for all of them: later "
        "layers are the task-specific ones, so train those and the head, at a lower rate than the head",
        "arXiv 1411.1792, section 4; ULMFiT, arXiv 1801.06146, section 3.2",
    ),
    Rule(
        "small_short_of_compute",
        _when(large=False),
        ("partial_unfreeze",),
        "with many rows a new head alone leaves accuracy behind, and the compute does not pay for training "
        "everything: later layers give most for their cost",
        "arXiv 1411.1792, section 4; arXiv 1805.08974, section 4",
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What the rules say under conditions that they need but were not told.

    Attributes:
        prefer: Strategies, the first choice first.
        rules: The rules that say so; more than one where they agree whatever the open answers are.
        given: Question -> the answers under which this verdict holds, for unanswered questions that matter.
    """

    prefer: tuple[str, ...]
    rules: tuple[Rule, ...]
    given: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


def decide(situation: Situation) -> list[Verdict]:
    """Return what the decision table says: one verdict, or one for each case that the situation leaves open.

    Cases are told apart by the open question that needs the fewest of them.
    """
    rules = {rule.name: rule for rule in _reachable(situation)}
    choices = {rule.prefer for rule in rules.values()}
    if len(choices) == 1:
        return [Verdict(choices.pop(), tuple(rules.values()))]
    splits = [_split(situation, question) for question in QUESTIONS if situation.answer(question) is None]
    return min((split for split in splits if split), key=len)


def _split(situation: Situation, question: str) -> list[Verdict]:
    """Return the verdicts for each answer to a question, equal outcomes together; none if it does not matter."""
    outcomes: list[tuple[list[Verdict], list[object]]] = []
    for answer in QUESTIONS[question]:
        verdicts = decide(situation.with_answer(question, answer))
        same = next((answers for other, answers in outcomes if _says(other) == _says(verdicts)), None)
        if same is None:
            outcomes.append((verdicts, [answer]))
        else:
            same.append(answer)
    if len(outcomes) == 1:
        return []
    return [
        Verdict(verdict.prefer, verdict.rules, {question: tuple(answers), **verdict.given})
        for verdicts, answers in outcomes
        for verdict in verdicts
    ]


def _says(verdicts: list[Verdict]) -> list[tuple[object, ...]]:
    return [(verdict.prefer, verdict.given) for verdict in verdicts]


def _reachable(situation: Situation) -> Iterator[Rule]:
    """Yield the rule that decides, for every way to answer the open questions."""
    for question, answers in QUESTIONS.items():
        if situation.answer(question) is None:
            for answer in answers:
                yield from _reachable(situation.with_answer(question, answer))
            return
    yield next(rule for rule in DECISION_TABLE if rule.holds(situation))


@dataclass(frozen=True)
class Remark:
    """A rule of thumb beside the decision table; where no flag asks for its condition, its text says it."""

    when: Mapping[str, frozenset[object]]
    text: str
    source: str

    def holds(self, situation: Situation) -> bool:
        """Return whether every condition is known to be met."""
        return all(situation.answer(question) in answers for question, answers in self.when.items())


REMARKS = (
    Remark(
        _when(compute="low"),
        "little compute: adapters, prefix tuning and LoRA train a few percent of the parameters; over a 4-bit base "
        "(QLoRA) the base shrinks fourfold as well",
        "arXiv 1902.00751, section 3; QLoRA, arXiv 2305.14314, section 3",
    ),
    Remark(
        _when(data="small"),
        "tiny data: start with feature extraction, then try parameter-efficient tuning from that head",
        "arXiv 2202.10054, section 3.4",
    ),
    Remark(
        _when(large=False, data=frozenset(["medium", "large"])),
        "models up to about 400 M parameters with enough rows: full fine-tuning is affordable and hard to beat",
        "BERT-large has 340 M and is fine-tuned in full, arXiv 1810.04805, section 4",
    ),
    Remark(
        {},
        "many domains: one base and an adapter for each",
        "arXiv 1902.00751, section 1; LoRA, arXiv 2106.09685, section 1",
    ),
    Remark(
        {},
        "latency counts: take a smaller base, quantise or distil; merged LoRA adds no latency, adapters do",
        "LoRA, arXiv 2106.09685, section 3; DistilBERT, arXiv 1910.01108, section 4",
    ),
)


@dataclass(frozen=True)
class Defaults:
    """Hyperparameters to start from where no trial speaks for others."""

    settings: Mapping[str, object]
    source: str


DEFAULTS: Mapping[str, Defaults] = {
    "lora": Defaults(
        {"rank": 16, "alpha": 16, "targets": "all", "lr": 2e-4},
        "QLoRA, arXiv 2305.14314, table 9 and appendix A: on all linear layers the rank hardly matters",
    ),
    "prompt_tuning": Defaults(
        {"virtual_tokens": 20, "lr": 0.3},
        "arXiv 2104.08691, sections 3.2 and 3.3 (Adafactor)",
    ),
    "prefix_tuning": Defaults({"virtual_tokens": 10, "lr": 5e-5}, "arXiv 2101.00190, section 5.3"),
    "feature_extraction": Defaults({"lr": 1e-3}, "a start for a sweep over 1e-3 to 1e-1 (grid strategies)"),
    "partial_unfreeze": Defaults(
        {"blocks": 1, "backbone_rate": 0.2, "lr": 1e-3},
        "lower rates for pretrained layers: ULMFiT, arXiv 1801.06146, section 3.2; the values are a start for a sweep",
    ),
    "full": Defaults({"lr": 2e-5, "batch_size": 32, "epochs": 3}, "BERT, arXiv 1810.04805, appendix A.3"),
}
