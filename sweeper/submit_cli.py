"""The command ``sweeper submit``: a launch that runs on a Ray cluster as a job of its own, and what it says."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from sweeper.errors import UnavailableError
from sweeper.launch_cli import launch
from sweeper.objects import is_url
from sweeper.printing import console, say

PACKAGE = "sweeper-advisor"
ENTRY = "from sweeper.cli import main; main()"
FILES = ("grid_name", "data_name")


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--address", required=True, metavar="URL", help="The cluster's job server: http://HEAD:8265.")
@click.option("--install", is_flag=True, help="Have each node install what a sweep needs first, with pip.")
@click.option("--no-wait", is_flag=True, help="Do not follow the job.")
@click.pass_context
def submit(context: click.Context, address: str, install: bool, no_wait: bool) -> None:
    """Launch a grid as a job of a Ray cluster, and follow it; all options of `sweeper launch` are taken.

    This version of the sweeper goes along, and so do a grid and a table of your own. The store must be where the
    cluster can reach it: object storage, or a folder that its machines share.

    \b
    sweeper submit --address http://head:8265 --grid lora_ranks --results s3://bucket/sweeps
    sweeper submit --address http://head:8265 --grid my_grid.toml --results /shared/sweeps --budget 2h
    """
    arguments = [*context.args]
    options = launch.make_context("launch", [*arguments], parent=context.parent).params
    folder = options["folder"]
    if not is_url(folder) and not Path(folder).is_absolute():
        raise click.UsageError(
            f"--results {folder} would be a folder of one machine of the cluster, which goes with it: name object "
            "storage (s3://bucket/folder) or the whole path of a shared folder"
        )
    if options["address"] is not None or options["dry_run"]:
        raise click.UsageError("--dry-run is for `sweeper launch`: nothing needs a cluster for that")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    talk = console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="sweeper-") as name:
        working, given = Path(name), _with_files(arguments, options, Path(name))
        client = _client(address)
        command = ["python", "-c", ENTRY, "launch", *given, "--address", "auto"]
        try:
            job = client.submit_job(
                entrypoint=shlex.join(command),
                runtime_env=_environment(working, install),
                metadata={"grid": options["grid_name"], "results": folder},
            )
        except RuntimeError as error:
            raise ConnectionError(
                f"{address} takes no job: {_line(error)}. Check its address and RAY_AUTH_TOKEN"
            ) from None
    say(talk, f"Job {job}; `ray job stop {job} --address {address}` ends it.")
    if no_wait:
        return
    try:
        import asyncio  # longer than the rest of `--help`

        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        say(talk, f"The job goes on; `ray job logs {job} --address {address} --follow` shows it again.")
        raise
    found = client.get_job_info(job)
    if found.status != "SUCCEEDED" and not found.driver_exit_code:
        raise OSError(f"the job ended as {found.status}: {_line(found.message)}. `ray job logs {job}` says more")
    sys.exit(found.driver_exit_code or 0)


def _with_files(arguments: list[str], options: dict[str, Any], working: Path) -> list[str]:
    """Return the arguments, the files that they name being copied into the folder that goes along."""
    given = [*arguments]
    for option in FILES:
        path = options[option] and Path(options[option])
        if path and path.is_file():
            shutil.copy(path, working / path.name)
            given = [path.name if word == str(options[option]) else word for word in given]
            given = [word.replace(f"={options[option]}", f"={path.name}") for word in given]
    return given


def _environment(working: Path, install: bool) -> dict[str, Any]:
    """Return what the job's processes need: this version of the code, and on demand what it rests on."""
    # The advisor rests on the sweeper, and so the sweeper knows it by name alone.
    found = [find_spec(name) for name in ("sweeper", "advisor")]
    modules = [str(Path(own.origin).parent) for own in found if own is not None and own.origin]
    environment: dict[str, Any] = {"working_dir": str(working), "py_modules": modules}
    try:
        about = distribution(PACKAGE)
    except PackageNotFoundError:
        return environment
    metadata = getattr(about, "_path", None)  # with its entry points: the advisor is found by them
    if metadata is not None and Path(metadata).is_dir():
        modules.append(str(metadata))
    if install:
        environment["pip"] = [
            own for own in about.requires or () if "extra ==" not in own and not own.startswith("ray")
        ]
    return environment


def _client(address: str) -> Any:
    """Return a client of a cluster's job server, which is there and asks for a token."""
    if not address.startswith(("http://", "https://")):
        raise click.UsageError(f"--address {address!r} is not the job server's, which is like http://HEAD:8265")
    try:
        import requests
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise UnavailableError(
            "sweeper submit needs Ray's job client, which is not installed: pip install 'sweeper-advisor[cluster]'"
        ) from None
    for name in ("ray", "ray.dashboard"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        open_to_all = requests.get(f"{address.rstrip('/')}/api/jobs/", timeout=10).ok
        if open_to_all and os.environ["RAY_AUTH_MODE"] == "token":
            raise ConnectionError(
                f"the cluster at {address} runs what anybody sends it. Start it with RAY_AUTH_MODE=token, or set "
                "RAY_AUTH_MODE=disabled here to go on"
            )
        return JobSubmissionClient(address)
    except (RuntimeError, RayError, requests.RequestException) as error:
        raise ConnectionError(
            f"no job server to be had at {address}: {_line(error)}. `ray start --head` starts one"
        ) from None


async def _follow(client: Any, job: str) -> None:
    async for part in client.tail_job_logs(job):
        click.echo(part, nl=False)


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
