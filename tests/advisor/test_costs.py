"""Counts against hand and peft, memory and time against measurements, shapes against transformers and safetensors."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advisor.configs import FAMILIES, from_config
from advisor.costs import PRECISIONS, estimate, peak, seconds
from advisor.devices import DEVICES, find_device
from advisor.fit_costs import evaluate, fit
from advisor.measured import FLUX, LLAMA
from advisor.model_files import read
from advisor.plan import STRATEGIES
from advisor.shapes import ModelShape, from_count
from advisor.trainable import trained
from sweeper.results import read_store
from tests.families import CONFIGS

SHIPPED = Path(__file__).parent.parent.parent / "results" / "shipped"
MINILM = {
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
MORE = {
    "mistral": ("MistralConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "phi3": ("Phi3Config", GROUPED),
    "gemma": ("GemmaConfig", {**GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**GROUPED, "head_dim": 16}),
    "gemma3_text": ("Gemma3TextConfig", {**GROUPED, "head_dim": 16}),
    "gpt_neox": ("GPTNeoXConfig", SMALL),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}),
    "opt": ("OPTConfig", {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 40}),
    "mt5": ("MT5Config", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50}),
}
LLAMA_3B, MINI = from_config(LLAMA), from_config(MINILM)


def transformer(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    cls, settings = {**CONFIGS, **MORE}[name]
    auto = {
        "causal": "AutoModelForCausalLM",
        "encoder": "AutoModelForSequenceClassification",
        "encoder_decoder": "AutoModelForSeq2SeqLM",
        "image": "AutoModelForImageClassification",
    }[FAMILIES[name].kind]
    return getattr(transformers, auto).from_config(getattr(transformers, cls)(**settings))


def all_parts(shape: ModelShape) -> dict[str, Any]:
    biases = sum(linear.outputs * linear.count for linear in shape.linears if linear.bias)
    names = ("params", "layers", "hidden", "kv", "kind", "vocab", "norms", "norm_params", "norm_biases", "rms")
    more = ("gated", "tied", "in_blocks", "attention", "inner", "inner_kept")
    return {**{name: getattr(shape, name) for name in (*names, *more)}, "biases": biases}


@pytest.mark.parametrize("name", [*CONFIGS, *MORE])
def test_a_config_and_the_headers_of_its_weights_tell_the_same(name: str, tmp_path: Path) -> None:
    network = transformer(name)
    network.save_pretrained(tmp_path)
    config = from_config(json.loads((tmp_path / "config.json").read_text()))
    assert config.params == sum(p.numel() for p in network.parameters())
    of_config, of_header = all_parts(config), all_parts(read(tmp_path / "model.safetensors"))
    if name == "phi3":  # fused layers do not tell how wide the keys are
        of_config.pop("kv"), of_header.pop("kv")
    assert of_header == of_config
    assert read(tmp_path) == replace(config, dtype="F32", said_by=str(tmp_path / "config.json"))


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    network = transformer("llama")
    network.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert read(tmp_path / "model.safetensors.index.json").params == read(tmp_path / "config.json").params
    (tmp_path / "config.json").unlink()
    assert read(tmp_path).layers == 2


def test_published_totals() -> None:
    assert LLAMA_3B.params == 3_212_749_824  # as peft counts it
    assert from_config(FLUX).params == 3_875_544_576
    assert MINI.params == 22_713_986


@pytest.mark.parametrize(
    ("strategy", "hparams", "count"),
    [
        # peft's own counts on Llama-3.2-3B, in results/shipped/cited/peft.csv
        ("lora", {"r": 32, "targets": "query+value"}, 28 * 32 * (3072 + 3072 + 3072 + 1024)),
        ("lora", {"r": 10, "targets": "mlp_in+mlp_out"}, 9_461_760),
        ("lora", {"r": 32, "use_dora": True, "targets": "query+value"}, 9_289_728),
        ("prefix_tuning", {"num_virtual_tokens": 200}, 11_468_800),
        ("prompt_tuning", {"num_virtual_tokens": 200}, 200 * 3072),
        ("p_tuning", {"num_virtual_tokens": 20, "encoder_hidden_size": 3072}, 28_382_208),
        ("ia3", {}, 28 * (1024 + 1024 + 8192)),
        ("ln_tuning", {}, (2 * 28 + 1) * 3072),
        ("full", {}, 3_212_749_824),
    ],
)
def test_counts_are_those_of_peft_on_a_large_model(strategy: str, hparams: dict[str, Any], count: int) -> None:
    assert trained(strategy, hparams, LLAMA_3B).params == count


def test_counts_on_flux() -> None:
    targets = "query+key+value+attn_out+mlp_in+mlp_out+joint_in"
    assert trained("lora", {"r": 32, "targets": targets}, from_config(FLUX)).params == 38_338_560


def test_counts_are_those_of_the_shipped_trials() -> None:
    seen = {}
    for row in read_store(SHIPPED).results:
        ours = row.spec.model == "minilm" and row.spec.task == "film_reviews" and row.spec.strategy in STRATEGIES
        if ours and row.status.value == "complete":
            seen[row.spec.strategy, json.dumps(dict(row.spec.hparams), sort_keys=True)] = row.metrics
    assert len({strategy for strategy, _ in seen}) >= 12
    for (strategy, hparams), metrics in seen.items():
        found = trained(strategy, json.loads(hparams), MINI)
        assert found.params == metrics["trainable_params"], (strategy, hparams)
        assert 4 * found.params == metrics["saved_bytes"], (strategy, hparams)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prompt_tuning", "prefix_tuning"])
def test_counts_are_those_of_peft_on_small_models(name: str, method: str) -> None:
    peft = pytest.importorskip("peft")
    network = transformer(name)
    shape = from_config(network.config.to_dict())
    linears = [
        n.split(".")[-1] for n, m in network.named_modules() if isinstance(m, nn.Linear) or "Conv1D" in str(type(m))
    ]
    blocks = sorted({own for own in linears if own not in ("lm_head",)})
    task = {"task_type": "CAUSAL_LM"}
    if method in ("lora", "dora"):
        config = peft.LoraConfig(r=4, target_modules=blocks, use_dora=method == "dora", **task)
        hparams: dict[str, Any] = {"rank": 4, "dora": method == "dora"}
    elif method == "ia3":
        if name != "llama":
            pytest.skip("peft's default there is the whole fused layer, or other ones")
        config, hparams = peft.IA3Config(**task), {}
    else:
        cls = {"prompt_tuning": peft.PromptTuningConfig, "prefix_tuning": peft.PrefixTuningConfig}[method]
        config, hparams = cls(num_virtual_tokens=5, **task), {"virtual_tokens": 5}
    trainable, _ = peft.get_peft_model(network, config).get_nb_trainable_parameters()
    assert trained(method, hparams, shape).params == trainable


def test_what_is_not_known_is_taken_for_lora_or_for_what_is_said_of_it() -> None:
    like = trained("peft:vera", {}, LLAMA_3B)
    assert like.params == trained("lora", {"targets": "query+value"}, LLAMA_3B).params
    assert trained("peft:vera", {"trainable_params": 129_024}, LLAMA_3B).params == 129_024
    assert trained("peft:vera", {"trainable_fraction": 0.001}, LLAMA_3B).params == pytest.approx(3_212_749.8)


def test_memory_worked_by_hand() -> None:
    costs = estimate("full", {}, LLAMA_3B, 4, 768, "bf16")
    weights = 2 * 3_212_749_824
    assert costs.parts["weights"] == weights
    assert costs.parts["optimizer"] == 2 * weights
    assert costs.parts["gradients"] == weights
    assert costs.parts["logits"] == 12 * 4 * 768 * 128_256
    # Korthikanti et al., section 4.1: 34 bytes a token and unit of width in each block of GPT-3, all trained.
    shape = from_config({**MINILM, "model_type": "gpt_neox", "intermediate_size": 4 * 384})
    kept = estimate("full", {}, shape, 2, 100, "bf16").parts["activations"]
    assert kept == pytest.approx(200 * 384 * (34 * 6 + 2), rel=0.001)  # and the last normalisation
    frozen = estimate("bitfit", {}, shape, 2, 100, "bf16").parts["activations"]
    assert frozen == pytest.approx(200 * 384 * (22 * 6 + 2), rel=0.001)


def test_four_bits_with_their_scales() -> None:
    bytes_each = estimate("qlora", {"rank": 8}, LLAMA_3B, 1, 16).parts["weights"]
    rest = LLAMA_3B.params - LLAMA_3B.in_blocks
    own = 4 * trained("lora", {"rank": 8}, LLAMA_3B).added
    assert bytes_each == pytest.approx(LLAMA_3B.in_blocks * (4 + 0.127) / 8 + 2 * rest + own)
    with pytest.raises(ValueError, match="full trains weights that 4bit keeps frozen"):
        estimate("full", {}, LLAMA_3B, 1, 16, "4bit")


COUNTS = st.floats(1e6, 2e9)
SIZES = st.integers(1, 64)
NAMES = st.sampled_from([name for name in STRATEGIES if name != "bitfit"])


@given(NAMES, COUNTS, SIZES, SIZES, st.sampled_from(["fp32", "mixed", "bf16"]), st.booleans())
def test_more_of_anything_never_takes_less(
    strategy: str, params: float, batch: int, seq: int, precision: str, checkpointing: bool
) -> None:
    shape = from_count(params)
    base = estimate(strategy, {}, shape, batch, seq, precision, checkpointing).memory_bytes.mean
    for more in (
        estimate(strategy, {}, shape, batch + 1, seq, precision, checkpointing),
        estimate(strategy, {}, shape, batch, seq + 8, precision, checkpointing),
        estimate(strategy, {}, from_count(1.1 * params), batch, seq, precision, checkpointing),
    ):
        assert more.memory_bytes.mean >= 0.999_999 * base
    assert (
        estimate(strategy, {}, shape, batch, seq, precision, False).memory_bytes.mean >= 0.999_999 * base
        or not checkpointing
    )


@given(COUNTS, SIZES, st.integers(1, 200), st.booleans())
def test_fewer_bits_and_lower_ranks_never_take_more(params: float, batch: int, rank: int, checkpointing: bool) -> None:
    shape = from_count(params)
    memory = [
        estimate("lora", {"rank": rank}, shape, batch, 64, precision, checkpointing).memory_bytes.mean
        for precision in ("4bit", "8bit", "bf16", "fp32")
    ]
    assert memory[:3] == sorted(memory[:3])
    lower = estimate("lora", {"rank": rank}, shape, batch, 64, "bf16", checkpointing).memory_bytes.mean
    assert lower <= estimate("lora", {"rank": rank + 1}, shape, batch, 64, "bf16", checkpointing).memory_bytes.mean
    eased = estimate("full", {"optimizer": "adamw8bit"}, shape, batch, 64, "bf16", checkpointing)
    assert peak(eased.parts) <= peak(estimate("full", {}, shape, batch, 64, "bf16", checkpointing).parts)


@pytest.mark.parametrize(
    ("strategy", "hparams"),
    [
        ("full", {}),
        ("lora", {"rank": 8}),
        ("adapter", {"bottleneck": 16}),
        ("bitfit", {}),
        ("norm_tuning", {}),
        ("ia3", {}),
        ("partial_unfreeze", {"blocks": 2}),
        ("prompt_tuning", {"virtual_tokens": 20}),
    ],
)
def test_flops_over_those_of_a_probe_are_as_counted(strategy: str, hparams: dict[str, Any]) -> None:
    rows = [r for r in read_store(SHIPPED).results if r.spec.model == "minilm" and r.spec.task == "film_reviews"]
    counted = {
        r.spec.strategy: r.metrics["train_flops"]
        for r in rows
        if "train_flops" in r.metrics and r.spec.train.steps == 40 and not r.spec.hparams.get("dora")
    }
    tokens = 33  # a probe's FLOPs over 40 steps, 16 rows and 2 x 10.6 M weights
    ours = estimate(strategy, hparams, MINI, 16, tokens).flops_per_step
    probe = estimate("feature_extraction", {}, MINI, 16, tokens).flops_per_step
    assert ours / probe == pytest.approx(counted[strategy] / counted["feature_extraction"], rel=0.15)


def test_time_goes_with_steps_and_devices() -> None:
    costs = estimate("lora", {"rank": 8}, LLAMA_3B, 4, 512)
    one, ten = seconds(costs, 1, "l40s"), seconds(costs, 10, "L40S")
    assert ten.mean == pytest.approx(10 * one.mean)
    assert one.low < one.mean < one.high
    assert seconds(costs, 1, "h100").mean < one.mean < seconds(costs, 1, "t4").mean
    assert seconds(costs, 1, "cpu").mean > 50 * one.mean
    assert find_device("NVIDIA A100 80GB") is DEVICES["a100-80gb"]
    with pytest.raises(ValueError, match=r"no device named 'abacus'.*l40s"):
        find_device("abacus")


def test_an_estimate_takes_less_than_five_milliseconds() -> None:
    estimate("lora", {}, LLAMA_3B, 1, 1)
    start = time.perf_counter()
    for _ in range(100):
        seconds(estimate("lora", {"rank": 8}, LLAMA_3B, 4, 512, "bf16", True), 100, "l40s")
    assert time.perf_counter() - start < 0.5


def test_errors_on_what_was_left_out_stay_what_they_are() -> None:
    found = {(own["source"], own["left_out"]): own for own in evaluate(SHIPPED)}
    peft = found["peft", "method"]
    assert peft["rows"] == 94
    assert peft["memory_median"] <= 0.04  # 2.8 % measured; asked for: 10 %
    assert peft["memory_p95"] <= 0.14  # 11.3 % measured; asked for: 25 %
    for own in found.values():
        assert not any(own["exceed"].values())
    assert found["peft", "model"]["memory_median"] <= 0.07
    assert found["own", "method"]["memory_median"] <= 0.07
    assert peft["time_median"] <= 0.25


def test_the_shipped_correction_is_what_the_command_learns() -> None:
    shipped = json.loads((Path(__file__).parent.parent.parent / "advisor" / "costs.json").read_text())
    now = fit(SHIPPED)
    assert set(now) == set(shipped)
    for part in ("memory", "time"):
        for name, factor in now[part]["coefficients"].items():
            assert np.isclose(factor, shipped[part]["coefficients"][name], rtol=1e-3), (part, name)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def header(content: Any) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.safetensors", b"", "is no safetensors file, or is cut off"),
        ("m.safetensors", struct.pack("<Q", 2**62) + b"{}", "is cut off"),
        ("m.safetensors", header(b"[1]"), "is not a JSON object"),
        ("m.safetensors", header(b"{" * 100_000), "is not JSON"),
        ("m.safetensors", header({"a": {"dtype": "F32", "shape": [-1]}}), "otherwise than by dtype and shape"),
        ("m.safetensors", header({"a": {"dtype": "F32", "shape": [True]}}), "otherwise than by dtype and shape"),
        ("m.safetensors", header({"a": {"dtype": 3, "shape": [1]}}), "otherwise than by dtype and shape"),
        ("m.safetensors", header({"a": {"dtype": "F32", "shape": [2**60]}}), "otherwise than by dtype and shape"),
        ("m.safetensors", header({"a": {"dtype": "F32", "shape": [4, 4]}}), "no repeated blocks.*--model-params"),
        ("m.safetensors.index.json", b"{}", "no weight_map"),
        ("m.safetensors.index.json", json.dumps({"weight_map": {"a": "../x"}}).encode(), "cannot be read|leads out"),
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"{}", "hidden_size is missing.*--model-params"),
        ("config.json", json.dumps({**MINILM, "hidden_size": 0}).encode(), "hidden_size is 0, which is no size"),
        ("config.json", json.dumps({**MINILM, "hidden_size": "x" * 999}).encode(), "hidden_size is 'x+"),
        ("config.json", json.dumps({**MINILM, "num_hidden_layers": 2**50}).encode(), "which is no size"),
        ("config.json", json.dumps({**FLUX, "mlp_ratio": -1}).encode(), "mlp_ratio -1"),
        ("config.json", b" " * (2**20 + 1), "is larger than"),
    ],
)
def test_broken_and_hostile_files_are_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
    assert str(tmp_path) in str(raised.value)


def test_folders_without_a_model_and_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds neither config\.json nor"):
        read(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "absent.safetensors")
    inside = tmp_path / "inside"
    inside.mkdir()
    write(tmp_path / "config.json", json.dumps(MINILM).encode())
    (inside / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ValueError, match="leads out of its folder"):
        read(inside)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("lora", {"rank": 0}, LLAMA_3B, 1, 1), "lora.rank must be a number above 0, got 0"),
        (("lora", {"targets": "quarry"}, LLAMA_3B, 1, 1), "names no role of this model. Available: attn_out"),
        (("bitfit", {}, LLAMA_3B, 1, 1), "this model has none"),
        (("lora", {}, LLAMA_3B, 0, 1), "must be at least 1, got 0 and 1"),
        (("lora", {}, LLAMA_3B, 1, 1, "half"), f"no precision named 'half'. Available: {', '.join(PRECISIONS)}"),
    ],
)
def test_what_makes_no_sense_is_refused(call: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(*call)
