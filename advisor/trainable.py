"""What a strategy trains on a model, and where it attaches: counts that trials, peft and papers agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from advisor.shapes import Linear, ModelShape


@dataclass(frozen=True)
class Trained:
    """What trains, what is saved for it, and how far back gradients go.

    Attributes:
        base: Parameters of the model itself that train, a fresh head among them.
        added: New parameters.
        kept: Parameters that are written to disk, where not all that train.
        reach: Share of the blocks that gradients go back through.
        weights: Share of the blocks whose weights train, and need their inputs for it.
        inputs: Widths of the linears' inputs that low-rank terms read and keep, summed.
        shared: The same with inputs that several linears read counted once.
        outputs: Widths of what is kept of outputs and scaled vectors, summed.
        dense: Values that are kept once a step, whatever the batch: matrices as large as weights, formed anew; the
            block with most of them has ``dense_block``, and while they are formed ``forming`` more.
        stored: Values that stay in memory beside the model and never train.
        virtual: Tokens put before those of a row.
        prefix: Keys and values put before those of a row, in each layer.
        norms: Whether the normalisations' scales train.
        attached: How many linears something stands beside.
    """

    base: float = 0
    added: float = 0
    kept: float | None = None
    reach: float = 1
    weights: float = 0
    inputs: float = 0
    shared: float = 0
    outputs: float = 0
    dense: float = 0
    dense_block: float = 0
    forming: float = 0
    stored: float = 0
    virtual: int = 0
    prefix: int = 0
    norms: bool = False
    attached: float = 0

    @property
    def params(self) -> float:
        """All that trains."""
        return self.base + self.added


# Ours -> the names that peft and papers have for the same hyperparameter.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "rank": ("rank", "init_r", "r"),
    "dora": ("dora", "use_dora"),
    "virtual_tokens": ("virtual_tokens", "num_virtual_tokens"),
    "hidden": ("hidden", "encoder_hidden_size"),
}
STRATEGIES: Mapping[str, str] = {
    "ln_tuning": "norm_tuning",
    "beft": "bitfit",
    "probe_then_full": "full",
    "gradual_unfreeze": "partial_unfreeze",
    "domain_adaptation": "partial_unfreeze",
    "qlora": "lora",
    "dora": "lora",
}

# Methods of peft whose update is a matrix as large as the weight, formed anew in each step: by products (LoKr, LoHa,
# arXiv 2309.14859; RandLoRA, arXiv 2502.00987; HiRA; FRoD) or by a transform (FourierFT, arXiv 2405.03003; WaveFT). The
# latter and LoHa hold twice as much again while they form it: complex numbers, or two factors of full size.
FORM_WEIGHTS = frozenset({"lokr", "loha", "randlora", "hira", "frod", "fourierft", "waveft"})
FORM_TWICE = frozenset({"loha", "fourierft", "waveft"})
# HRA forms a matrix of the inputs' width squared for each reflection (arXiv 2405.17484), BOFT keeps permutations of
# that size (arXiv 2311.06243), and OSF every linear's singular vectors in float32 (arXiv 2504.07097).


def trained(strategy: str, hparams: Mapping[str, Any], shape: ModelShape) -> Trained:
    """Return what a strategy trains; a name that is not known is taken for a method like LoRA.

    ``hparams`` may say ``trainable_params`` (a count) or ``trainable_fraction`` (of the model) where that is known.

    Raises:
        ValueError: the model has nothing that the strategy trains, or a hyperparameter is no number above 0.
    """
    strategy = strategy.removeprefix("peft:")
    own = _Own(strategy, hparams, shape)
    found = RULES.get(STRATEGIES.get(strategy, strategy), _like_lora)(own)
    count = hparams.get("trainable_params")
    if count is None and hparams.get("trainable_fraction") is not None:
        count = own.number("trainable_fraction", 0.0) * shape.params
    if count is not None and found.added:
        return replace(found, base=0, added=float(count), kept=float(count))
    return found


def is_known(strategy: str) -> bool:
    """Return whether a strategy has a rule of its own here."""
    strategy = strategy.removeprefix("peft:")
    return STRATEGIES.get(strategy, strategy) in RULES


@dataclass(frozen=True)
class _Own:
    """A strategy with its hyperparameters on a model."""

    strategy: str
    hparams: Mapping[str, Any]
    shape: ModelShape

    def number(self, name: str, default: float) -> float:
        names = ALIASES.get(name, (name,))
        value = next((self.hparams[own] for own in names if self.hparams.get(own) is not None), default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ValueError(f"{self.strategy}.{name} must be a number above 0, got {value!r:.50}")
        return value

    def is_on(self, name: str) -> bool:
        return any(bool(self.hparams.get(own)) for own in ALIASES.get(name, (name,)))

    def targets(self, default: str) -> list[Linear]:
        chosen = self.hparams.get("targets", default)
        found = list(self.shape.targets(str(chosen)))
        if not found:
            roles = ", ".join(sorted({linear.role for linear in self.shape.linears}))
            raise ValueError(f"{self.strategy}.targets {chosen!r:.80} names no role of this model. Available: {roles}")
        return found


def shared(linears: Iterable[Linear]) -> float:
    """Return the widths of inputs, those that several linears of a block read counted once."""
    widths: dict[str, float] = {}
    for linear in linears:
        place = {"query": "qkv", "key": "qkv", "value": "qkv"}.get(linear.role, linear.role)
        widths[place] = max(widths.get(place, 0), linear.inputs * linear.count)
    return sum(widths.values())


def _head(shape: ModelShape) -> float:
    """Return the parameters of the layer that puts out: the fresh head, or the vocabulary's."""
    return shape.head or shape.vocab * shape.hidden


