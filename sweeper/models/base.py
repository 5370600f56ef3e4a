"""A loaded network and its anatomy: the places that a strategy may attach to, named by role."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sweeper.errors import NotApplicableError as NotApplicableError
from sweeper.errors import UnavailableError as UnavailableError
from sweeper.members import MemberLinear, narrow, split, widen
from sweeper.suggest import no_such
from sweeper.work import CLASSIFICATION, GENERATION, WORK

Generators = list[torch.Generator]

TEXTS: tuple[int, ...] = ()
"""The ``input_shape`` of rows that are texts, which a model encodes by itself."""


def kind(input_shape: tuple[int, ...]) -> str:
    """Return in words what rows of a shape are."""
    if not input_shape:
        return "texts"
    return f"{' x '.join(map(str, input_shape))} numbers"


Encode = Callable[[Sequence[Any], Tensor], tuple[Tensor, Tensor]]
"""From rows as they stand in a `Split` (``texts``, ``y``) to token ids ``(rows, tokens)`` and the labels to them."""


@dataclass(frozen=True)
class Writing:
    """How a language model's answers are written, token by token (`sweeper.generation.greedy`).

    Attributes:
        begin: From prompts and how many tokens there must be room for to rows ``x`` as the network reads them, and
            the places ``(rows,)`` of the outputs that predict the first token.
        shift: The token that the output at place t predicts stands in column ``t + shift`` of ``x``.
        ends: Tokens after which an answer is over.
        pad: The token that fills rows.
        text: From token ids to the text.
    """

    begin: Callable[[Sequence[str], int], tuple[Tensor, Tensor]]
    shift: int
    ends: frozenset[int]
    pad: int
    text: Callable[[Sequence[int]], str]


def derived_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose of a trial, so that no two purposes draw the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "big")


def generators(seeds: Sequence[int], purpose: str) -> Generators:
    """Return one random generator for each member's seed."""
    return [torch.Generator().manual_seed(derived_seed(seed, purpose)) for seed in seeds]


class Addition(Protocol):
    """A module that a strategy added, which can be switched off."""

    enabled: bool

    def own_params(self, member: int) -> int:
        """Return how many parameters of it train for one member, padding left out."""
        ...

    def extra_params(self, member: int) -> int:
        """Return by how many of them one member's network grows: none where they replace others."""
        ...

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the tensors that train, all members in one."""
        ...

    def merged(self, member: int) -> nn.Module | None:
        """Return a plain module that computes the same for one member; ``None`` where there is none."""
        ...


class Beside(nn.Module):
    """A module that stands in the place of its child ``base``; what it lacks, such as a weight, is the base's."""

    base: nn.Module

    def __getattr__(self, name: str) -> Any:
        """Return a parameter, buffer or child of this module, else the base's attribute."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(super().__getattr__("base"), name)


@dataclass(frozen=True)
class KeyValues:
    """The shape of the keys and values that each attention layer can be given beside its own.

    Attributes:
        layers: Attention layers.
        heads: Key and value heads of each.
        width: Features of a head.
    """

    layers: int
    heads: int
    width: int


class NoKeyValues(nn.Module):
    """The place, a network's child ``key_values``, where a strategy may put keys and values for each layer."""

    def forward(self, rows: int) -> list[tuple[Tensor, Tensor]] | None:
        """Return a key and a value ``(rows, heads, tokens, width)`` for each layer; here there are none."""
        return None


