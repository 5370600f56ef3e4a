"""Who may import whom, and what a start-up may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "torchvision", "ray", "pandas", "sklearn", "scipy", "matplotlib", "rich", "pyarrow"}
LIGHT = {
    "sweeper",
    "sweeper.spec",
    "sweeper.metrics",
    "sweeper.disk",
    "sweeper.objects",
    "sweeper.launches",
    "sweeper.cited",
    "sweeper.results",
    "sweeper.sweep",
    "sweeper.standing",
    "sweeper.leaders",
    "sweeper.upkeep",
    "sweeper.provenance",
    "sweeper.suggest",
    "sweeper.diagnose",
    "sweeper.search",
    "sweeper.early_stop",
    "sweeper.safe_json",
    "sweeper.output",
}
MANNERS = {"sweeper.command", "sweeper.completion", "sweeper.printing"}
COSTS = ("shapes", "configs", "model_files", "trainable", "devices", "costs", "plan")
ANSWER = ("situation", "rules", "evidence", "portfolio", "feasible", "recommend", "report", "explain", "first")
ADVICE = {f"advisor.{name}" for name in (*ANSWER, *COSTS)}

# The files of single commands: parse, call, print. A probe trains, and is loaded for one alone.
COMMANDS = {
    f"{folder.name}.{file.stem}" for folder in (ROOT / "sweeper", ROOT / "advisor") for file in folder.glob("*_cli.py")
} - {"advisor.probe_cli"}
FOR_COMMANDS = {
    *(ADVICE | LIGHT | MANNERS | COMMANDS),
    *("advisor.options", "advisor.emit.tools", "sweeper.errors", "sweeper.listen", "sweeper.loggers"),
    *("sweeper.outcome", "sweeper.request", "sweeper.run"),
}

# Module (or package, with a trailing dot) -> project modules that it may import at its top. What is not
# named here may import anything below it; the first entry that fits counts.
MAY_IMPORT = {
    **dict.fromkeys(LIGHT, LIGHT),
    "sweeper.registry": {"sweeper.suggest"},
    **dict.fromkeys(ADVICE, ADVICE | LIGHT),
    "sweeper.summary": LIGHT,
    "advisor.doubt": LIGHT,
    "advisor.fit": ADVICE | LIGHT | {"advisor.doubt", "sweeper.summary"},
    "advisor.published": ADVICE | {"advisor.evaluate", "advisor.gaussian", "advisor.likeness", "advisor.table"},
    "advisor.measured": ADVICE,
    "advisor.fit_costs": ADVICE | LIGHT | {"advisor.measured"},
    "advisor.measure_costs": {"sweeper.models.huggingface"},
    "advisor.table": {"sweeper.results", "sweeper.spec"},
    "advisor.likeness": set(),
    "advisor.gaussian": {"advisor.likeness"},
    "advisor.evaluate": {
        "advisor.gaussian",
        "advisor.likeness",
        "advisor.rules",
        "advisor.situation",
        "advisor.table",
    },
    "advisor.emit.grid": ADVICE | {"advisor.contenders", "advisor.next_trials", "advisor.own"},
    "advisor.emit.": ADVICE | LIGHT | {"advisor.emit"},
    "advisor.regret": LIGHT,
    "advisor.chart": {"sweeper.page"},
    "advisor.page_parts": ADVICE | {"advisor.regret", "sweeper.page"},
    "advisor.page": ADVICE | LIGHT | {"advisor.chart", "advisor.page_parts", "sweeper.page"},
    "advisor.estimator": ADVICE | LIGHT | {"advisor.fit"},
    "advisor.questions": ADVICE | {"sweeper.page", "sweeper.suggest"},
    "advisor.service": ADVICE | {"advisor.questions", "sweeper", "sweeper.problems"},
    "advisor.options": ADVICE | LIGHT | MANNERS | {"sweeper.data_cli"},
    "advisor.cli": FOR_COMMANDS,
    "sweeper.cli": FOR_COMMANDS,
    **dict.fromkeys(COMMANDS, FOR_COMMANDS),
    "sweeper.printing": LIGHT,
    "sweeper.command": {"sweeper", "sweeper.printing", "sweeper.completion", "sweeper.schema_cli"},
    "sweeper.completion": LIGHT,
    "sweeper.request": LIGHT | {"sweeper.loggers", "sweeper.printing"},
    "sweeper.run": LIGHT
    | {"sweeper.standing", "sweeper.loggers", "sweeper.outcome", "sweeper.printing", "sweeper.request"},
    "sweeper.loggers": LIGHT,
    "sweeper.outcome": LIGHT | {"sweeper.summary"},
    "sweeper.page": set(),
    "sweeper.chart": set(),
    "sweeper.contest": LIGHT | {"sweeper.summary"},
    "sweeper.sensitivity": LIGHT | {"sweeper.summary"},
    "sweeper.doctor": {"sweeper.disk"},
    "sweeper.live": LIGHT | {"sweeper.live_page", "sweeper.printing"},
    "sweeper.live_page": LIGHT | {"sweeper.page", "sweeper.printing"},
    "sweeper.machine": set(),
    "sweeper.guard": set(),
    "sweeper.listen": {"sweeper.errors"},
    "sweeper.problems": set(),
    "sweeper.service": {"sweeper", "sweeper.guard", "sweeper.predict", "sweeper.problems"},
    "sweeper.signature": {"sweeper.models.base", "sweeper.suggest", "sweeper.tasks.base", "sweeper.work"},
    "sweeper.own_data": {
        "sweeper.fetch",
        "sweeper.models.base",
        "sweeper.suggest",
        "sweeper.tasks.columns",
        "sweeper.tasks.own",
        "sweeper.tasks.rows",
        "sweeper.work",
    },
    "sweeper.adapters_cli": LIGHT | MANNERS,
    "sweeper.models.": {
        "sweeper.models",
        "sweeper.errors",
        "sweeper.fetch",
        "sweeper.work",
        "sweeper.members",
        "sweeper.registry",
        "sweeper.suggest",
        "sweeper.torchvision_ops",
    },
    "sweeper.work": set(),
    "sweeper.facts": {
        "sweeper.cache",
        "sweeper.metrics",
        "sweeper.models.base",
        "sweeper.tasks.base",
        "sweeper.work",
    },
    "sweeper.cache": set(),
    "sweeper.allocator": set(),
    "sweeper.leave": {"sweeper.members", "sweeper.models.base", "sweeper.strategies.base"},
    "sweeper.optim": {"sweeper.leave"},
    "sweeper.prefix": {
        "sweeper.cache",
        "sweeper.flops",
        "sweeper.members",
        "sweeper.models.base",
        "sweeper.tasks.base",
    },
    "sweeper.errors": set(),
    "sweeper.fetch": {"sweeper.errors", "sweeper.suggest"},
    "sweeper.tasks.": {
        "sweeper.fetch",
        "sweeper.torchvision_ops",
        "sweeper.tasks",
        "sweeper.models.base",
        "sweeper.spec",
        "sweeper.registry",
        "sweeper.suggest",
        "sweeper.work",
    },
    "sweeper.strategies.": {
        "sweeper.strategies",
        "sweeper.models.base",
        "sweeper.members",
        "sweeper.registry",
        "sweeper.spec",
        "sweeper.suggest",
        "sweeper.torchvision_ops",
    },
}


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for package in ("sweeper", "advisor")
        for path in (ROOT / package).rglob("*.py")
    }


def imported(nodes: list[ast.stmt]) -> set[str]:
    """Return the modules that these statements import, blocks for type checkers left out."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            found.add(node.module)
    return found


