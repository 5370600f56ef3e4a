"""What a language model writes, and how good it is: greedy answers, perplexity, ROUGE-L and BLEU."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from sweeper.models.base import LoadedModel, UnavailableError
from sweeper.tasks.base import Split
from sweeper.work import IGNORED

MOST_ROWS = 64
"""Answers are written for as many test rows at most, the same for every trial of a split: each token costs a pass."""
ROWS_AT_ONCE = 32
SAMPLES = 5


def check_packages() -> None:
    """Raise UnavailableError where what scores texts is not installed."""
    missing = [name for name in ("rouge_score", "sacrebleu") if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"generation is scored with {' and '.join(missing)}, not installed here: pip install 'sweeper-advisor[hf]'"
        )


def perplexity(loss: float) -> float | None:
    """Return exp of a mean loss of tokens; ``None`` where that is no number."""
    return math.exp(loss) if loss < 700 else None


@torch.inference_mode()
def greedy(model: LoadedModel, prompts: Sequence[str], longest: int) -> list[list[str]]:
    """Return each member's answers to the prompts, always the likeliest next token.

    The network runs anew for each token, so that whatever a strategy put into it works, packs included.

    Args:
        model: One that writes, with any number of members.
        prompts: Texts.
        longest: Tokens at most.
    """
    assert model.writing is not None
    training = [module for module in model.network.modules() if module.training]
    model.network.eval()
    written: list[list[str]] = [[] for _ in range(model.members)]
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        for answers, more in zip(written, _some(model, prompts[start : start + ROWS_AT_ONCE], longest), strict=True):
            answers += more
    for module in training:
        module.training = True
    return written


def _some(model: LoadedModel, prompts: Sequence[str], longest: int) -> list[list[str]]:
    writing = model.writing
    assert writing is not None
    device = next(model.network.parameters()).device
    one, first = writing.begin(prompts, longest)
    x, first = one.to(device).repeat(model.members, 1, 1), first.to(device)
    over = torch.zeros(x.shape[:2], dtype=torch.bool, device=device)
    answers: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(model.members)]
    for t in range(longest):
        rows = (~over).any(0).nonzero().flatten()  # those that some member has not finished
        if not len(rows):
            break
        logits = model.logits(x[:, rows].flatten(0, 1))
        place = (first[rows] + t).clamp(max=logits.shape[2] - 1)  # a finished member's row may be shorter
        tokens = logits[:, torch.arange(len(rows), device=device), place].argmax(-1)
        for k, own in enumerate(tokens.tolist()):
            for row, token in zip(rows.tolist(), own, strict=True):
                if over[k, row]:
                    continue
                if token in writing.ends or token == writing.pad:
                    over[k, row] = True
                else:
                    answers[k][row].append(token)
                    x[k, row, first[row] + t + writing.shift] = token
    return [[writing.text(answer) for answer in own] for own in answers]


def chosen_rows(split: Split) -> Split:
    """Return the rows that answers are written for: up to `MOST_ROWS`, drawn with a fixed seed."""
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:MOST_ROWS]
    return split.rows(drawn.sort().values)


def text_scores(prefix: str, model: LoadedModel, split: Split) -> list[dict[str, Any]]:
    """Return each member's scores of the answers that it writes, names prefixed; without a prefix also samples."""
    rows = chosen_rows(split)
    longest = int((split.y != IGNORED).sum(1).max())
    prompts, answers = [prompt for prompt, _ in rows.texts], [answer for _, answer in rows.texts]
    scores = []
    for outputs in greedy(model, prompts, longest):
        own: dict[str, Any] = {
            f"{prefix}test_rouge_l": rouge_l(answers, outputs),
            f"{prefix}test_bleu": bleu(answers, outputs),
            f"{prefix}test_exact_match": sum(map(str.__eq__, answers, outputs)) / len(answers),
        }
        if not prefix:
            step = max(1, len(answers) // SAMPLES)
            own["samples"] = [
                {"prompt": prompts[i], "answer": answers[i], "output": outputs[i]}
                for i in range(step // 2, len(answers), step)
            ][:SAMPLES]
        scores.append(own)
    return scores


class _Words:
    """Words for rouge-score, whose own rule knows English letters alone; on English texts the two agree."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def rouge_l(answers: Sequence[str], outputs: Sequence[str]) -> float:
    """Return the mean ROUGE-L F-measure, by the package rouge-score without stemming; words of any script count."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())
    found = [scorer.score(answer, output)["rougeL"].fmeasure for answer, output in zip(answers, outputs, strict=True)]
    return float(sum(found) / len(found))


def bleu(answers: Sequence[str], outputs: Sequence[str]) -> float:
    """Return the corpus BLEU of the package sacrebleu, with its defaults, as a fraction."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(outputs), [list(answers)]).score) / 100
