"""Adapter folders: round trips, swapping and merging on own models, and files that mean harm."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sweeper.adapter_compare import difference, listed
from sweeper.adapter_facts import facts_of, fingerprint
from sweeper.adapters import Adapters, Keeper, load_adapter, merge, save_adapter
from sweeper.cli import cli
from sweeper.members import CannotPackError
from sweeper.models.base import LoadedModel
from sweeper.results import ResultsStore
from sweeper.safe_file import MAX_HEADER, SafeTensors
from sweeper.spec import TrialSpec
from sweeper.strategies import STRATEGIES
from sweeper.train import train_pack
from sweeper.trial import run_pack
from tests import small
from tests.sweeper.test_trial import build_normalised

CASES = [
    (model, strategy)
    for model, strategies in {
        "mlp": ["full", "partial_unfreeze", "domain_adaptation", "qlora"],
        "small_cnn": ["lora", "adapter", "bitfit", "feature_extraction", "probe_then_full"],
        "tiny_transformer": [
            *("gradual_unfreeze", "lora", "norm_tuning", "ia3", "prompt_tuning", "p_tuning", "prefix_tuning"),
        ],
    }.items()
    for strategy in strategies
]


def test_every_strategy_is_under_test() -> None:
    assert {strategy for _, strategy in CASES} >= set(STRATEGIES)


def bits(model: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(name: str, strategy: str, head_is_fresh: bool = False, **shared: Any) -> tuple[LoadedModel, list[Any]]:
    pack = small.model(name, [0, 1, 2], head_is_fresh)
    chosen = small.strategies(strategy, [0, 1, 2], **shared)
    rows = small.data().splits
    split = [rows["train"]] * 3
    args = [small.train_args(k) for k in range(3)]
    train_pack(pack, chosen, args, split, split, "accuracy", {"source_train": rows["source_train"]})
    pack.network.eval()
    return pack, chosen


def saved(folder: Path, strategy: str = "lora", name: str = "mlp", member: int = 0, **shared: Any) -> Path:
    pack, chosen = trained(name, strategy, **shared)
    base = small.model(name, [0])
    save_adapter(folder, base, pack, member, facts_of(base, name, chosen[member]))
    return folder


@pytest.mark.parametrize("head_is_fresh", [False, True])
@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_each_member_of_a_pack_comes_back(name: str, strategy: str, head_is_fresh: bool, tmp_path: Path) -> None:
    pack, chosen = trained(name, strategy, head_is_fresh)
    base = small.model(name, [0], head_is_fresh)
    before = bits(base)
    x = small.data().splits["test"].x[:5]
    with torch.no_grad():
        wanted = pack.logits(torch.cat([x] * 3))
        for member in range(3):
            folder = tmp_path / str(member)
            save_adapter(folder, base, pack, member, facts_of(base, name, chosen[member]))
            model = load_adapter(folder, base)
            torch.testing.assert_close(model.logits(x)[0], wanted[member], rtol=1e-5, atol=1e-5)
            assert not any(p.requires_grad for p in model.network.parameters())
    assert same(bits(base), before)
    assert [line.damage for line in listed(tmp_path)] == [None] * 3


@pytest.mark.parametrize("strategy", ["full", "partial_unfreeze", "bitfit"])
def test_running_statistics_are_saved_with_what_trained(strategy: str, tmp_path: Path) -> None:
    rows = small.data().splits
    pack, base = build_normalised((1, 8, 8), 10, 0), build_normalised((1, 8, 8), 10, 0)
    pack.seeds = (0, 1)
    chosen = [STRATEGIES[strategy]()] * 2
    args, split = [small.train_args(0), small.train_args(1)], [rows["train"]] * 2
    try:
        train_pack(pack, chosen, args, split, split, "accuracy")
    except CannotPackError:
        pack = build_normalised((1, 8, 8), 10, 0)
        train_pack(pack, chosen[:1], args[:1], split[:1], split[:1], "accuracy")
    pack.network.eval()
    x = rows["test"].x[:5]
    for member in range(pack.members):
        save_adapter(tmp_path / str(member), base, pack, member, facts_of(base, "normalised", chosen[member]))
        wanted = pack.logits(torch.cat([x] * pack.members))[member]
        torch.testing.assert_close(load_adapter(tmp_path / str(member), base).logits(x)[0], wanted)


def test_padding_is_not_saved(tmp_path: Path) -> None:
    pack, chosen = trained("mlp", "lora", dora=True)
    base = small.model("mlp", [0])
    for member, strategy in enumerate(chosen):
        save_adapter(tmp_path / str(member), base, pack, member, facts_of(base, "mlp", strategy))
        tensors = load_file(tmp_path / str(member) / "adapter_model.safetensors")
        assert {t.shape[-1] for name, t in tensors.items() if name.endswith(".a")} == {strategy.rank}
        own = sum(t.numel() for name, t in tensors.items() if not name.endswith(("a0", "b0")))
        assert own == pack.params_of(member, [p for s in pack.switches for p in s.own_parameters()])


def test_switching_is_exact_and_merging_close(tmp_path: Path) -> None:
    base = small.model("mlp", [0])
    x = small.data().splits["test"].x[:5]
    off = base.network(x)
    both = Adapters(base)
    both.add("a", saved(tmp_path / "a"))
    both.add("b", saved(tmp_path / "b", "bitfit"))
    assert torch.equal(both.model.network(x), off)
    both.activate("a")
    a = both.model.network(x)
    both.activate("b")
    b = both.model.network(x)
    merged = both.merged()
    assert merged is not None
    torch.testing.assert_close(merged(x), b, rtol=0, atol=1e-5)
    torch.testing.assert_close(both.model.network(x), b, rtol=0, atol=1e-5)  # unmerged again
    both.activate("a")
    assert torch.equal(both.model.network(x), a)
    both.deactivate()
    assert torch.equal(both.model.network(x), off)
    assert not torch.allclose(a, off)
    assert not torch.allclose(a, b)
    with pytest.raises(ValueError, match="no adapter named 'c'"):
        both.activate("c")
    shared = {p.data_ptr() for p in base.network.parameters()}
    assert sum(p.data_ptr() in shared for p in both.loaded["a"].network.parameters()) == len(shared)


def test_merging_writes_a_plain_network_or_says_why_not(tmp_path: Path) -> None:
    base = small.model("small_cnn", [0])
    x = small.data().splits["test"].x[:5]
    folder = saved(tmp_path / "lora", name="small_cnn", member=1)
    merge(folder, base, tmp_path / "merged")
    with torch.no_grad():
        wanted = load_adapter(folder, base).network(x)
        torch.testing.assert_close(load_adapter(tmp_path / "merged", base).network(x), wanted, rtol=1e-5, atol=1e-5)
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == base.network.state_dict().keys()
    beside = saved(tmp_path / "adapter", "adapter", "small_cnn")
    with pytest.raises(ValueError, match=r"cannot be merged: adapter adds what no layer .* \(Adapted"):
        merge(beside, base, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_target_that_is_there_is_kept_and_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    pack, chosen = trained("mlp", "lora")
    base = small.model("mlp", [0])
    facts = facts_of(base, "mlp", chosen[0])
    save_adapter(tmp_path / "one", base, pack, 0, facts)
    first = (tmp_path / "one" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="one is already there"):
        save_adapter(tmp_path / "one", base, pack, 0, facts)
    save_adapter(tmp_path / "one", base, pack, 0, facts, overwrite=True)
    assert (tmp_path / "one" / "adapter_model.safetensors").read_bytes() == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        save_adapter(tmp_path / "mine", base, pack, 0, facts, overwrite=True)
    with torch.no_grad():
        pack.switches[0].own_parameters()[0][0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        save_adapter(tmp_path / "one", base, pack, 0, facts, overwrite=True)
    assert (tmp_path / "one" / "adapter_model.safetensors").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "one"]


def edit_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        changed = json.dumps(change(header) or header).encode()
        file.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return edit


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def rewrite(change: Callable[[bytes], bytes], name: str = "adapter_model.safetensors") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def link_out(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.rename(folder.parent / "elsewhere.safetensors")
    file.symlink_to(folder.parent / "elsewhere.safetensors")


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["blocks.0.0.a"][0, 0] = float("nan")


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pickle-was-read"),))


A = "blocks.0.0.a"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (rewrite(lambda b: b[:-5]), "its header describes"),
    "longer": (rewrite(lambda b: b + b"\0"), "its header describes"),
    "empty": (rewrite(lambda b: b""), "is no safetensors file"),
    "header length beyond the file": (rewrite(lambda b: struct.pack("<Q", len(b)) + b[8:]), "is no safetensors file"),
    "header too large": (
        rewrite(lambda b: struct.pack("<Q", MAX_HEADER + 1) + b" " * (MAX_HEADER + 1)),
        "at most 16,777,216 are read",
    ),
    "pickle": (rewrite(lambda b: pickle.dumps(Harm())), "is no safetensors file"),
    "zip of a torch.save": (rewrite(lambda b: b"PK\x03\x04" + b[4:]), "is no safetensors file"),
    "too many tensors": (
        edit_header(lambda h: {str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_001)}),
        "holds 100,001 tensors",
    ),
    "name that climbs": (edit_header(lambda h: {**h, "../a": h[A]}), "a name that is no parameter's: '../a'"),
    "overlap": (edit_header(lambda h: {**h, "c": h[A]}), "overlap"),
    "wrong offsets": (edit_header(lambda h: h[A].update(data_offsets=[0, 3])), "offsets of 'blocks.0.0.a'"),
    "negative size": (edit_header(lambda h: h[A].update(shape=[-1, -64])), "no sizes"),
    "huge size": (edit_header(lambda h: h[A].update(shape=[2**60, 2**60])), "no sizes"),
    "unknown dtype": (edit_header(lambda h: h[A].update(dtype="F64")), "as 'F64'; read are F32, F16, BF16"),
    "deep header": (rewrite(lambda b: struct.pack("<Q", 20_000) + b"[" * 20_000), "is not JSON"),
    "NaN": (edit_tensors(poison), "has values in 'blocks.0.0.a' that are not finite"),
    "extra tensor": (edit_tensors(lambda t: t.update(extra=torch.ones(2))), "has unknown extra"),
    "missing tensor": (edit_tensors(lambda t: t.__delitem__(A)), "lacks blocks.0.0.a"),
    "wrong shape": (
        edit_tensors(lambda t: t.update({A: t[A].T.contiguous()})),
        r"of shape \[1, 64\]; here .*\[64, 1\]",
    ),
    "unknown key": (edit_config(trust_remote_code=True), "no key named 'trust_remote_code'"),
    "newer version": (edit_config(format_version=2), "version 2: read are"),
    "unknown strategy": (edit_config(strategy="peft:vera"), "no strategy named 'peft:vera'"),
    "unknown hyperparameter": (edit_config(hparams={"rnak": 1}), "hparams are not those of lora"),
    "rank too large": (edit_config(hparams={"rank": 65}), "lora.rank 65 is larger than the layer"),
    "rank out of memory": (edit_config(hparams={"rank": 10**12}), "larger than any tensor of the folder"),
    "no trial": (edit_config(trial={"model": "mlp"}), "trial is no trial"),
    "other layout": (edit_config(layout="model"), "layout is 'model', and the files are those"),
    "not JSON": (rewrite(lambda b: b"{", "adapter_config.json"), "is not JSON"),
    "JSON too large": (rewrite(lambda b: b"{" + b" " * 2**20, "adapter_config.json"), "is larger than 1,048,576"),
    "key twice": (rewrite(lambda b: b'{"format": 1, "format": 2}', "adapter_config.json"), "a key stands there twice"),
    "link": (link_out, "is a link that leads out of its folder"),
    "folder for a file": (
        lambda folder: [(folder / "adapter_config.json").unlink(), (folder / "adapter_config.json").mkdir()][1],
        "is not a plain file",
    ),
    "no files": (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter"),
    "no tensors": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be read: No such file"),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("honest") / "adapter")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_line_and_changes_nothing(
    name: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(honest, tmp_path / "adapter"))
    base = small.model("mlp", [0])
    before = bits(base)
    load_adapter(folder, base)
    edit, says = HOSTILE[name]
    edit(folder)
    with pytest.raises(ValueError, match=says) as raised:
        load_adapter(folder, base)
    assert len(str(raised.value).splitlines()) == 1
    assert same(bits(base), before)
    assert not (tmp_path / "pickle-was-read").exists()


def test_an_adapter_for_another_base_is_refused_and_both_are_named(honest: Path) -> None:
    other = small.model("mlp", [0])
    with torch.no_grad():
        other.get("head").bias += 1e-3  # one bit is enough, also in a layer that nothing was added to
    before = bits(other)
    with pytest.raises(ValueError, match=r"trained on another base: mlp \(\w{12}\), and this is mine \(\w{12}\)"):
        load_adapter(honest, other, "mine")
    assert same(bits(other), before)
    other.head_is_fresh = True
    assert fingerprint(other) == fingerprint(small.model("mlp", [0], head_is_fresh=True))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]),
    places=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 3000)),
)
@example(file="adapter_model.safetensors", places=[(0, 255)], cut=None)
@example(file="adapter_model.safetensors", places=[(7, 128)], cut=8)
def test_any_damage_is_a_value_error_or_harmless(
    honest: Path, tmp_path: Path, file: str, places: list[tuple[int, int]], cut: int | None
) -> None:
    folder = tmp_path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(honest, folder)
    content = bytearray((folder / file).read_bytes())
    for place, value in places:
        content[place % len(content)] = value
    (folder / file).write_bytes(content[:cut])
    base = small.model("mlp", [0])
    before = bits(base)
    said = ""
    try:
        load_adapter(folder, base)
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert same(bits(base), before)


def test_the_reader_agrees_with_the_package(tmp_path: Path) -> None:
    tensors = {
        "f32": torch.randn(3, 4),
        "f16": torch.randn(2, 2).half(),
        "bf16": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(1.5),
        "none": torch.empty(0, 3),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"a": "b"})
    with SafeTensors(tmp_path, "x.safetensors") as file:
        assert file.metadata == {"a": "b"}
        found = file.load()
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in tensors.items())


def test_a_difference_by_hand(tmp_path: Path) -> None:
    a = saved(tmp_path / "a")
    b = Path(shutil.copytree(a, tmp_path / "b"))
    edit_tensors(lambda t: t.update({A: -2 * t[A]}))(b)
    found = difference(a, b)
    largest = float(load_file(a / "adapter_model.safetensors")[A].abs().max())
    assert found["tensors"].pop(A) == {"max_abs_difference": pytest.approx(3 * largest), "cosine": pytest.approx(-1)}
    assert {one["max_abs_difference"] for one in found["tensors"].values()} == {0.0}
    assert not found["config"]
    edit_config(hparams={"rank": 2})(b)
    assert difference(a, b)["config"]["hparams.rank"] == [1, 2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialSpec]:
    folder = tmp_path_factory.mktemp("work") / "results"
    spec = small.spec(rank=2)
    ResultsStore(folder, create=True).append(run_pack([spec, small.spec(rank=4)], {}))
    return folder, spec


def test_the_commands(store: tuple[Path, TrialSpec]) -> None:
    folder, spec = store

    def call(*args: object, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["adapters", *map(str, args)])
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout if code == 0 else done.output + str(done.exception)

    where = Path(call("save", spec.trial_id[:12], "--results", folder).strip())
    assert where == folder / "adapters" / spec.trial_id
    assert "is already there" in call("save", spec.trial_id, "--results", folder, code=1)
    row = next(row for row in ResultsStore(folder).read().results if row.trial_id == spec.trial_id)
    (line,) = json.loads(call("ls", "--results", folder, "--format", "json"))
    assert line["test_score"] == row.metrics["test_score"]
    assert line["parameters"] == row.metrics["trainable_params"]
    outcome = json.loads(call("load", where, "--format", "json"))
    assert outcome["test_score"] == row.metrics["test_score"]
    assert outcome["untouched_test_score"] == row.metrics["untouched_test_score"]
    assert "test score on 400 rows of digits_shifted" in call("load", where)
    call("merge", where, folder / "adapters" / "merged")
    merged = json.loads(call("load", folder / "adapters" / "merged", "--format", "json"))
    assert merged["test_score"] == row.metrics["test_score"]
    assert merged["parameters"] == outcome["base_params"]
    assert "blocks.0.0.a" in call("diff", where, where)
    assert "1.0000" in call("diff", where, where)
    shutil.copytree(where, folder / "adapters" / "torn")
    rewrite(lambda b: b[:-1])(folder / "adapters" / "torn")
    listing = call("ls", "--results", folder, code=1)
    assert "Damaged: " in listing
    assert "torn/adapter_model.safetensors" in listing
    assert "no trial whose id begins with 'zz'" in call("save", "zz", "--results", folder, code=1)


def test_what_a_pack_of_two_kept_is_what_each_alone_would_keep(tmp_path: Path) -> None:
    from sweeper.adapters import Keeper

    specs = [small.spec(rank=2), small.spec(rank=4)]
    keeper = Keeper(tmp_path / "pack", overwrite=False)
    run_pack(specs, {}, keeper)
    assert keeper.refused is None
    for spec in specs:
        run_pack([spec], {}, Keeper(tmp_path / "alone", overwrite=False))
        found = difference(tmp_path / "pack" / spec.trial_id, tmp_path / "alone" / spec.trial_id)
        assert not found["shapes"]
        assert max(one["max_abs_difference"] for one in found["tensors"].values()) < 1e-4


def test_a_sweep_keeps_what_each_of_its_trials_learned(tmp_path: Path) -> None:
    specs = [small.spec("lora", rank=rank) for rank in (2, 4)]
    keeper = Keeper(tmp_path, overwrite=False)
    rows = run_pack(specs, {}, keeper)
    assert keeper.refused is None
    assert {line.name: line.test_score for line in listed(tmp_path)} == {
        row.trial_id: row.metrics["test_score"] for row in rows
    }