@pytest.mark.parametrize("name", modules())
def test_imports_follow_the_table(name: str) -> None:
    tree = modules()[name]
    ours = {module for module in imported(tree.body) if module.split(".")[0] in ("sweeper", "advisor")}
    allowed = next(
        (
            allowed
            for key, allowed in MAY_IMPORT.items()
            if name == key or (key.endswith(".") and f"{name}.".startswith(key))
        ),
        None,
    )
    if allowed is not None:
        strangers = {m for m in ours if not any(m == a or (a != "sweeper" and m.startswith(f"{a}.")) for a in allowed)}
        assert not strangers, f"{name} imports {strangers}"
    everything = imported([node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)])
    if name.startswith("sweeper"):
        assert not any(module.split(".")[0] == "advisor" for module in everything), "sweeper never imports advisor"
    if name not in ("sweeper.tune", "sweeper.plan", "sweeper.submit_cli"):
        assert "ray" not in {module.split(".")[0] for module in everything}, "sweeper.tune imports ray for a launch"
    if name in LIGHT | ADVICE | MANNERS | COMMANDS | {
        "advisor.chart",
        "advisor.cli",
        "advisor.options",
        "advisor.page",
        "advisor.page_parts",
        "advisor.regret",
        "sweeper.cli",
        "sweeper.doctor",
        "sweeper.listen",
        "sweeper.loggers",
        "sweeper.outcome",
        "sweeper.request",
        "sweeper.run",
    }:
        assert not HEAVY & {module.split(".")[0] for module in imported(tree.body)}
    assert not {"pickle", "cPickle", "joblib", "dill", "cloudpickle"} & everything, "nothing is pickled"


@pytest.mark.parametrize(
    "call",
    [
        "from advisor.cli import cli; cli(['recommend', '--large-model', '--compute', 'low'], standalone_mode=False)",
        "from advisor.cli import cli; cli(['recommend', '--format', 'json'], standalone_mode=False)",
        "from advisor.cli import cli; cli(['plan', '--model-params', '7B', '--device', 'l4'], standalone_mode=False)",
        "from sweeper.cli import cli; cli(['--help'], standalone_mode=False)",
        "from advisor.cli import cli; cli(['--help'], standalone_mode=False)",
        "from click.shell_completion import BashComplete as B; from sweeper.cli import cli; "
        "assert B(cli, {}, 'sweeper', '').get_completions(['launch', '--strategy'], 'lo')[0].value == 'lora'",
        "import sweeper",
        "from advisor.cli import cli; cli(['recommend', '--large-model', '--emit', 'trl'], standalone_mode=False)",
        "from advisor.cli import cli; cli(['report', '--large-model'], standalone_mode=False)",
    ],
)
def test_start_up_loads_nothing_heavy(call: str, tmp_path: Path) -> None:
    program = f"{call}\nimport sys\nprint('loaded:', *sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "sweeper" in loaded
    assert not loaded & (HEAVY | {"numpy"})
