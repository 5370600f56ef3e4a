"""Adapter folders against stock peft: what is written here loads there, what is written there loads here."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sweeper.adapter_facts import facts_of
from sweeper.adapters import load_adapter, save_adapter
from sweeper.models import language
from sweeper.models.base import LoadedModel
from sweeper.models.huggingface import anatomy
from sweeper.strategies import STRATEGIES, Strategy
from sweeper.torchvision_ops import declare_missing_ops
from sweeper.work import GENERATION, TAGGING
from tests.families import END, PAD, classifier

CLASSES = 3
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 3, "alpha": 5.0, "dropout": 0.1}),
    "rslora": ("lora", {"rank": 4, "alpha": 3.0, "scaling": "rslora", "targets": "qkv_or_query"}),
    "dora": ("lora", {"rank": 3, "dora": True}),
    "pissa": ("lora", {"rank": 4, "alpha": 4.0, "init": "pissa", "scaling": "rslora"}),
    "dora_pissa_of_full_rank": ("lora", {"rank": 32, "init": "pissa", "dora": True}),
    "parametrized": ("lora", {"rank": 3, "form": "parametrized"}),
    "ia3": ("ia3", {}),
    "prompt_tuning": ("prompt_tuning", {"virtual_tokens": 4}),
    "p_tuning": ("p_tuning", {"virtual_tokens": 4, "hidden": 8}),
    "prefix_tuning": ("prefix_tuning", {"virtual_tokens": 4}),
    "norm_tuning": ("norm_tuning", {}),
}
PROMPTS = {"prompt_tuning", "p_tuning", "prefix_tuning", "prompt", "prefix"}


@pytest.fixture(autouse=True)
def peft() -> Iterator[Any]:
    declare_missing_ops()
    found = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield found


def loaded(hf: Any, head_is_fresh: bool = True, seeds: tuple[int, ...] = (0,)) -> LoadedModel:
    own = copy.deepcopy(hf)
    model = anatomy(own, (), frozenset(name for name, _ in own.named_parameters()))
    model.head_is_fresh, model.seeds = head_is_fresh, seeds
    return model


def strategies(method: str, model: LoadedModel, members: int) -> list[Strategy]:
    name, hparams = OURS[method]
    if hparams.get("targets"):
        hparams = {**hparams, "targets": "query" if "query" in model.roles.values() else "qkv"}
    return [STRATEGIES[name](**hparams)] * members


def scramble(model: LoadedModel) -> None:
    """Stand in for training: every trained tensor away from where it started, padding left alone."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.trainable().values():
            p += 0.1 * torch.randn(p.shape, generator=rng) * (p != 0 if p.dim() == 3 and p.any() else 1)


def texts(family: str) -> tuple[Tensor, Tensor]:
    """Rows of equal length, and rows of which the first is padded as the family wants it."""
    ids = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[:, 4] = END  # T5 answers there
    padded = ids.clone()
    padded[0, slice(0, 4) if family in ("gpt2", "llama") else slice(5, None)] = PAD
    return ids, padded


def logits(hf: Any, ids: Tensor) -> Tensor:
    mask = (ids != PAD).long()
    positions = {}
    if (mask[:, 0] == 0).any():  # as generation with left padding has them
        positions["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return hf.eval()(input_ids=ids, attention_mask=mask, **positions).logits


MATRIX = [(family, method) for family in ("bert", "gpt2") for method in OURS]
MORE = [(family, method) for family in ("llama", "roberta", "distilbert") for method in ("lora", "norm_tuning")]
MORE += [("llama", "prefix_tuning"), ("llama", "prompt_tuning"), ("t5", "lora")]


@pytest.mark.parametrize("head_is_fresh", [True, False])
@pytest.mark.parametrize(("family", "method"), [*MATRIX, *MORE])
def test_a_folder_from_here_loads_in_peft_and_here(
    peft: Any, family: str, method: str, head_is_fresh: bool, tmp_path: Path
) -> None:
    hf = classifier(family, CLASSES, 0)
    base = loaded(hf, head_is_fresh)
    pack = loaded(hf, head_is_fresh, seeds=(3, 4))
    chosen = strategies(method, pack, 2)
    next(chosen[0].adapt(pack, chosen))
    scramble(pack)
    pack.network.eval()
    plain, padded = texts(family)
    for member in range(2):
        folder = tmp_path / str(member)
        save_adapter(folder, base, pack, member, facts_of(base, family, chosen[member]))
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(hf), folder)
        ours = load_adapter(folder, loaded(hf, head_is_fresh))
        for ids in (plain, padded) if method not in PROMPTS else (plain,):
            with torch.no_grad():
                wanted = pack.logits(torch.cat([ids, ids]))[member]
                torch.testing.assert_close(ours.logits(ids)[0], wanted, rtol=0, atol=1e-5)
            torch.testing.assert_close(logits(theirs, ids), wanted, rtol=0, atol=1e-5)
            assert not torch.allclose(wanted, logits(hf, ids), atol=1e-2)


