"""Ask what was fine-tuned: from an adapter's folder to answers, as the trial that made it would give them.

from sweeper.predict import load

load("results/adapters/3f9a0c51d2e4b678").predict(["a film that one sees twice"])
# [{'label': 'kind', 'score': 0.98}]
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweeper.adapter_facts import Facts
from sweeper.adapters import load_adapter, opened
from sweeper.generation import greedy
from sweeper.models import find_model
from sweeper.models.base import LoadedModel
from sweeper.models.language import MAX_ANSWER
from sweeper.signature import Signature, signature_of, tokens_digest
from sweeper.spec import TrialSpec
from sweeper.tasks.files import as_number
from sweeper.tasks.pictures import Picture, decode
from sweeper.work import GENERATION, IGNORED, REGRESSION, TAGGING

ROWS_AT_ONCE = 64
HALF_SIGN = re.compile(r"[\ud800-\udfff]")
"""What JSON can hold, and UTF-8 cannot."""

Answer = dict[str, Any]
"""``{"label": ..., "score": ...}``; for regression ``{"value": ...}``, for generation ``{"text": ...}``, for tagging
``{"words": [{"word": ..., "label": ..., "score": ...}, ...]}`` as far as the model reads."""


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model with all that it needs to be asked.

    Attributes:
        facts: What its folder says of it.
        signature: What it reads and answers.
        model: Its network; frozen tensors are shared with others on the same base.
        lock: Held while it computes: tokenizers are not for several threads at once.
    """

    facts: Facts
    signature: Signature
    model: LoadedModel
    lock: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, inputs: Sequence[Any], patience: float = -1) -> list[Answer]:
        """Return an answer to each input.

        Args:
            inputs: Texts (for tagging also lists of words); images as a `Path` or as the bytes of a file; for tables
                a mapping from columns to values, or the list of the values.
            patience: Seconds to wait while another thread computes; -1 is for ever.

        Raises:
            ValueError: an input is nothing that it reads.
            TimeoutError: its turn did not come.
        """
        if not self.lock.acquire(timeout=patience):
            raise TimeoutError(f"its turn did not come within {patience:g} seconds")
        try:
            starts = range(0, len(inputs), ROWS_AT_ONCE)
            return [one for start in starts for one in self._some(inputs[start : start + ROWS_AT_ONCE], start)]
        finally:
            self.lock.release()

    def _some(self, inputs: Sequence[Any], before: int) -> list[Answer]:
        modality, work = self.signature.modality, self.signature.work
        if modality != "text":
            read = _image if modality == "image" else _row
            return self._decided(self._outputs(_each(read, inputs, self.signature, before)))
        rows = _each(_words if work == TAGGING else _text, inputs, self.signature, before)
        if work == GENERATION:
            (written,) = greedy(self.model, rows, MAX_ANSWER)
            return [{"text": text} for text in written]
        assert self.model.encode is not None
        if work == TAGGING:
            return self._tagged(rows)
        return self._decided(self._outputs(self.model.encode(rows, torch.zeros(len(rows)))[0]))

    @torch.inference_mode()
    def _outputs(self, x: Tensor) -> Tensor:
        device = next(self.model.network.parameters()).device
        return self.model.logits(x.to(device))[0].cpu()

    def _decided(self, outputs: Tensor) -> list[Answer]:
        if self.signature.work == REGRESSION:
            return [{"value": self.signature.zero + self.signature.unit * value} for value in outputs[:, 0].tolist()]
        best = outputs.softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"label": self.signature.label(number), "score": score} for number, score in pairs]

    def _tagged(self, rows: Sequence[tuple[str, ...]]) -> list[Answer]:
        assert self.model.encode is not None
        # For labels its words' numbers: they come back where the first piece of each word stands.
        numbers = torch.arange(max(map(len, rows))).expand(len(rows), -1)
        ids, word_of = self.model.encode(rows, numbers)
        outputs = self._outputs(ids)
        answers = []
        for words, places, own in zip(rows, word_of[:, : outputs.shape[1]], outputs, strict=True):
            told = self._decided(own[places != IGNORED])
            answers.append({"words": [{"word": word, **one} for word, one in zip(words, told, strict=False)]})
        return answers


def load(folder: str | Path) -> Predictor:
    """Return what answers from the adapter in a folder.

    Raises:
        ValueError: there is no adapter, it does not say enough of itself, or its base is not what it was.
    """
    return load_all({"it": Path(folder)})["it"]


def load_all(folders: Mapping[str, Path]) -> dict[str, Predictor]:
    """Return what answers from several adapters; those with the same base share it in memory."""
    bases, lock = _Bases(), threading.Lock()
    return {name: replace(_predictor(folder, bases), lock=lock) for name, folder in folders.items()}


class _Bases:
    """Networks that adapters are put on: tensors of the same name, place and value are there once."""

    def __init__(self) -> None:
        self.models: dict[tuple[Any, ...], LoadedModel] = {}
        self.tensors: dict[tuple[str, str], dict[str, Tensor]] = {}

    def of(self, facts: Facts, trial: TrialSpec, signature: Signature) -> LoadedModel:
        """Return the base of an adapter; the weights of a source model are trained again if they are not cached."""
        from_source = signature.has_source and facts.layout != "model"
        shape, work = signature.input_shape, signature.work
        key = (trial.model, shape, signature.n_classes, work, trial.seed, from_source and (trial.task, trial.n_train))
        if key not in self.models:
            if from_source:
                from sweeper.trial import untrained

                model, _ = untrained(trial, [trial.seed])
            else:
                model = find_model(trial.model)(shape, signature.n_classes, trial.seed, work)
                model.work = work
            model.head_is_fresh = facts.head_is_fresh
            model.network.to("cuda" if torch.cuda.is_available() else "cpu")
            known = self.tensors.setdefault((trial.model, facts.fingerprint), {})
            _share(model.network, known)
            self.models[key] = model
        return self.models[key]