@dataclass
class LoadedModel:
    """A network, frozen until a strategy wakes parts of it, and where its parts are.

    All places are module paths as in ``network.get_submodule``. The network maps inputs
    ``(members * batch, ...)`` to logits ``(members * batch, classes)``.

    Attributes:
        head: The last linear layer.
        blocks: The repeated stages between embedding and head, first to last.
        widths: Features (channels) that each block puts out.
        roles: Path -> role, for each linear and convolution inside the blocks: "query", "key",
            "value", "qkv" (the three fused), "attn_out", "mlp_in", "mlp_out", "linear" or "conv".
        embedding: The module that turns raw input into features; ``None`` where there is none.
        head_is_fresh: Whether the head is newly initialised, so that every strategy must train it.
        before_head: Linear layers right before the head that came without pretrained weights: they are
            fresh where the head is.
        key_values: For a network with a child ``key_values``: what attention may be given there.
        spare_tokens: How many tokens may stand beside those of the rows; ``None`` for no limit.
        encode: For a model that reads texts (`Encode`).
        writing: For a model that writes texts.
        work: What it is to do, a name in `sweeper.work.WORK`.
        labels: Names of classes or tags, by their number.
        weights: Which pretrained weights, where a network has several versions of them.
        channels_last: Whether blocks put out images as ``(batch, height, width, channels)``, not channels first.
        seeds: One seed for each member.
        quantised: Whether a strategy put approximations in the place of frozen weights.
    """

    network: nn.Module
    head: str
    blocks: tuple[str, ...]
    widths: tuple[int, ...]
    roles: Mapping[str, str]
    embedding: str | None = None
    head_is_fresh: bool = False
    before_head: tuple[str, ...] = ()
    key_values: KeyValues | None = None
    spare_tokens: int | None = None
    encode: Encode | None = None
    writing: Writing | None = None
    channels_last: bool = False
    seeds: tuple[int, ...] = (0,)
    quantised: bool = False
    work: str = CLASSIFICATION
    labels: tuple[str, ...] = ()
    weights: str | None = None
    switches: list[Addition] = field(default_factory=list)
    """What a strategy added beside the loaded network."""
    prefix: Replays | None = None
    """What was computed once of a part that stays as it is."""

    def __post_init__(self) -> None:
        self.network.requires_grad_(False).eval()
        self.loaded_params = sum(p.numel() for p in self.network.parameters())

    @property
    def members(self) -> int:
        """How many trials train together."""
        return len(self.seeds)

    def get(self, path: str) -> nn.Module:
        """Return the module at a path."""
        return self.network.get_submodule(path)

    def beside(self) -> LoadedModel:
        """Return a model of one member that shares this one's tensors, and that a strategy may adapt by itself.

        As it was loaded, this one must be frozen: that stays true, and its tensors are never written.
        """
        shared = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        return replace(self, network=copy.deepcopy(self.network, shared), switches=[], seeds=(0,))

    def one(self, network: nn.Module | None = None) -> LoadedModel:
        """Return this model as one member's; with another network, as one without additions."""
        view = copy.copy(self)
        view.seeds = self.seeds[:1]
        if network is not None:
            view.network, view.switches, view.prefix = network, [], None
        return view

    def replace(self, path: str, module: nn.Module) -> None:
        """Put a module at a path, in place of the one that stands there."""
        parent, _, name = path.rpartition(".")
        setattr(self.network.get_submodule(parent), name, module)

    def attach(self, path: str, addition: Addition) -> None:
        """Put a module that wraps the one at a path in its place, so that it can be switched off."""
        assert isinstance(addition, nn.Module)
        self.replace(path, addition)
        self.switches.append(addition)

    def wake(self, path: str) -> None:
        """Let everything at a path train, each member its own copy; the empty path is the whole network."""
        tokens = None if self.embedding is None else self.get(self.embedding)
        module = widen(self.get(path), self.members, tokens)
        if path:
            self.replace(path, module)
        else:
            self.network = module
        module.requires_grad_(True)

    def wake_fresh_head(self) -> None:
        """Replace the head by a newly initialised one for each member, and let it train.

        A language model keeps its own, a copy for each member: it is of use whatever the texts.
        """
        rngs = generators(self.seeds, "head")
        for path in (self.head, *self.before_head):
            self.wake(path)
            if self.work == GENERATION:
                continue
            layer = self.get(path)
            assert isinstance(layer, MemberLinear)
            initialise(layer, rngs)

    def not_applicable(self, strategy: str, reason: str) -> NotApplicableError:
        """Return the error that a strategy raises, before it changes anything, where it makes no sense here."""
        return NotApplicableError(f"{strategy} does not apply: {reason}")

    def targets(self, selection: str) -> list[str]:
        """Return the paths of linears and convolutions that a selection names.

        Args:
            selection: Roles joined by "+", for example ``"query+value"``; "all" is every linear and
                convolution inside the blocks, "head" the head.

        Raises:
            ValueError: a name is no role of this model.
        """
        named: list[str] = []
        for name in selection.split("+"):
            if name == "all":
                paths = list(self.roles)
            elif name == "head":
                paths = [self.head]
            else:
                # A fused layer is the query's, the key's and the value's.
                fused = "qkv" if name in ("query", "key", "value") else name
                paths = [path for path, role in self.roles.items() if role in (name, fused)]
            if not paths:
                raise no_such("role", name, ["all", "head", *self.roles.values()], " in this model")
            named += paths
        return [*dict.fromkeys(named)]

    def merged(self, member: int) -> nn.Module | None:
        """Return one member's network with what was added folded into plain layers.

        It is shaped like the network as it was loaded and shares its frozen tensors. ``None`` where
        something that was added is no plain layer.
        """
        return narrow(self.network, member)

    def switch(self, on: bool) -> None:
        """Switch what a strategy added on or off; off, and with a frozen base, this is the network as loaded."""
        for module in self.switches:
            module.enabled = on

    @property
    def can_switch_off(self) -> bool:
        """Whether switching off gives back the loaded network.

        All that trains is in switchable modules then, and what is frozen is as it was loaded.
        """
        if self.quantised:
            return False
        added = {id(p) for module in self.switches for p in module.own_parameters()}
        return bool(added) and all(id(p) in added for p in self.network.parameters() if p.requires_grad)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train now, by name.

        Each has the member axis first, or belongs to one member alone (`member_of`).
        """
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def params_of(self, member: int, tensors: Iterable[nn.Parameter]) -> int:
        """Return how many parameters of these tensors are one member's, padding left out."""
        chosen = {id(p): p for p in tensors}
        own = 0
        for module in self.switches:
            mine = [id(p) for p in module.own_parameters()]
            if all(p in chosen for p in mine):
                own += module.own_params(member)
                for p in mine:
                    del chosen[p]
        return own + sum(p.numel() for p in chosen.values()) // self.members

    def trainable_params(self, member: int) -> int:
        """Return how many parameters of a member train now."""
        return self.params_of(member, self.trainable().values())

    def total_params(self, member: int) -> int:
        """Return how many parameters the loaded network and a member's additions have."""
        return self.loaded_params + sum(module.extra_params(member) for module in self.switches)

    def logits(self, x: Tensor) -> Tensor:
        """Return ``(members, batch, classes)`` for inputs ``(members * batch, ...)``."""
        outputs = self.prefix.replay(x) if self.prefix is not None else None
        return split(self.network(x) if outputs is None else outputs, self.members)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return each member's loss, ``(members,)``, for what `logits` gave and labels ``(members, batch, ...)``."""
        return WORK[self.work].loss(outputs, y)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head reads, ``(members, batch, ..., width)``, and `logits`."""
        read: list[Tensor] = []
        hook = self.get(self.head).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
        try:
            logits = self.logits(x)
        finally:
            hook.remove()
        return split(read[0], self.members), logits


class Replays(Protocol):
    """Activations at a cut, from which the rest of a network goes on (`sweeper.prefix`)."""

    before: tuple[str, ...]

    def of(self, split: Any) -> Tensor | None:
        """Return the activations of a split's rows."""
        ...

    def remember(self, x: Tensor, activations: Tensor) -> None:
        """Tie activations to the very tensor of inputs that they belong to."""
        ...

    def replay(self, x: Tensor) -> Tensor | None:
        """Return what the network puts out for such inputs; ``None`` for others."""
        ...