WRITERS = [("tiny_gpt", method) for method in ("lora", "ia3", "norm_tuning", *sorted(PROMPTS & {*OURS}))]


@pytest.mark.parametrize(("name", "method"), [*WRITERS, ("tiny_t5", "lora"), ("tagger", "lora"), ("tagger", "ia3")])
def test_a_writer_or_tagger_from_here_loads_in_peft_and_here(peft: Any, name: str, method: str, tmp_path: Path) -> None:
    import transformers

    def build() -> LoadedModel:
        if name == "tagger":
            sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
            torch.manual_seed(0)
            config = transformers.BertConfig(**sizes, vocab_size=32, num_labels=CLASSES)
            model = loaded(transformers.BertForTokenClassification(config))
            model.work = TAGGING
            return model
        model = getattr(language, name)((), 0, 0, GENERATION, width=16, layers=2)
        model.work = GENERATION
        return model

    base, pack = build(), build()
    hf: Any = copy.deepcopy(base.network.hf)
    chosen = strategies(method, pack, 1)
    next(chosen[0].adapt(pack, chosen))
    scramble(pack)
    pack.network.eval()
    save_adapter(tmp_path / "it", base, pack, 0, facts_of(base, name, chosen[0]))
    config = json.loads((tmp_path / "it" / "adapter_config.json").read_text())
    wanted_type, auto = {
        "tiny_gpt": ("CAUSAL_LM", "CausalLM"),
        "tiny_t5": ("SEQ_2_SEQ_LM", "Seq2SeqLM"),
        "tagger": ("TOKEN_CLS", "TokenClassification"),
    }[name]
    assert config["task_type"] == wanted_type
    assert f"AutoModelFor{auto}.from_pretrained" in (tmp_path / "it" / "README.md").read_text()
    ids = texts("bert")[0]
    theirs: Any = peft.PeftModel.from_pretrained(hf, tmp_path / "it").eval()
    ours = load_adapter(tmp_path / "it", base)
    with torch.no_grad():
        if name == "tiny_t5":
            encoded = torch.cat(
                [ids, ids.new_full((len(ids), language.MAX_PROMPT - ids.shape[1]), language.PAD), ids], 1
            )
            found = theirs(input_ids=ids, decoder_input_ids=ids).logits
        else:
            mask = (ids != base.network.hf.config.pad_token_id).long()  # type: ignore[union-attr]
            encoded, found = ids, theirs(input_ids=ids, attention_mask=mask).logits
        wanted = pack.logits(encoded)[0]
        torch.testing.assert_close(ours.logits(encoded)[0], wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[:, -wanted.shape[1] :], wanted, rtol=0, atol=1e-5)
        assert not torch.allclose(wanted, base.network(encoded), atol=1e-2)


def configs(peft: Any, family: str) -> dict[str, Any]:
    names = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "down_proj"]}[
        family
    ]
    inner = names[1:]
    norms = {"bert": ["LayerNorm"], "gpt2": ["ln_1", "ln_f"], "llama": ["norm"]}[family]
    lora = {"r": 3, "lora_alpha": 5, "target_modules": names, "task_type": "SEQ_CLS"}
    virtual = {"num_virtual_tokens": 4, "task_type": "SEQ_CLS"}
    return {
        "lora": peft.LoraConfig(**lora, lora_dropout=0.1),
        "rslora": peft.LoraConfig(**lora, use_rslora=True),
        "dora": peft.LoraConfig(**lora, use_dora=True, init_lora_weights="gaussian"),
        "ia3": peft.IA3Config(target_modules=names, feedforward_modules=inner, task_type="SEQ_CLS"),
        "prompt": peft.PromptTuningConfig(**virtual),
        "p_tuning": peft.PromptEncoderConfig(**virtual, encoder_hidden_size=8),
        "prefix": peft.PrefixTuningConfig(**virtual),
        "prefix_projection": peft.PrefixTuningConfig(**virtual, prefix_projection=True, encoder_hidden_size=8),
        "norm_tuning": peft.LNTuningConfig(target_modules=norms, task_type="SEQ_CLS"),
    }


