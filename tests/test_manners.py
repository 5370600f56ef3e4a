"""Manners of the two command lines: help with examples, quiet and verbose, colour, completion, start-up, bugs."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sweeper.printing import console
from sweeper.progress import SweepProgress
from sweeper.results import ResultsStore
from tests import fuzz, small
from tests.conftest import Called

ROOT = Path(__file__).parent.parent
START_SECONDS, CLICKS = 0.3, 8.0


def every(command: click.Command, path: tuple[str, ...]) -> dict[str, click.Command]:
    """Return a command and those below it by the words that name them."""
    found = {" ".join(path): command}
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        found |= every(below, (*path, name))
    return found


COMMANDS = {words: c for program, cli in fuzz.PROGRAMS.items() for words, c in every(cli, (program,)).items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    store = ResultsStore(tmp_path / "results", create=True)
    store.append([small.row(seed=seed) for seed in range(2)])
    store.close()
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS)
def test_help_has_an_example_that_parses(words: str) -> None:
    command, lines = COMMANDS[words], (COMMANDS[words].help or "").splitlines()
    examples = [line.strip() for line in lines if re.match(rf'\s*(eval "\$\()?{words}( |$)', line)]
    assert examples, f"{words} --help shows no line that begins with {words}"
    for example in examples:
        if isinstance(command, click.Group) or "eval" in example:
            continue
        arguments = shlex.split(example.split("  ")[0].split(" && ")[0].split(" > ")[0], comments=True)[
            len(words.split()) :
        ]
        command.make_context(words, arguments)  # a wrong option or value would raise
    names = {name for parameter in command.params for name in parameter.opts}
    assert {"--quiet", "--verbose"} <= names


@pytest.mark.parametrize("line", ["-q show", "show -q", "show --quiet"])
def test_quiet_prints_data_alone(here: Path, called: Called, line: str) -> None:
    code, out, err = called(*line.split())
    assert (code, err) == (0, "")
    assert small.spec().trial_id in out
    assert "2 of 2 trials" in called("show")[2]
    assert called(*line.split(), "zz")[2].startswith("Error: no trial"), "errors are said all the same"


def test_quiet_still_warns_of_damage(here: Path, called: Called) -> None:
    (file,) = (here / "results").glob("*.jsonl")
    file.write_bytes(b"{broken}\n" + file.read_bytes())
    assert "Warning: results/" in called("show", "-q")[2]


@pytest.mark.parametrize("line", ["-v show", "show -v"])
def test_verbose_says_from_where_and_how_long(here: Path, called: Called, line: str) -> None:
    _, out, err = called(*line.split())
    assert re.search(r"sweeper.results: 2 trials in 1 files of results, in \d+\.\d+ s", err)
    assert re.search(r"sweeper ends with 0 after \d+\.\d+ s", err)
    assert out == called("show")[1], "data is what it was"
    assert "ends with" not in called("show")[2], "and the next command is as quiet as ever"


def test_a_bug_is_one_line_and_verbose_shows_the_traceback(
    here: Path, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("sweeper.cli.read_store", broken)
    code, out, err = called("show")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: internal: KeyError: 'lost' \(test_manners.py:\d+\). This is a bug: .*-v\n", err)
    assert "Traceback (most recent call last)" in called("show", "-v")[2]


def test_what_the_system_refuses_has_a_way_out(here: Path, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "results/rows-1.jsonl")

    monkeypatch.setattr("sweeper.cli.read_store", full)
    code, _, err = called("show")
    assert code == 1
    assert err == "Error: 'results/rows-1.jsonl': No space left on device; free some space, or name another disk\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lanuch", "no command 'lanuch' in `sweeper`. Did you mean 'launch'?"),
        ("store repiar", "no command 'repiar' in `sweeper store`. Did you mean 'repair'?"),
        ("zzz", "no command 'zzz' in `sweeper`. Available: adapters, "),
        ("show --sumary", "Did you mean '--summary'?"),
        ("show --nothing-like-it", "`sweeper show --help` shows what it takes"),
        ("show --status compleet", "'compleet' is not one of 'complete'"),
        ("show --status compleet", "Did you mean 'complete'?"),
        ("show --strategy loar", "Did you mean 'lora'?"),
        ("-q show -v", "--quiet and --verbose contradict one another"),
    ],
)
def test_what_was_meant(here: Path, called: Called, line: str, says: str) -> None:
    code, out, err = called(*line.split())
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "colour", "bar"),
    [
        (io.StringIO, {}, False, False),
        (io.StringIO, {"FORCE_COLOR": "1"}, True, False),
        (io.StringIO, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        (Terminal, {}, True, True),
        (Terminal, {"NO_COLOR": "1"}, False, True),
    ],
)
def test_colour_and_bars(
    stream: type[io.StringIO], environment: dict[str, str], colour: bool, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "77")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = stream()
    monkeypatch.setattr(sys, "stderr", out)
    talk = console(stderr=True)
    talk.print("[red]text[/red]")
    assert ("\x1b[31m" in out.getvalue()) is colour
    assert talk.width == (77 if bar else 200)
    before = len(out.getvalue())
    progress = SweepProgress(3, talk)
    progress.finish([small.row()])
    progress.close()
    drawn = out.getvalue()[before:]
    assert "1/3 trials" in drawn
    assert ("━" in drawn) is bar
    assert ("\x1b[" in drawn) is bar, "a bar moves the cursor, a line in a pipe or a log is plain, coloured or not"


def completed(line: str, where: Path) -> list[str]:
    """Return what a real bash offers at the end of a line, from the script that we print."""
    program, *words = line.split(" ")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    folder = Path(sys.executable).parent
    script = f"""
        eval "$({program} completion bash)"
        COMP_WORDS=({" ".join(shlex.quote(word) for word in (program, *words))})
        COMP_CWORD={len(words)}
        _{program}_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "--norc", "-c", script], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sweeper sh", ["show"]),
        ("sweeper show --summ", ["--summary"]),
        ("sweeper launch --grid lora", ["lora_ranks"]),
        ("sweeper launch --strategy prefix", ["prefix_tuning"]),
        ("sweeper show --strategy l", ["lora"]),
        ("advisor explain bit", ["bitfit"]),
        ("advisor recommend --compute l", ["low"]),
    ],
)
def test_bash_completes(here: Path, line: str, offered: list[str]) -> None:
    assert completed(line, here) == offered


