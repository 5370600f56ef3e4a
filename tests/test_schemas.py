"""What each command prints with `--format json` is what its published schema says.

A new command needs a file ``schemas/VERB.json`` (a group's: ``GROUP-VERB.json``) and a line in `EXAMPLES`.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from sweeper.grid import load_grid
from sweeper.outcome import rows_of
from sweeper.results import ResultsStore, read_store
from sweeper.trial import run_pack
from tests import fuzz, small
from tests.conftest import Called

ROOT = Path(__file__).parent.parent
# They print what is no data of theirs: a script, a schema, the log of a job, what launches print that are resumed;
# a service publishes its own schema at /openapi.json.
WITHOUT = {"sweeper completion", "sweeper schema", "sweeper submit", "sweeper resume", "sweeper serve"}
WITHOUT |= {"advisor completion", "advisor schema", "advisor serve"}

NEAR = "--model-params 40k --n-train 100 --modality image --task-different"
# In this order: a line may use what one before it wrote. SHIPPED and TRIAL stand for the store and a trial of `own`.
EXAMPLES = [
    "sweeper ls",
    "sweeper show --results SHIPPED --grid smoke",
    "sweeper show --results own TRIAL",
    "sweeper show --results SHIPPED --summary --model minilm",
    "sweeper show --results SHIPPED --per-class --grid weak_class",
    "sweeper show --results SHIPPED --samples --grid generation",
    "sweeper export out.csv --results own",
    "sweeper export --to tensorboard board --results own",
    "sweeper import long.csv --results own",
    "sweeper init rows.csv",
    "sweeper data check rows.csv",
    "sweeper data fetch",
    "sweeper launch --dry-run --grid smoke",
    "sweeper launch --dry-run --grid strategies --data rows.csv --model mlp",
    "sweeper launch --grid lora_ranks --results done",
    "sweeper plan --grid lora_ranks --results done",
    "sweeper status --results own",
    "sweeper stop --results own",
    "sweeper adapters save TRIAL --results own --to kept/one",
    "sweeper adapters ls kept",
    "sweeper adapters load kept/one",
    "sweeper predict kept/one digit.png",
    "sweeper report --results own",
    "sweeper adapters merge kept/one merged",
    "sweeper adapters diff kept/one kept/one",
    "sweeper store check --results own",
    "sweeper store check --results torn",
    "sweeper store repair --results torn",
    "sweeper store compact --results own",
    "sweeper store merge own --results other",
    "sweeper doctor --results own",
    "sweeper validate smoke rows.csv own torn nothing",
    "advisor recommend",
    f"advisor recommend {NEAR}",
    "advisor recommend --model-params 7B --gpu-memory 1GB --modality text --n-train 500",
    f"advisor explain {NEAR}",
    "advisor plan --model-params 7B --gpu-memory 24GB",
    "advisor plan --model-params 7B --device l4 --n-train 2000 --checkpointing",
    f"advisor next {NEAR} --output next.toml",
    f"advisor report {NEAR}",
    "advisor fit --results own",
    "advisor evaluate --results long.csv",
]


def path_of(line: str) -> str:
    """Return the command of a line, its group included."""
    words = line.split()
    command: Any = fuzz.PROGRAMS[words[0]]
    path = [words[0]]
    while hasattr(command, "commands"):
        path.append(words[len(path)])
        command = command.commands[path[-1]]
    return " ".join(path)


def schema_of(path: str) -> Path:
    program, *words = path.split()
    return ROOT / program / "schemas" / f"{'-'.join(words)}.json"


COMMANDS = {" ".join((name, *path)): c for name, group in fuzz.PROGRAMS.items() for path, c in fuzz.leaves(group)}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    for name, rows in (
        ("own", run_pack([small.spec()], {})),
        ("done", rows_of(read_store(ROOT / "results" / "shipped").results, load_grid("lora_ranks").trials)),
        ("torn", [small.row()]),
    ):
        store = ResultsStore(folder / name, create=True)
        store.append(rows)
        store.close()
    (file,) = (folder / "torn").glob("*.jsonl")
    file.write_bytes(b"{broken}\n" + file.read_bytes())
    Image.new("L", (28, 28), 128).save(folder / "digit.png")
    (folder / "rows.csv").write_text(
        "width,height,label\n" + "".join(f"{k * 3 % 80}.25,{k % 5}.5,{('no', 'yes')[k % 2]}\n" for k in range(80))
    )
    scores = [(task, method) for task in ("imdb", "sst2", "ag") for method in ("lora", "full", "bitfit")]
    lines = [f"{task},{method},0.{k + 10}\n" for k, (task, method) in enumerate(scores)]
    (folder / "long.csv").write_text("task,strategy,score\n" + "".join(lines))
    return folder


@pytest.mark.parametrize("path", sorted(set(COMMANDS) - WITHOUT))
def test_a_command_that_prints_data_prints_json_and_has_a_schema(path: str) -> None:
    options = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    assert "--format" in options, f"{path} has no --format: give it `format_option`"
    assert schema_of(path).is_file(), f"publish what it prints: {schema_of(path)}"
    assert path in map(path_of, EXAMPLES), f"{path} has no line in EXAMPLES"


def test_no_schema_is_of_nothing() -> None:
    files = {file for program in fuzz.PROGRAMS for file in (ROOT / program / "schemas").glob("*.json")}
    assert files == {schema_of(path) for path in set(COMMANDS) - WITHOUT}
    for file in files:
        jsonschema.Draft202012Validator.check_schema(json.loads(file.read_text(encoding="utf-8")))


def test_output_is_as_published(workplace: Path, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("SWEEPER_DATA", str(workplace / "data"))
    wrong = []
    for line in EXAMPLES:
        text = line.replace("SHIPPED", str(ROOT / "results" / "shipped")).replace("TRIAL", small.spec().trial_id)
        program, *words = shlex.split(text)
        code, out, err = called(*words, "--format", "json", program=program)
        schema = json.loads(schema_of(path_of(line)).read_text(encoding="utf-8"))
        try:
            found = json.loads(out)
        except ValueError:
            wrong.append(f"{line}: code {code}, no JSON: {out[:200]} {err[-300:]}")
            continue
        for error in jsonschema.Draft202012Validator(schema).iter_errors(found):
            deepest = max(error.context or [error], key=lambda own: len(own.absolute_path))
            wrong.append(f"{line}: {[*deepest.absolute_path]}: {deepest.message[:300]}")
    assert not wrong, "\n".join(wrong)


def test_a_schema_can_be_asked_for(called: Called) -> None:
    code, out, _ = called("schema", "show")
    assert code == 0
    assert json.loads(out)["title"] == "sweeper show --format json"
    code, _, err = called("schema", "shwo", program="sweeper")
    assert code == 2
    assert "Did you mean 'show'" in err
