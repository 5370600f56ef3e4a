"""LoRA: low-rank updates of frozen linear layers and convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel, generators
from sweeper.spec import Json
from sweeper.strategies.base import LATER, Stage, check_above_zero, check_whole
from sweeper.strategies.low_rank import LowRank, MemberDropout, check_dropout, check_rank, check_targets, is_full

SCALINGS: Mapping[str, Callable[[float], float]] = {"standard": float, "rslora": math.sqrt}
INITS = ("standard", "pissa")
FORMS = ("added", "parametrized")


@dataclass(frozen=True)
class Lora:
    """Train W + (alpha / rank) B A instead of W (arXiv 2106.09685, section 4.1).

    Formula: ``y = W x + (alpha / rank) B A x, where A and B train``.

    A starts as `nn.Linear` does and B at zero, so training begins at the pretrained function. The base
    stays frozen, the head too unless it is fresh. With alpha held, the best learning rate hardly
    depends on the rank, which is why the default is a constant (Schulman et al., "LoRA Without
    Regret", 2025).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update is multiplied by ``alpha / rank``.
        scaling: "standard" divides alpha by the rank, "rslora" by its square root, so that high ranks learn
            as fast as low ones (arXiv 2312.03732, section 3).
        b_rate: Factor on the learning rate of B; LoRA+ takes 16 (arXiv 2402.12354, section 4).
        targets: Which layers, as roles joined by "+" (`LoadedModel.targets`); "all" is the advice of
            QLoRA (arXiv 2305.14314, section 4).
        dropout: Share of the low-rank term's inputs that training drops (QLoRA, appendix A.1, tries 0 to 0.1).
        init: "pissa" starts A and B at the weight's largest singular triples, and trains what matters most
            first (arXiv 2404.02948, section 3); training begins at the pretrained function all the same.
        dora: Whether to train each output's magnitude beside the direction of its weights, which pays at
            low ranks (arXiv 2402.09353, section 4).
        form: "added" computes the low-rank term beside the layer; "parametrized" forms each member's whole
            weight (`torch.nn.utils.parametrize`), the same function at more memory a member.

    The space is these papers': each of their variants on and off.
    """

    name: ClassVar[str] = "lora"
    per_member: ClassVar[frozenset[str]] = frozenset({"rank", "alpha", "scaling", "b_rate", "dropout", "init"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "rank": (1, 2, 4, 8, 16, 32),
        "scaling": tuple(SCALINGS),
        "b_rate": (1.0, 16.0),
        "dropout": (0.0, 0.05, 0.1),
        "init": INITS,
        "dora": (False, True),
        "lr": (1e-3, 3e-3, 1e-2),
    }

    rank: int = 8
    alpha: float = 16.0
    targets: str = "all"
    scaling: str = field(default="standard", metadata=LATER)
    b_rate: float = field(default=1.0, metadata=LATER)
    dropout: float = field(default=0.0, metadata=LATER)
    init: str = field(default="standard", metadata=LATER)
    dora: bool = field(default=False, metadata=LATER)
    form: str = field(default="added", metadata=LATER)

    def __post_init__(self) -> None:
        check_whole("lora.rank", self.rank)
        object.__setattr__(self, "alpha", check_above_zero("lora.alpha", self.alpha))
        object.__setattr__(self, "b_rate", check_above_zero("lora.b_rate", self.b_rate))
        object.__setattr__(self, "dropout", check_dropout("lora.dropout", self.dropout))
        check_targets("lora.targets", self.targets)
        for name, known in (("scaling", SCALINGS), ("init", INITS), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"lora.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.dora, bool):
            raise ValueError(f"lora.dora must be true or false, got {self.dora!r}")
        if self.dropout and self.form == "parametrized":
            raise ValueError(
                f"lora.dropout {self.dropout} drops inputs of a term that lora.form 'parametrized' has not: "
                "take form 'added', or dropout 0"
            )

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Put a low-rank term beside each target."""
        paths = model.targets(self.targets)
        ranks = [member.rank for member in members]
        principal = [member.init == "pissa" for member in members]
        check_rank("lora", {path: model.get(path) for path in paths}, max(ranks), each=any(principal))
        for path in paths:
            if (any(principal) or self.dora or self.form == "parametrized") and not is_full(model.get(path)):
                raise ValueError(
                    f"lora.init 'pissa', lora.dora and lora.form 'parametrized' need the whole weight, and {path!r} is "
                    "a grouped or specially padded convolution: leave these as they are, or take other lora.targets"
                )
        scales = [member.alpha / SCALINGS[member.scaling](member.rank) for member in members]
        rngs = generators(model.seeds, "lora")
        dropout = MemberDropout([member.dropout for member in members], model.seeds)
        parametrized = self.form == "parametrized"
        for path in paths:
            layer = LowRank(model.get(path), ranks, scales, rngs, principal, dropout, self.dora, parametrized)
            model.attach(path, layer)
        if model.head_is_fresh and model.head not in paths:
            model.wake_fresh_head()
        factors = [member.b_rate for member in members]
        yield Stage(rates={f"{path}.b": factors for path in paths})