def _share(network: nn.Module, known: dict[str, Tensor]) -> None:
    """Put known tensors in the place of equal ones of a network, and learn its others."""
    for path, module in network.named_modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    twin = known.setdefault(f"{path}.{name}", tensor)
                    if twin.shape == tensor.shape and torch.equal(twin, tensor):
                        table[name] = twin


def _predictor(folder: Path, bases: _Bases) -> Predictor:
    with opened(folder) as found:
        facts = found.facts
    if facts is None or facts.trial is None:
        raise ValueError(
            f"{folder} does not say what it reads and answers: only folders that `sweeper adapters save` or `sweeper "
            "launch --keep-weights` wrote can be asked"
        )
    trial, signature = facts.trial, facts.signature
    if signature is None:
        try:
            from sweeper.trial import untrained

            signature = signature_of(*untrained(trial, [trial.seed]))
        except ValueError as error:
            raise ValueError(
                f"{folder} is from before folders said what they read and answer, and its task is not here ({error}); "
                "`sweeper adapters save` writes it anew where the task is"
            ) from None
    base = bases.of(facts, trial, signature)
    if signature.tokens and signature.tokens != tokens_digest(base):
        raise ValueError(
            f"{folder} was trained with another tokenizer than {trial.model} has here: put back the files it had then"
        )
    return Predictor(facts, signature, load_adapter(folder, base, trial.model))


def _each(read: Any, inputs: Sequence[Any], signature: Signature, before: int) -> Any:
    """Return what `read` makes of each input, tensors in one; an error says which it was."""
    rows = []
    for number, value in enumerate(inputs, before + 1):
        try:
            rows.append(read(value, signature))
        except ValueError as error:
            raise ValueError(f"input {number}: {error}") from None
    return torch.stack(rows) if rows and isinstance(rows[0], Tensor) else rows


def _text(value: Any, signature: Signature) -> str:
    if not isinstance(value, str) or not value.strip() or HALF_SIGN.search(value):
        raise ValueError(f"a text is read here, got {_short(value)}: give one of whole signs that is not empty")
    return value


def _words(value: Any, signature: Signature) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(w, str) and w.strip() for w in words):
        raise ValueError(
            f"a sentence or a list of its words is read here, got {_short(value)}: give one that is not empty"
        )
    return tuple(_text(word, signature) for word in words)


def _image(value: Any, signature: Signature) -> Tensor:
    if not isinstance(value, bytes | Path):
        raise ValueError(f"an image is read here, got {_short(value)}: give its bytes, or the Path of its file")
    channels, height, width = signature.input_shape
    if height != width or channels not in (1, 3):
        raise ValueError(
            "images that are read from files must be square, grey or coloured; this model reads "
            f"{channels} x {height} x {width} numbers"
        )
    picture = Picture(file=value) if isinstance(value, Path) else Picture(content=value)
    images, bad, _ = decode([picture], height, channels == 1)
    if bad:
        which = f"{str(value)!r} is " if isinstance(value, Path) else ""
        raise ValueError(f"{which}{bad[0]}: give another, or leave it out")
    return torch.from_numpy(np.moveaxis(images[0], -1, 0).copy()).float() / 255


def _row(value: Any, signature: Signature) -> Tensor:
    """Return a row of a table as the network reads it; without knowledge of its columns, numbers as they are."""
    features, wanted = signature.features, signature.input_shape[0]
    columns = features.columns if features else {}
    if isinstance(value, Mapping) and columns:
        unknown = [name for name in value if name not in columns]
        missing = [name for name in columns if name not in value and not columns[name]]
        if unknown or missing:
            what = f"no column {unknown[0][:40]!r}" if unknown else f"no value for {missing[0][:40]!r}"
            raise ValueError(f"{what}: columns are {_short(', '.join(columns), 200)}; give each a value")
        numbers = [n for name, texts in columns.items() for n in _column(name, texts, value.get(name))]
    elif isinstance(value, list | tuple) and len(value) == len(columns or range(wanted)):
        pairs = zip(columns.items(), value, strict=True) if columns else ((("a number", ()), one) for one in value)
        numbers = [n for (name, texts), own in pairs for n in _column(name, texts, own)]
    else:
        known = f"an object with {_short(', '.join(columns), 200)}" if columns else f"a list of {wanted} numbers"
        raise ValueError(f"a row of a table is read here, which must be {known}, got {_short(value)}")
    row = np.array([numbers], np.float32)
    return torch.from_numpy(features.standardised(row) if features else row)[0]


def _column(name: str, texts: Sequence[str], value: Any) -> list[float]:
    """Return the features of one value."""
    if texts:
        if str(value) not in texts:
            raise ValueError(
                f"{name!r} is {_short(value)}, and in training it was one of {_short(', '.join(texts), 200)}: "
                "give one of these"
            )
        return [float(str(value) == one) for one in texts]
    number = as_number(value)
    if number is None or not abs(number) < float(np.finfo(np.float32).max):  # not for nan, too
        raise ValueError(f"{name!r} must be a finite number, got {_short(value)}")
    return [number]


def _short(value: Any, most: int = 60) -> str:
    text = value if most > 60 else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
