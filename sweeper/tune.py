"""Ray Tune schedules packs of trials. Besides, `sweeper.plan` and `sweeper.submit_cli` alone import ray.

A Tune trial is a pack; its rows come back in Tune's result and are written to the store by the driver as
they come. Tune's own files are scratch: what is done is known from the store alone, so a launch that is
killed goes on by being launched again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. Its automatic loggers write files that nobody reads; its handler
# of Ctrl-C ends a sweep with success.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # hf:FOLDER may be a relative path
os.environ.setdefault("RAY_AUTH_MODE", "token")  # nobody without the token gets in

import ray
from ray import tune

from sweeper import checkpoint
from sweeper.adapters import Keeper
from sweeper.allocator import keep_freed_memory
from sweeper.disk import reason
from sweeper.early_stop import EarlyStop
from sweeper.pack import make_packs
from sweeper.provenance import code, environment
from sweeper.results import ResultsStore
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.sweep import Listener, Sweep
from sweeper.trial import run_planned

log = logging.getLogger(__name__)

SIGNS = {
    Status.PREEMPTED: ("node has died", "node died", "was preempted", "is unavailable"),
    Status.OUT_OF_MEMORY: ("OutOfMemoryError", "running low on memory"),
}
"""What Ray says of a worker that it lost."""

OBJECT_STORE_BYTES = 256 * 2**20  # specs and rows are small


class PackTrial(tune.Trainable):
    """One pack of trials on a Ray actor that stays for the next pack."""

    def setup(  # type: ignore[override]  # Tune hands over what `with_parameters` was given
        self,
        config: dict[str, Any],
        packs: Sequence[Any],
        plan: bool,
        until: float | None,
        provenance: Mapping[str, Any],
        weights: str | None,
        early_stop: Any,
        checkpoints: str | None,
    ) -> None:
        """Remember the packs; `config` names one of them by its number."""
        import torch

        torch.set_num_threads(1)  # a pack has one CPU
        keep_freed_memory()
        self.packs, self.plan, self.until, self.provenance = packs, plan, until, provenance
        self.keep = Keeper(Path(weights), overwrite=True) if weights else None
        self.judge = None if early_stop is None else functools.partial(_ask, early_stop)
        self.checkpoints = Path(checkpoints) if checkpoints else None
        self.coming: Iterator[list[TrialResult]] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self.config, self.coming = new_config, None
        return True

    def step(self) -> dict[str, Any]:
        """Run what of the pack trains together, and return its rows; none where the time is up."""
        if self.until is not None and time.time() >= self.until:
            return {"rows": [], "done": True}
        if self.coming is None:
            specs = [TrialSpec.from_dict(spec) for spec in self.packs[self.config["pack"]]]
            self.left = len(specs)
            provenance = {**self.provenance, **environment()}
            self.coming = run_planned(specs, provenance, self.keep, self.plan, self.judge, self.checkpoints)
        rows = next(self.coming)
        self.left -= len(rows)
        return {"rows": [row.to_dict() for row in rows], "done": not self.left}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing here: `sweeper.checkpoint` does, where the next launch finds it."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing."""


class _Judge:
    """An actor that all workers ask."""

    def __init__(self, early_stop: EarlyStop) -> None:
        self.early_stop = early_stop

    def judge(self, step: int, trials: Sequence[TrialSpec], scores: Sequence[float]) -> Mapping[str, str]:
        return self.early_stop.judge(step, trials, scores)


def _ask(early_stop: Any, step: int, trials: Sequence[TrialSpec], scores: Sequence[float]) -> Mapping[str, str]:
    """Ask the sweep's one `EarlyStop`; without it a trial trains to its end."""
    try:
        reasons: Mapping[str, str] = ray.get(early_stop.judge.remote(step, trials, scores))
    except ray.exceptions.RayError:
        return {}
    return reasons


