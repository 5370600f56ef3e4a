"""Documents say what is true: commands run, outputs are theirs, columns and links exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sweeper
from advisor.evidence import PACKAGED, load
from advisor.strategy_pages import pages
from sweeper.grid import load_grid
from sweeper.metrics import METRICS
from sweeper.results import flat_row
from sweeper.trial import run_pack
from tests import small
from tests.conftest import Called, Command

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "advisor/README.md",
            "results/README.md",
            "examples/README.md",
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def console_blocks(kind: str = "console") -> list[tuple[str, str]]:
    """Return each command in a ``console`` block of the documents, with the output that stands below it."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(rf"```{kind}\n(.*?)```", document.read_text(), re.DOTALL):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((command, output))
    return found


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.parametrize(("line", "output"), console_blocks())
def test_the_output_below_a_command_is_its_output(
    line: str, output: str, command: Command, called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a fresh clone: the shipped trials, and none of one's own.
    shutil.copytree(ROOT / "results" / "shipped", tmp_path / "results" / "shipped")
    shutil.copy(ROOT / "results" / "store.json", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(line)
    if name in ("sweeper", "advisor"):
        code, printed, talk = called(*arguments, program=name)
    else:
        done = command(name, *arguments)
        code, printed, talk = done.returncode, done.stdout, done.stderr
    assert code == 0, talk
    shown, _, _ = tidy(output).partition("\n...")
    assert tidy(printed).startswith(shown)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "output"), console_blocks("console slow"))
def test_the_output_below_a_long_command_is_its_output(line: str, output: str) -> None:
    name, *arguments = line.split()
    call = [sys.executable, "-c", f"from {name}.cli import main; main()", *arguments]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert tidy(done.stdout) == tidy(output)


def test_there_are_documented_outputs() -> None:
    commands = [line for line, _ in console_blocks()]
    assert "advisor recommend --large-model --compute low" in commands
    assert any(line.startswith("sweeper show --summary --grid lora_ranks") for line in commands)


def test_every_column_is_documented_and_every_documented_column_exists() -> None:
    text = (ROOT / "results" / "README.md").read_text()
    documented = set(re.findall(r"^\| `([\w]+)` \|", text, re.MULTILINE)) - {"hparam_NAME"}
    frame = sweeper.load_results(ROOT / "results" / "shipped")
    # The shipped rows may be older than a column, a row made now has it.
    columns = {*frame.columns, *flat_row(run_pack([small.spec()], {})[0])}
    columns = {column for column in columns if not column.startswith("hparam_")}
    assert columns <= documented
    # Some numbers no shipped grid has cause to measure.
    assert documented - columns <= {*METRICS}


def test_the_page_of_each_strategy_is_what_the_command_writes() -> None:
    folder = ROOT / "docs" / "strategies"
    assert {file.name: file.read_text() for file in folder.iterdir()} == pages(load(PACKAGED))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_tree_in_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    tree = re.search(r"```text\n(sweeper/.*?)```", text, re.DOTALL)
    assert tree
    listed, folders = set(), [""]
    for line in tree[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = f"{folders[depth]}{name}"
        if name.endswith("/"):
            folders[depth + 1 :] = [path]
        listed.add(path)
    for path in listed:
        assert list(ROOT.glob(path.rstrip("/"))), f"{path} does not exist"
    for package in ("sweeper", "advisor"):
        for file in (ROOT / package).glob("*.py"):
            if file.name != "__init__.py":
                assert f"{package}/{file.name}" in listed, f"{package}/{file.name} is not in the tree"


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(script: Path) -> None:
    shipped = ROOT / "results" / "shipped"
    call = [sys.executable, str(script), *([str(shipped)] if script.name == "read_results.py" else [])]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("grid", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_example_grids_load(grid: Path) -> None:
    assert load_grid(str(grid)).trials
