"""Generation: language models of both kinds, what they write, and its scores, against transformers and the scorers."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from rich.console import Console

from sweeper import generation, samples
from sweeper.answers import predict
from sweeper.members import CannotPackError
from sweeper.metrics import METRICS
from sweeper.models import MODELS, LoadedModel, language
from sweeper.models.base import NotApplicableError, UnavailableError, seeded
from sweeper.source import source_weights
from sweeper.spec import Status, TrainArgs, TrialResult, TrialSpec
from sweeper.strategies import STRATEGIES
from sweeper.tasks import TASKS, Split, TaskData, find_task
from sweeper.tasks.dates import Dates
from sweeper.train import train_pack
from sweeper.trial import run_pack
from sweeper.work import GENERATION, IGNORED
from tests import small

transformers = pytest.importorskip("transformers")
pytest.importorskip("rouge_score")
pytest.importorskip("sacrebleu")
pytest.importorskip("babel")

# Model -> strategies that make no sense on it.
LEFT_OUT: dict[str, set[str]] = {"tiny_gpt": set(), "tiny_t5": {"bitfit"}}
# Where the members share an embedding of relative positions, what trains it trains singly.
NO_PACK = {("tiny_t5", strategy) for strategy in ("full", "probe_then_full", "gradual_unfreeze")}
SMALL = {"width": 16, "layers": 2}
# In every run; the others with the slow tests.
OFTEN = {"full", "feature_extraction", "lora", "adapter", "prompt_tuning", "p_tuning", "prefix_tuning"}
cells = pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, strategy, marks=[] if strategy in OFTEN else pytest.mark.slow)
        for name, left_out in LEFT_OUT.items()
        for strategy in STRATEGIES
        if strategy not in left_out
    ],
)
both = pytest.mark.parametrize("name", LEFT_OUT)


def model(name: str, seeds: Sequence[int] = (0,)) -> LoadedModel:
    loaded = getattr(language, name)((), 0, 0, GENERATION, **SMALL)
    loaded.seeds, loaded.work = tuple(seeds), GENERATION
    return loaded


def rows(loaded: LoadedModel, split: str = "train", n: int = 12) -> Split:
    return _data().encoded(loaded.encode).splits[split].rows(torch.arange(n))


def _data(name: str = "dates") -> TaskData:
    return find_task(name).load(0, 20)


def train_some(name: str, strategy: str, members: Sequence[int], seeds: Sequence[int], steps: int = 4) -> Any:
    loaded = model(name, seeds)
    split = rows(loaded)
    trained = train_pack(
        loaded,
        small.strategies(strategy, members),
        [small.train_args(k, steps) for k in members],
        [split] * len(members),
        [split] * len(members),
        "inverse_perplexity",
        {"source_train": rows(loaded, "source_train")},
    )
    return loaded, trained


@cells
def test_every_strategy_trains_packs_and_switches_off(name: str, strategy: str) -> None:
    plain = model(name)
    split = rows(plain)
    before = plain.network(split.x)
    if (name, strategy) in NO_PACK:
        with pytest.raises(CannotPackError):
            train_some(name, strategy, [0, 1], [5, 7])
    else:
        pack, _ = train_some(name, strategy, [0, 1], [5, 7])
        packed = pack.logits(torch.cat([split.x] * 2))
        for k, seed in enumerate([5, 7]):
            alone, _ = train_some(name, strategy, [k], [seed])
            torch.testing.assert_close(packed[k], alone.logits(split.x)[0], rtol=1e-3, atol=1e-3)
    loaded, (trained,) = train_some(name, strategy, [1], [5], steps=24)
    assert trained.curve[-1]["train_loss"] < trained.curve[0]["train_loss"]
    assert not torch.allclose(loaded.logits(split.x)[0], before, atol=1e-4)
    if loaded.can_switch_off:
        loaded.switch(False)
        assert torch.equal(loaded.network(split.x), before)
    else:
        assert not loaded.switches or strategy in small.QUANTISE


@pytest.mark.parametrize(("name", "strategy"), [(n, s) for n, left_out in LEFT_OUT.items() for s in sorted(left_out)])
def test_what_makes_no_sense_is_refused_with_a_reason(name: str, strategy: str) -> None:
    small.check_refused(model(name), strategy)


@both
def test_a_language_model_keeps_its_head_under_feature_extraction(name: str) -> None:
    loaded = model(name, [0, 1])
    before = loaded.get(loaded.head).weight.clone()
    chosen = small.strategies("feature_extraction", [0, 1])
    next(chosen[0].adapt(loaded, chosen))
    ((path, weight),) = loaded.trainable().items()
    assert path.startswith(loaded.head)
    assert torch.equal(weight, torch.stack([before, before]))


def _oracle(name: str, **more: Any) -> Any:
    """A tiny network of transformers with random weights, sure enough of itself to write different words."""
    sizes = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2}, "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64}}[name]
    if name == "t5":
        sizes |= {"num_layers": 2, "num_heads": 2, "decoder_start_token_id": language.PAD}
    kinds = {"gpt2": ("GPT2Config", "GPT2LMHeadModel"), "t5": ("T5Config", "T5ForConditionalGeneration")}
    config, network = (getattr(transformers, kind) for kind in kinds[name])
    spread = {"initializer_range": 0.3} if name == "gpt2" else {"initializer_factor": 2.0}
    return seeded(0, lambda: network(config(**sizes, **language.SIGNS, **spread, **more))).eval()


oracles = pytest.mark.parametrize("name", ["gpt2", "t5"])


@oracles
def test_perplexity_is_that_of_transformers_own_loss(name: str) -> None:
    hf = _oracle(name)
    split, losses, tokens = _data().splits["test"].rows(torch.arange(5)), 0.0, 0
    for prompt, answer in split.texts:
        before, after = language.BYTES.prompt(prompt), language.BYTES.answer(answer)
        if name == "gpt2":
            call = {"input_ids": [before + after], "labels": [[IGNORED] * len(before) + after]}
        else:
            call = {"input_ids": [before], "labels": [after]}
        with torch.no_grad():
            loss = hf(**{key: torch.tensor(value) for key, value in call.items()}).loss
        losses, tokens = losses + float(loss) * len(after), tokens + len(after)
    loaded = language.anatomy(hf, language.BYTES)
    loaded.work = GENERATION
    assert loaded.encode is not None
    (found,) = predict(loaded, [Split(*loaded.encode(split.texts, split.y), split.texts)])
    assert generation.perplexity(found.loss) == pytest.approx(math.exp(losses / tokens), rel=1e-4)
    assert len(found.true) == tokens


@oracles
def test_greedy_writes_what_transformers_generates(name: str) -> None:
    hf = _oracle(name)
    prompts = [prompt for prompt, _ in _data().splits["test"].texts[::50]]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([language.BYTES.prompt(prompt)])
        out = hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[0].tolist()
        out = out[ids.shape[1] :] if name == "gpt2" else out[1:]
        # To the random network padding is a token like others; to us an answer is over there, as at its end.
        over = [place for place, token in enumerate(out) if token in (language.END, language.BYTES.pad)]
        expected.append(language.BYTES.text(out[: over[0]] if over else out))
    assert len(set(expected)) > 1
    loaded = language.anatomy(hf, language.BYTES)
    loaded.seeds = (0, 1)
    assert generation.greedy(loaded, prompts, 12) == [expected, expected]


def test_scores_are_the_libraries() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    answers = ["a red apple on the green table", "man: dark skin tone", "flag"]
    outputs = ["the red apple is on a table", "woman: dark skin tone", ""]
    theirs = [RougeScorer(["rougeL"]).score(a, o)["rougeL"].fmeasure for a, o in zip(answers, outputs, strict=True)]
    assert generation.rouge_l(answers, outputs) == pytest.approx(sum(theirs) / 3)
    assert generation.bleu(answers, outputs) == pytest.approx(corpus_bleu(outputs, [answers]).score / 100)
    assert generation.rouge_l(["мужчина"], ["мужчина"]) == generation.rouge_l(["äpfel"], ["äpfel"]) == 1
    assert generation.rouge_l(["äpfel"], ["öpfel"]) == 0


def test_a_table_that_is_the_head_too_stays_one() -> None:
    loaded = language.anatomy(_oracle("gpt2", tie_word_embeddings=True), language.BYTES)
    (chosen,) = small.strategies("full", [0])
    next(chosen.adapt(loaded, [chosen]))
    assert loaded.embedding is not None
    assert loaded.get(loaded.head).weight is loaded.get(loaded.embedding).weight
    assert loaded.trainable_params(0) == loaded.loaded_params


def test_a_source_model_with_a_tied_table_comes_back_from_the_cache() -> None:
    def build() -> LoadedModel:
        loaded = language.anatomy(_oracle("t5"), language.BYTES)
        loaded.work = GENERATION
        return loaded

    trained, again = build(), build()
    split = rows(trained)
    args = TrainArgs(lr=1e-2, batch_size=4, steps=6)
    again.network.load_state_dict(source_weights(trained, split, args, "inverse_perplexity"))
    torch.testing.assert_close(again.network(split.x), trained.network(split.x), rtol=1e-3, atol=1e-3)
    once_more = source_weights(build(), split, args, "inverse_perplexity")
    assert all(torch.equal(value, again.network.state_dict()[name]) for name, value in once_more.items())


@both
def test_the_tiny_models_have_heads_of_their_own(name: str) -> None:
    loaded = model(name)
    assert loaded.embedding is not None
    assert loaded.get(loaded.head).weight is not loaded.get(loaded.embedding).weight


@pytest.mark.parametrize("name", ["dates", "date_translation"])
def test_no_day_is_in_two_splits(name: str) -> None:
    splits = find_task(name).load(1, 100).splits
    # The source is written in other languages: days are compared by what is read.
    days = [
        prompt.rpartition(": " if name == "date_translation" else "date: ")[2]
        for split in splits.values()
        for prompt, _ in split.texts
    ]
    assert len(set(days)) == len(days) == 100 + 100 + 250 + 2000 + 100


def test_dates_are_written_as_people_write_them() -> None:
    pairs = {pair for split in find_task("dates").load(0, 1000).splits.values() for pair in split.texts}
    calendar = {"Montag": "1", "Dienstag": "2", "Mittwoch": "3", "Donnerstag": "4", "Freitag": "5"}
    german = [pair for pair in pairs if "German" in pair[0] and pair[1].split(",")[0] in calendar]
    assert len(german) > 500
    for prompt, answer in german:
        weekday, day, month, year = answer.replace(",", "").replace(".", "").split()
        assert prompt.endswith(f"-{int(day):02d} | weekday: {calendar[weekday]}"), (prompt, answer)
        assert f"date: {year}-" in prompt
        if month in ("Januar", "Dezember"):
            assert f"-{'01' if month == 'Januar' else '12'}-" in prompt


def test_a_row_holds_every_score_and_samples_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "smaller_gpt", partial(language.tiny_gpt, width=16, layers=1))
    task = find_task("dates")
    assert isinstance(task, Dates)
    monkeypatch.setitem(TASKS, task.name, replace(task, pretrain_steps=12))
    monkeypatch.setattr(generation, "MOST_ROWS", 6)
    args = [TrainArgs(lr=lr, steps=6, batch_size=4) for lr in (1e-3, 1e-2)]
    specs = [TrialSpec("smaller_gpt", "dates", 20, "lora", small.spec("lora").hparams, one, 0) for one in args]
    rows = run_pack(specs, {})
    for row in rows:
        assert row.status is Status.COMPLETE, row.error
        measured = row.metrics
        assert set(measured) <= set(METRICS)
        assert measured["test_score"] == pytest.approx(1 / measured["test_perplexity"])
        assert measured["off_test_perplexity"] == pytest.approx(measured["untouched_test_perplexity"])
        assert measured["forgetting"] == measured["untouched_source_test_score"] - measured["source_test_score"]
        assert {"test_rouge_l", "test_bleu", "test_exact_match", "untouched_test_rouge_l"} <= set(measured)
        assert all(set(sample) == {"prompt", "answer", "output"} for sample in measured["samples"])
        assert TrialResult.from_dict(json.loads(json.dumps(row.to_dict()))) == row
    console = Console(width=200, file=io.StringIO())
    samples.print_samples(rows, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert rows[0].metrics["samples"][0]["answer"] in shown
    assert rows[0].trial_id[:8] in shown


def test_missing_scorers_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"rouge_score and sacrebleu.*pip install 'sweeper-advisor\[hf\]'"):
        generation.check_packages()


def test_what_sees_both_ways_cannot_write() -> None:
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=300)
    with pytest.raises(NotApplicableError, match="both directions"):
        language.anatomy(transformers.BertLMHeadModel(config), language.BYTES)