class _ToStore(tune.Callback):
    """Tells a `Sweep` what becomes of Tune's trials."""

    def __init__(self, sweep: Sweep, checkpoints: Path | None, beat: Callable[[], None] | None) -> None:
        self.sweep, self.checkpoints, self.beat = sweep, checkpoints, beat

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the scratch folder, for a restore that we never ask for.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.sweep.start(trial.config["pack"])

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.beat is not None:
            self.beat()
        late = self.sweep.overdue()
        for trial in trials if late else ():
            if trial.config["pack"] in late:
                ray.kill(trial.temporary_state.ray_actor)  # even one that hangs where nothing else reaches it

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.sweep.finish(trial.config["pack"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.sweep.add(trial.config["pack"], [TrialResult.from_dict(row) for row in result["rows"]])
        if self.checkpoints is not None:
            checkpoint.forget(self.checkpoints, self.sweep.ended)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # `run_pack` turns what goes wrong into rows; only a dead process ends up here.
        self.sweep.lose(trial.config["pack"], *_cause(trial.error_file))


def launch(
    trials: Sequence[TrialSpec],
    store: ResultsStore,
    listener: Listener,
    *,
    grid: str | None = None,
    cpus: int | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    address: str | None = None,
    pack_size: int | None = None,
    weights: Path | None = None,
    checkpoints: Path | None = None,
    until: float | None = None,
    early_stop: EarlyStop | None = None,
    time_limit: float | None = None,
    beat: Callable[[], None] | None = None,
) -> None:
    """Run trials through Ray Tune; each row is in the store before the listener hears of it.

    Args:
        cpus: CPUs of the local Ray; all of the machine's if ``None``. Each pack takes one.
        gpus_per_trial: GPUs that a pack takes, fractions allowed; if ``None``, one where there are any.
        max_concurrent: Packs at once; as many as resources allow if ``None``.
        address: Ray cluster to run on ("auto", "host:port"); a local Ray if ``None``.
        pack_size: Trials that train together at most; if ``None``, as many as are faster together.
        until: When no more trials start, in seconds since the epoch; what trains then is finished.
        early_stop: Says which trials stop before their end; ``None``: none does.
        time_limit: Seconds that a trial may take, a pack so many times that as it has trials left; a worker beyond
            it is ended, whatever it is at.
        beat: Called several times a second from this thread; a KeyboardInterrupt that it raises ends the sweep.
        weights: Where workers save what each complete trial learned; nowhere if ``None``.
        checkpoints: Where workers keep packs while they train, and find those of an earlier launch; nowhere if
            ``None``.

    Raises:
        OSError: a row could not be written. What the store holds is intact.
        ConnectionError: there is no Ray cluster at ``address``.
        ValueError: a pack is to take more GPUs than there are, or a share that Ray cannot give.
    """
    if gpus_per_trial is not None and not (0 <= gpus_per_trial <= 1 or float(gpus_per_trial).is_integer()):
        raise ValueError(f"--gpus-per-trial must be a share of one GPU or a whole number, got {gpus_per_trial:g}")
    provenance = {**code(), "grid": grid}
    with connected(address, cpus), tempfile.TemporaryDirectory(prefix="sweeper-") as scratch:
        gpus_per_trial, gpus = gpus_for(gpus_per_trial)
        workers = workers_for(gpus_per_trial, gpus, max_concurrent)
        packs = packs_of(trials, pack_size, workers, checkpoints, until is not None)
        judge = None if early_stop is None else ray.remote(num_cpus=0)(_Judge).remote(early_stop)
        sweep = Sweep(packs, store, listener, provenance, time_limit, time.monotonic)
        numbers = list(range(len(packs)))
        while numbers:
            trainable = tune.with_parameters(
                PackTrial,
                packs=[[spec.to_dict() for spec in pack] for pack in sweep.packs],
                plan=pack_size is None,
                until=until,
                provenance=provenance,
                weights=None if weights is None else str(weights),
                early_stop=judge,
                checkpoints=None if checkpoints is None else str(checkpoints),
            )
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1, "gpu": gpus_per_trial}),
                param_space={"pack": tune.grid_search(numbers)},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=max_concurrent),
                run_config=tune.RunConfig(
                    name=f"sweep-{numbers[0]}",
                    storage_path=str(Path(scratch)),
                    verbose=0,
                    progress_reporter=tune.CLIReporter(),  # in a notebook another clears what the cell has said
                    callbacks=[_ToStore(sweep, checkpoints, beat)],
                ),
            )
            try:
                tuner.fit()
            except tune.TuneError:
                if sweep.refused is None:
                    raise
                raise OSError(
                    f"{store.name!r} takes no more rows ({reason(sweep.refused)}). Those it has are intact; "
                    "launch again to go on from there"
                ) from None
            numbers, sweep.again = sweep.again, []


def gpus_for(wanted: float | None) -> tuple[float, float]:
    """Return how many GPUs a pack takes, and how many there are, on the Ray that this process is connected to.

    Raises:
        ValueError: there are not as many as are wanted.
    """
    gpus = float(ray.cluster_resources().get("GPU", 0.0))
    if wanted is None:
        wanted = 1.0 if gpus else 0.0
    if wanted > gpus:  # Ray would wait for them for ever
        raise ValueError(f"--gpus-per-trial {wanted:g} cannot be met: there are {gpus:g} GPUs")
    return wanted, gpus