METHODS = ["lora", "rslora", "dora", "ia3", "prompt", "p_tuning", "prefix", "prefix_projection", "norm_tuning"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("method", METHODS)
def test_a_folder_from_peft_loads_here(peft: Any, family: str, method: str, tmp_path: Path) -> None:
    if family == "llama" and method == "prefix_projection":
        pytest.skip("stock peft's encoder has not the width of grouped keys")
    hf = classifier(family, CLASSES, 0)
    theirs = peft.get_peft_model(copy.deepcopy(hf), configs(peft, family)[method])
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.3 * torch.randn(p.shape, generator=rng)
    theirs.save_pretrained(tmp_path / "theirs")
    base = loaded(hf)
    ours = load_adapter(tmp_path / "theirs", base)
    plain, padded = texts(family)
    for ids in (plain,) if method.startswith(("p_", "prompt", "prefix")) else (plain, padded):
        with torch.no_grad():
            torch.testing.assert_close(ours.logits(ids)[0], logits(theirs, ids), rtol=0, atol=1e-5)
            assert torch.equal(base.network(plain), logits(hf, plain))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank_pattern": {"query": 2}}, "rank_pattern is .* not supported here; peft itself may load it"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"use_qalora": True}, "use_qalora"),
        ({"something_new": 1}, "something_new"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base's weights"),
        ({"modules_to_save": ["classifier", "embeddings"]}, "modules_to_save has .*embeddings.* no linear layer"),
        ({"target_modules": ".*query"}, "target_modules must be a list of module names"),
        ({"target_modules": ["LayerNorm"]}, "which is of another kind"),
        ({"target_modules": ["nothing"]}, "names no module of this model"),
        ({"target_modules": ["query", "value"]}, "lacks .*value.lora_A.weight"),
        ({"r": 4}, "r is 4, and not all"),
        ({"r": "3"}, "lora.rank must be a whole number"),
        ({"lora_alpha": None}, "lora.alpha must be a number above 0"),
        ({"use_dora": True}, "lacks .*lora_magnitude_vector"),
        ({"peft_type": "VERA"}, "peft_type 'VERA' is none that is read here"),
        ({"task_type": "CAUSAL_LM"}, "task_type 'CAUSAL_LM' is not SEQ_CLS"),
    ],
)
def test_what_peft_can_and_we_cannot_is_refused_by_name(
    peft: Any, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    hf = classifier("bert", CLASSES, 0)
    theirs = peft.get_peft_model(copy.deepcopy(hf), peft.LoraConfig(r=3, target_modules=["query"], task_type="SEQ_CLS"))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    base = loaded(hf)
    with pytest.raises(ValueError, match=says) as raised:
        load_adapter(tmp_path, base)
    assert "\n" not in str(raised.value)
    assert torch.equal(base.network(texts("bert")[0]), logits(hf, texts("bert")[0]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 4000), st.integers(32, 126)), min_size=1, max_size=3))
def test_a_damaged_folder_of_peft_is_a_value_error_or_harmless(
    peft: Any, tmp_path: Path, places: list[tuple[int, int]]
) -> None:
    hf = classifier("bert", CLASSES, 0)
    base = loaded(hf)
    folder = tmp_path / "whole"
    if not folder.exists():
        pack = loaded(hf)
        chosen = strategies("lora", pack, 1)
        next(chosen[0].adapt(pack, chosen))
        save_adapter(folder, base, pack, 0, facts_of(base, "bert", chosen[0]))
    torn = tmp_path / "torn"
    shutil.rmtree(torn, ignore_errors=True)
    shutil.copytree(folder, torn)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        content = bytearray((torn / file).read_bytes())
        for place, value in places:
            content[place % len(content)] = value
        (torn / file).write_bytes(content)
    before = {name: p.clone() for name, p in base.network.state_dict().items()}
    with contextlib.suppress(ValueError):
        load_adapter(torn, base)
    assert all(torch.equal(p, before[name]) for name, p in base.network.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("strategy", ["full", "probe_then_full"])
def test_a_whole_network_loads_in_transformers(family: str, strategy: str, tmp_path: Path) -> None:
    import transformers

    hf = classifier(family, CLASSES, 0)
    base, pack = loaded(hf), loaded(hf)
    chosen = STRATEGIES[strategy]()
    for _ in chosen.adapt(pack, [chosen]):
        pass
    scramble(pack)
    pack.network.eval()
    save_adapter(tmp_path / "whole", base, pack, 0, facts_of(base, family, chosen))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    ids = texts(family)[0]
    with torch.no_grad():
        wanted = pack.logits(ids)[0]
        torch.testing.assert_close(load_adapter(tmp_path / "whole", base).logits(ids)[0], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(theirs, ids), wanted, rtol=0, atol=1e-5)
