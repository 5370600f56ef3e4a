"""What an adapter's folder says about itself, and the fingerprint of the base that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from sweeper.models.base import LoadedModel
from sweeper.signature import Signature
from sweeper.spec import TrialSpec
from sweeper.strategies import STRATEGIES, Strategy, hparams_of
from sweeper.suggest import no_such

FORMAT, VERSION = "sweeper-adapter", 1
ANEW = "Copy or save the adapter anew"
LAYOUTS = ("parameters", "peft", "model")


@dataclass(frozen=True)
class Facts:
    """What a folder says about its tensors.

    Attributes:
        base: What messages call the base model, such as "minilm" or "hf:NAME".
        fingerprint: The base's (`fingerprint`).
        head_is_fresh: Whether the head came without pretrained weights, and so trained.
        trial: The spec, where a trial made it.
        scores: Name -> number, as in the trial's row.
        layout: "parameters", "peft" or "model".
        signature: What it reads and answers; ``None`` in folders from before that was kept.
    """

    strategy: str
    hparams: Mapping[str, Any]
    base: str
    fingerprint: str
    head_is_fresh: bool
    trial: TrialSpec | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    layout: str = "parameters"
    signature: Signature | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON values; `from_dict` is the way back."""
        return {"format": FORMAT, "format_version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], where: str) -> Facts:
        """Return the facts that `to_dict` wrote.

        Raises:
            ValueError: an unknown or missing key, a value of the wrong kind, a newer version.
        """
        if found.get("format") != FORMAT or found.get("format_version") != VERSION:
            raise ValueError(
                f"{where} has format {str(found.get('format'))[:40]!r}, version {found.get('format_version')!r:.9}: "
                f"read are {FORMAT!r}, version {VERSION}"
            )
        kinds: dict[str, Any] = {
            **dict.fromkeys(("strategy", "base", "fingerprint", "layout"), str),
            "head_is_fresh": bool,
        }
        kinds |= {"hparams": dict, "scores": dict, "trial": dict | None, "signature": dict | None}
        rest = {key: value for key, value in found.items() if key not in ("format", "format_version")}
        rest.setdefault("signature", None)
        for key in rest:
            if key not in kinds:
                raise no_such("key", key[:80], kinds, f" in {where}")
        for key, kind in kinds.items():
            if key not in rest or not isinstance(rest[key], kind):
                raise ValueError(f"{where}: {key} is {str(rest.get(key))[:80]!r}, which it cannot be. {ANEW}")
        if rest["layout"] not in LAYOUTS:
            raise ValueError(f"{where}: layout must be one of {', '.join(LAYOUTS)}, got {rest['layout'][:40]!r}")
        if not all(isinstance(value, int | float) for value in rest["scores"].values()):
            raise ValueError(f"{where}: scores must be numbers")
        try:
            trial = None if rest["trial"] is None else TrialSpec.from_dict(rest["trial"])
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{where}: trial is no trial ({' '.join(str(error).split())[:200]}). {ANEW}") from None
        signature = None if rest["signature"] is None else Signature.from_dict(rest["signature"], where)
        return cls(**{**rest, "trial": trial, "signature": signature})

    def build(self, where: str = "") -> Strategy:
        """Return the strategy; ValueError where there is no such strategy, or not with these hyperparameters."""
        if self.strategy not in STRATEGIES:
            raise no_such(
                "strategy", self.strategy[:80], STRATEGIES, f" for adapter files{' in ' + where if where else ''}"
            )
        try:
            return STRATEGIES[self.strategy](**self.hparams)
        except TypeError as error:
            raise ValueError(
                f"{where}: hparams are not those of {self.strategy} ({str(error)[:200]}). {ANEW}"
            ) from None


def facts_of(
    base: LoadedModel,
    name: str,
    strategy: Strategy,
    trial: TrialSpec | None = None,
    scores: Mapping[str, Any] | None = None,
    signature: Signature | None = None,
) -> Facts:
    """Return the facts about what a strategy trained on a base."""
    numbers = {
        key: value
        for key, value in (scores or {}).items()
        if isinstance(value, int | float) and (key.endswith("_score") or key in ("trainable_params", "forgetting"))
    }
    hparams = hparams_of(strategy)
    marks = fingerprint(base)
    return Facts(strategy.name, hparams, name, marks, base.head_is_fresh, trial, numbers, signature=signature)


def fingerprint(base: LoadedModel, head_is_fresh: bool | None = None) -> str:
    """Return the SHA-256 of a frozen base's tensors: names, kinds, shapes, bytes; a fresh head is left out."""
    fresh = base.head_is_fresh if head_is_fresh is None else head_is_fresh
    without = tuple(f"{path}." for path in (base.head, *base.before_head)) if fresh else ()
    digest = hashlib.sha256()
    for name, value in sorted(base.network.state_dict().items()):
        if not name.startswith(without) or not without:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