class ModelBuilder(Protocol):
    """Builds a network for inputs of one shape; for random weights, the seed decides them."""

    def __call__(
        self, input_shape: tuple[int, ...], n_classes: int, seed: int, work: str = CLASSIFICATION
    ) -> LoadedModel:
        """Return the network.

        Args:
            input_shape: The shape of one row's input; `TEXTS` for texts.
            n_classes: How many classes or tags; 1 for regression, 0 for generation.
            seed: Of random weights.
            work: A name in `sweeper.work.WORK`.

        Raises:
            NotApplicableError: rows of this shape, or this work, are nothing for this network.
        """
        ...


def check_work(model: str, work: str, *can: str) -> None:
    """Raise NotApplicableError unless a model can do this work."""
    if work not in can:
        raise NotApplicableError(f"{model} is for {' and '.join(can)}, not for {work}")


def initialise(layer: MemberLinear, rngs: Generators) -> None:
    """Draw each member's weight and bias anew, as `nn.Linear` does."""
    bound = layer.weight.shape[-1] ** -0.5
    with torch.no_grad():
        for k, rng in enumerate(rngs):
            for p in (layer.weight, layer.bias):
                if p is not None:  # drawn on the CPU: the same numbers on every device
                    p[k] = torch.empty(p.shape[1:]).uniform_(-bound, bound, generator=rng)


Made = TypeVar("Made")


def seeded(seed: int, make: Callable[[], Made]) -> Made:
    """Return what ``make`` builds from freshly seeded weights, the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        return make()