def workers_for(gpus_per_trial: float, gpus: float, max_concurrent: int | None) -> int:
    """Return how many packs train at the same time on the Ray that this process is connected to."""
    most = gpus / gpus_per_trial if gpus_per_trial else ray.cluster_resources().get("CPU", 1.0)
    return max(1, int(min(most, max_concurrent or most)))


def packs_of(
    trials: Sequence[TrialSpec], size: int | None, workers: int, checkpoints: Path | None, limited: bool = False
) -> list[list[TrialSpec]]:
    """Return the trials in packs, in the order in which they start.

    Those that trained together when a launch ended go on together. Where time is limited, one seed of everything comes
    before the next: what is left out then is seeds, not strategies.
    """
    specs = {trial.trial_id: trial for trial in trials}
    begun = [] if checkpoints is None else checkpoint.groups(checkpoints, specs.keys())
    together = [[specs.pop(trial) for trial in group] for group in begun]
    packs = together + make_packs(list(specs.values()), size, workers)
    return sorted(packs, key=lambda pack: pack[0].seed) if limited else _spread_seeds(packs)


def _cause(file: str | None) -> tuple[Status, str]:
    """Return what became of a worker, and in one line why, from a file of Tune's."""
    try:
        text = Path(file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    last = next((line.strip()[:300] for line in reversed(text.split("\n")) if line.strip()), "killed, or out of memory")
    for status, signs in SIGNS.items():
        if any(sign in text for sign in signs):
            return status, last
    return Status.FAILED, last


def _spread_seeds(packs: list[list[TrialSpec]]) -> list[list[TrialSpec]]:
    """Return the packs with neighbours of different source models, so that workers seldom wait for one another."""
    turn: dict[tuple[str, str, int], int] = {}
    ordered = []
    for number, pack in enumerate(packs):
        source = (pack[0].model, pack[0].task, pack[0].seed)
        turn[source] = turn.get(source, -1) + 1
        ordered.append((turn[source], number, pack))
    return [pack for *_, pack in sorted(ordered, key=lambda item: item[:2])]


def runs_already() -> bool:
    """Return whether this process is connected to a Ray, which somebody else started."""
    return bool(ray.is_initialized())


@contextlib.contextmanager
def connected(address: str | None, cpus: int | None) -> Iterator[None]:
    """Connect to a cluster or start a local Ray, quietly; leave a Ray that was already there.

    Raises:
        ConnectionError: there is no Ray cluster at ``address``.
    """
    if ray.is_initialized():
        tunes, before = logging.getLogger("ray.tune"), logging.getLogger("ray.tune").level
        tunes.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            tunes.setLevel(before)
        return
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if address is None:
            # A local Ray's token is known to this process and its children alone.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            # Where a script imported Ray before this file, its core has read the environment already, and its servers,
            # which read it as it is now, would wait for a token that this process does not send.
            ray._raylet.Config.initialize("")  # type: ignore[attr-defined]
            ray.init(
                address="local",  # not a cluster that happens to run on this machine, or in RAY_ADDRESS
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            _connect(address, quiet)
    log.debug("Ray %s at %s: %s", ray.__version__, address or "this machine", ray.cluster_resources())
    try:
        yield
    finally:
        ray.shutdown()


class _Probe:
    """An actor that answers: tasks run even on a cluster that refuses our actors."""

    def answer(self) -> bool:
        return True


def _connect(address: str, quiet: Mapping[str, Any]) -> None:
    """Connect to a cluster and have it run something, or say in one line why that does not work."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **quiet)
    except Exception as error:  # whatever Ray raises, to the user it is one thing
        reason = " ".join(str(error).split())[:200]
        raise ConnectionError(
            f"no Ray cluster to be had at {address!r}: {reason}. `ray start --head` starts one; "
            "without --address a local Ray is used"
        ) from None
    try:
        probe: Any = ray.remote(num_cpus=0)(_Probe).remote()
        ray.get(probe.answer.remote(), timeout=60)
    except ray.exceptions.RayError as error:
        ray.shutdown()
        raise ConnectionError(
            f"the Ray cluster at {address!r} runs nothing for us ({type(error).__name__}). If it has no token "
            "authentication, set RAY_AUTH_MODE=disabled here as well, or better, RAY_AUTH_MODE=token there"
        ) from None
