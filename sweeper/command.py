"""The manners of a command line: how it answers mistakes, how much it says, and how it ends."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import click

from sweeper.printing import Manners, plain

log = logging.getLogger(__name__)

# What the system says without naming a way out -> the way out.
WAYS_OUT = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "name another place, or delete it",
    errno.EACCES: "name another place, or have its owner let you in (chmod)",
    errno.EPERM: "name another place, or have its owner let you in (chmod)",
    errno.EROFS: "name another place: this one is mounted to be read alone",
    errno.ENOSPC: "free some space, or name another disk",
    errno.EDQUOT: "free some space, or name another disk",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.ENAMETOOLONG: "name something shorter",
    errno.ELOOP: "name another place: its links lead in a circle",
}


def _set(name: str) -> Any:
    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        manners = context.ensure_object(Manners)
        if value:
            setattr(manners, name, True)
        if manners.quiet and manners.verbose:
            raise click.UsageError("--quiet and --verbose contradict one another: leave one out")
        if manners.verbose:
            _log_to_stderr()

    return callback


def _with_manners(command: click.Command) -> None:
    """Give a command, and those below it, the options that all have; before a verb and after it they mean the same."""
    if not any(parameter.name == "quiet" for parameter in command.params):
        texts = {"quiet": "Print data, warnings and errors alone.", "verbose": "Log what is done, where, how long."}
        for name, text in texts.items():
            option = click.Option(
                [f"-{name[0]}", f"--{name}"], is_flag=True, expose_value=False, callback=_set(name), help=text
            )
            command.params.append(option)
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _with_manners(below)


class Group(click.Group):
    """A group that gives its commands `--quiet` and `--verbose`, and knows what a mistyped one was to be."""

    group_class = type

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Take a command in."""
        super().add_command(cmd, name)
        _with_manners(cmd)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.commands, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Available: {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"no command {name!r} in `{ctx.command_path}`. {hint}", ctx)
        return super().resolve_command(ctx, args)


def root(name: str) -> Any:
    """Return the decorator that makes a function the group with all commands of a program."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

    def decorate(function: Any) -> Group:
        from sweeper import __version__
        from sweeper.completion import completion_command
        from sweeper.schema_cli import schema_command

        group: Group = click.group(cls=Group, context_settings=settings)(
            click.version_option(__version__, prog_name=name)(function)
        )
        _with_manners(group)
        group.add_command(completion_command(name))
        group.add_command(schema_command(Path(sys.modules[function.__module__].__file__ or "").with_name("schemas")))
        return group

    return decorate


def run(cli: click.Command, name: str) -> None:
    """Run a command and exit.

    Codes: 0 done, 1 failed, 2 bad input, 3 some trials failed, 4 nothing feasible, 130 interrupted.
    """
    manners, started = Manners(), time.monotonic()
    stdout = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names are any bytes, and terminals know only some letters
            stream.reconfigure(errors="backslashreplace")
    try:
        _refuse_nul(sys.argv[1:])
        code = cli.main(prog_name=name, standalone_mode=False, obj=manners)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        code = _failed(_in_words(error), 2)
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except SystemExit as ended:
        # Where the reader of stdout has gone (`| head`), click puts another in its place and ends with 1.
        code = ended.code if sys.stdout is stdout else 0
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`); keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except ValueError as error:
        code = _failed(str(error), 2, error)
    except OSError as error:
        code = _failed(_of_the_system(error), 1, error)
    except Exception as error:
        if manners.verbose:
            traceback.print_exc()
        *_, frame = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        more = "the lines above" if manners.verbose else "what the same command says with -v"
        code = _failed(f"internal: {type(error).__name__}: {error} ({place}). This is a bug: please report {more}", 1)
    log.debug("%s ends with %s after %.2f s", name, code or 0, time.monotonic() - started)
    _log_no_more()
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_nul(arguments: list[str]) -> None:
    for argument in arguments:
        if "\0" in argument:
            raise click.UsageError(f"{argument!r} holds a NUL character, which no name has: leave it out")


def _failed(text: str, code: int, error: Exception | None = None) -> int:
    """Print an error in one line, and return the exit code."""
    if error is not None and error.__traceback__ is not None:
        *_, frame = traceback.extract_tb(error.__traceback__)
        log.debug("%s raised at %s:%s", type(error).__name__, frame.filename, frame.lineno)
    click.echo(f"Error: {plain(' '.join(text.split()))}", err=True)
    return code


def _in_words(error: click.ClickException) -> str:
    """Return what click says of a mistake; where it names no way out, with the command that does."""
    text = re.sub(r"is not a valid integer( range)?", "must be a whole number", error.format_message())
    text = re.sub(r"is not a valid float( range)?", "must be a number", text)
    choice = re.search(r"'([^']*)' is not one of (.+)$", text)
    if choice is not None:
        near = difflib.get_close_matches(choice[1], re.findall(r"'([^']*)'", choice[2]), n=1)
        return f"{text} Did you mean {near[0]!r}?" if near else text
    ours = type(error) is click.UsageError and not text.startswith("Got unexpected")
    context = getattr(error, "ctx", None)
    if ours or context is None or re.search(r"Did you mean|must be|not in the range|such as", text):
        return text
    return f"{text.removesuffix('.')}. `{context.command_path} --help` shows what it takes"


def _of_the_system(error: OSError) -> str:
    """Return what the system says of a file, and a way out."""
    if error.errno is None or error.strerror is None:
        return str(error)
    what = f"{str(error.filename)!r}: " if error.filename is not None else ""
    way_out = WAYS_OUT.get(error.errno)
    return f"{what}{error.strerror}{f'; {way_out}' if way_out else ''}"


def _log_to_stderr() -> None:
    """Have what the two packages log on stderr."""
    _log_no_more()
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(__name__)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    for package in ("sweeper", "advisor"):
        logging.getLogger(package).setLevel(logging.DEBUG)


def _log_no_more() -> None:
    for handler in [own for own in logging.getLogger().handlers if own.get_name() == __name__]:
        logging.getLogger().removeHandler(handler)
    for package in ("sweeper", "advisor"):
        logging.getLogger(package).setLevel(logging.NOTSET)