def _full(own: _Own) -> Trained:
    return Trained(base=own.shape.params, weights=1, norms=True)


def _feature_extraction(own: _Own) -> Trained:
    return Trained(base=_head(own.shape), reach=_reach(own.shape, 0))


def _reach(shape: ModelShape, share: float) -> float:
    """Return how far gradients go back: all the way where the head is the token table, which then trains as well."""
    return 1 if shape.tied and shape.kind in ("causal", "encoder_decoder") else share


def _partial_unfreeze(own: _Own) -> Trained:
    shape = own.shape
    default = 2 if own.strategy == "gradual_unfreeze" else 1
    blocks = min(own.number("blocks", default), shape.layers)
    biases = sum(linear.outputs * linear.count for linear in shape.linears if linear.bias)
    in_blocks = (shape.norms // shape.layers) * shape.layers / shape.norms if shape.norms else 0
    each = (shape.in_blocks + biases + in_blocks * (shape.norm_params + shape.norm_biases)) / shape.layers
    share = blocks / shape.layers
    base = min(shape.params, blocks * each + _head(shape))
    return Trained(base=base, reach=_reach(shape, share), weights=share, norms=True)


def _bitfit(own: _Own) -> Trained:
    shape = own.shape
    biases = sum(linear.outputs * linear.count for linear in shape.linears if linear.bias)
    biases += shape.norm_biases + shape.other_biases
    if own.strategy == "beft":  # adds a shift where there is none
        biases = sum(linear.outputs * linear.count for linear in own.targets("value"))
        return Trained(added=biases, base=shape.head)
    if not biases:
        raise ValueError(f"bitfit trains biases, and this model has none ({shape.said_by}): take another strategy")
    return Trained(base=biases + shape.head)


def _norm_tuning(own: _Own) -> Trained:
    shape = own.shape
    if not shape.norm_params:
        raise ValueError(
            "norm_tuning trains the scales of normalisations, and none are known of this model "
            f"({shape.said_by}): take another strategy"
        )
    return Trained(base=shape.norm_params + shape.norm_biases + shape.head, norms=True)


def _lora(own: _Own) -> Trained:
    return _low_rank(own, "all")


def _like_lora(own: _Own) -> Trained:
    """Take a method that is not known for LoRA on query and value, which is peft's default for most."""
    known = {linear.role for linear in own.shape.linears}
    return _low_rank(own, "query+value" if known & {"query", "qkv"} else "all")


def _low_rank(own: _Own, default: str) -> Trained:
    targets, rank = own.targets(default), own.number("rank", 8)
    added = sum(rank * (linear.inputs + linear.outputs) * linear.count for linear in targets)
    outputs = rank * sum(linear.count for linear in targets)
    dense, dense_block = _formed(own, targets, rank)
    stored = sum(lin.inputs**2 * lin.count for lin in targets) if own.strategy == "boft" else 0.0
    if own.strategy == "osf":
        every = own.shape.linears
        stored = sum(min(lin.inputs, lin.outputs) * (lin.inputs + lin.outputs) * lin.count for lin in every)
    if own.is_on("dora") or own.strategy == "dora":
        added += sum(linear.outputs * linear.count for linear in targets)
        outputs += 2 * sum(linear.outputs * linear.count for linear in targets)
    return Trained(
        base=own.shape.head,
        added=added,
        inputs=sum(linear.inputs * linear.count for linear in targets),
        shared=shared(targets),
        outputs=outputs,
        dense=dense,
        dense_block=dense_block,
        forming=2 * dense_block if own.strategy in FORM_TWICE else 0,
        stored=stored,
        attached=sum(linear.count for linear in targets),
    )


def _formed(own: _Own, targets: Iterable[Linear], rank: float) -> tuple[float, float]:
    """Return the values of matrices that are formed in a step, of all blocks and of the block with most."""
    sizes = {True: 0.0, False: 0.0}  # FLUX has blocks of two kinds
    for lin in targets:
        size = lin.inputs * lin.outputs if own.strategy in FORM_WEIGHTS else 0.0
        size += rank * lin.inputs**2 if own.strategy == "hra" else 0.0
        sizes[lin.role.startswith("joint")] += size * lin.count
    joint = sum(lin.count for lin in own.shape.linears if lin.role == "joint_out")
    blocks = {True: joint, False: own.shape.layers - joint}
    return sum(sizes.values()), max(sizes[kind] / blocks[kind] for kind in sizes if blocks[kind] > 0)


def _adapter(own: _Own) -> Trained:
    shape, width = own.shape, own.number("bottleneck", 16)
    places = shape.layers * (2 if own.hparams.get("placement") == "houlsby" else 1)
    added = places * (2 * shape.hidden * width + width + shape.hidden)
    kept = places * shape.hidden
    outputs = 2 * places * width
    return Trained(shape.head, added, inputs=kept, shared=kept, outputs=outputs, attached=places)


def _prompt_tuning(own: _Own) -> Trained:
    tokens = own.number("virtual_tokens", 20)
    return Trained(base=own.shape.head, added=tokens * own.shape.hidden, virtual=int(tokens))


def _p_tuning(own: _Own) -> Trained:
    tokens, width = own.number("virtual_tokens", 20), own.shape.hidden
    inner = own.number("hidden", 128)
    encoder = (width * inner + inner) + (inner * inner + inner) + (inner * width + width)
    kept = tokens * width + own.shape.head
    return Trained(base=own.shape.head, added=tokens * width + encoder, kept=kept, virtual=int(tokens))


def _prefix_tuning(own: _Own) -> Trained:
    tokens, shape = own.number("virtual_tokens", 20), own.shape
    layers = shape.layers / 2 if shape.kind == "encoder_decoder" else shape.layers  # the decoder's own
    return Trained(base=shape.head, added=2 * tokens * layers * shape.kv, prefix=int(tokens))


def _ia3(own: _Own) -> Trained:
    known = {linear.role for linear in own.shape.linears}
    targets = own.targets("key+value+mlp_out" if known & {"key", "qkv"} else "all")
    added = sum((lin.inputs if lin.role == "mlp_out" else lin.outputs) * lin.count for lin in targets)
    count = sum(linear.count for linear in targets)
    return Trained(base=own.shape.head, added=added, outputs=added, attached=count)


RULES: Mapping[str, Callable[[_Own], Trained]] = {
    "full": _full,
    "feature_extraction": _feature_extraction,
    "partial_unfreeze": _partial_unfreeze,
    "bitfit": _bitfit,
    "beft": _bitfit,
    "norm_tuning": _norm_tuning,
    "lora": _lora,
    "adapter": _adapter,
    "prompt_tuning": _prompt_tuning,
    "p_tuning": _p_tuning,
    "prefix_tuning": _prefix_tuning,
    "ia3": _ia3,
}
