"""How a command line ends: one line and an exit code, never a traceback for a user's mistake."""

from __future__ import annotations

import os
import sys

import click


def run(cli: click.Command, name: str) -> None:
    """Run a command and exit.

    Codes: 0 done, 1 failed, 2 bad input, 3 some trials failed, 4 nothing feasible, 130 interrupted.
    """
    stdout = sys.stdout
    try:
        code = cli.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        code = 2
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
        click.echo(f"Error: {error}", err=True)
        code = 2
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
