"""From options of a command to a service that listens: address, token, guard, and a clean end."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sweeper.errors import UnavailableError

if TYPE_CHECKING:
    from sweeper.guard import App, Guard

Command = TypeVar("Command", bound=Callable[..., Any])

VARIABLE = "SWEEPER_TOKEN"
LEAST_TOKEN = 16
MOST_CONNECTIONS = 100
LOOPBACK = ("localhost", "127.0.0.1", "::1")

OPTIONS = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."),
    click.option(
        "--token-file",
        metavar="FILE",
        help=f"File with the token that requests must carry. [default: {VARIABLE}, else a new one, which is printed]",
    ),
    click.option("--no-token", is_flag=True, help="Answer without a token; on a loopback address alone."),
    click.option(
        "--allow-host",
        "names",
        metavar="NAME",
        multiple=True,
        help="Another name that the service is called by, behind a proxy say; may be given again.",
    ),
    click.option(
        "--rate",
        type=click.IntRange(1),
        default=600,
        show_default=True,
        help="Requests a minute that one address may send.",
    ),
)


def listen_options(command: Command) -> Command:
    """Give a command the options that say where and to whom it answers."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def check_packages(verb: str) -> None:
    """Raise UnavailableError where what serves is not installed."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise UnavailableError(f"{verb} needs FastAPI and uvicorn: pip install 'sweeper-advisor[serve]'")


@dataclass(frozen=True)
class Door:
    """A bound socket, and who may come in.

    Attributes:
        address: Its URL.
        token: What requests must carry; ``None`` for nothing.
        how: The token as a shell would write it, for a line to copy.
    """

    socket: socket.socket
    address: str
    token: str | None
    how: str
    names: frozenset[str]
    rate: int

    def guarded(self, app: App, pages: bool = False) -> Guard:
        """Return an application with a guard in front."""
        from sweeper.guard import Guard, Limits  # asyncio takes longer than the rest of `--help`

        outside = not _is_loopback(self.socket.getsockname()[0])
        return Guard(app, self.token, self.names, outside, pages, Limits(per_minute=self.rate))

    def curl(self, path: str, body: str = "") -> str:
        """Return a command that asks for a path."""
        token = "" if self.token is None else f' -H "Authorization: Bearer {self.how}"'
        data = f" -H 'Content-Type: application/json' -d '{body}'" if body else ""
        return f"curl -s {self.address}{path}{token}{data}"


def open_door(host: str, port: int, token_file: str | None, no_token: bool, names: tuple[str, ...], rate: int) -> Door:
    """Bind a socket and find the token.

    Raises:
        click.UsageError: options that contradict one another.
        ValueError: the token is none, or an address outside this machine would answer without one.
        OSError: the port is taken, or the address is not this machine's.
    """
    if no_token and token_file:
        raise click.UsageError("--no-token and --token-file contradict one another")
    bound = _bound(host, port)
    own, taken = bound.getsockname()[:2]
    if no_token and not _is_loopback(own):
        bound.close()
        raise ValueError(f"--host {host} is seen by other machines: leave out --no-token")
    token, how = (None, "") if no_token else _token(token_file)
    shown = f"[{own}]" if ":" in own else own
    everywhere = () if _is_loopback(own) else (socket.gethostname(), socket.getfqdn())
    hosts = frozenset({*LOOPBACK, host, *everywhere, *names})
    return Door(bound, f"http://{shown}:{taken}", token, how, hosts, rate)


def serve(app: App, door: Door) -> None:
    """Answer until the process is told to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )
    with contextlib.closing(door.socket):
        uvicorn.Server(config).run(sockets=[door.socket])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ValueError(f"--host {host!r} is no address or name of this machine") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is in use: --port takes another, --port 0 a free one") from None
        raise OSError(
            f"cannot listen on port {port} of {host}: {error.strerror}; --host and --port name another place"
        ) from None
    return bound


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _token(file: str | None) -> tuple[str, str]:
    """Return the token, and how a shell would write it."""
    if file is not None:
        try:
            with Path(file).open("rb") as opened:
                found = opened.read(4096).decode("ascii").strip()
        except OSError as error:
            raise ValueError(f"--token-file {file!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            found = ""
        where, how = f"the token in {file!r}", f"$(cat {file})"
    elif os.environ.get(VARIABLE):
        found, where, how = os.environ[VARIABLE], f"the token in {VARIABLE}", f"${VARIABLE}"
    else:
        found = secrets.token_urlsafe(32)
        return found, found
    # What a header and a cookie can carry as it is.
    if not re.fullmatch(rf"[A-Za-z0-9._~+/=-]{{{LEAST_TOKEN},512}}", found):
        raise ValueError(
            f"{where} must be {LEAST_TOKEN} to 512 letters, digits or signs of ._~+/=- ; for example: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return found, how