def test_bash_completes_trial_ids(here: Path) -> None:
    ids = sorted(small.spec(seed=seed).trial_id for seed in range(2))
    assert completed("sweeper show ", here) == ids
    assert completed(f"sweeper adapters save {ids[0][:6]}", here) == ids[:1]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_what_they_ask(
    here: Path, called: Called, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    _, script, _ = called("completion", shell)
    assert f"_SWEEPER_COMPLETE={shell}_complete" in script
    monkeypatch.setenv("_SWEEPER_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "sweeper launch --grid lora_")
    monkeypatch.setenv("COMP_CWORD", "3" if shell == "zsh" else "lora_")
    code, out, _ = called()
    assert code == 0
    assert "lora_ranks" in out
    assert "How does LoRA's accuracy change" in out, "with what it asks, where a shell shows that"


@pytest.mark.parametrize("line", ["sweeper --help", "advisor --help"])
def test_help_is_there_at_once(line: str) -> None:
    program = line.split()[0]

    def spent(*call: str) -> float:  # of the processor, for other processes may hold it
        before = os.times()
        subprocess.run([sys.executable, *call], cwd=ROOT, capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    help_, click_ = [], []
    for _ in range(3):  # the first may have to compile
        help_.append(spent("-c", f"from {program}.cli import main; main()", "--help"))
        click_.append(spent("-c", "import click"))
    # On a slow or busy machine: no more beside the library that every command line here starts with.
    assert min(help_) <= max(START_SECONDS, CLICKS * min(click_))
