"""Who may import whom, and what a start-up may load."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
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
    "sweeper.upkeep",
    "sweeper.provenance",
    "sweeper.suggest",
    "sweeper.diagnose",
    "sweeper.search",
    "sweeper.early_stop",
    "sweeper.safe_json",
}
MANNERS = {"sweeper.command", "sweeper.completion", "sweeper.printing"}
COSTS = ("shapes", "configs", "model_files", "trainable", "devices", "costs", "plan")
ANSWER = ("situation", "rules", "evidence", "portfolio", "feasible", "recommend", "report", "explain", "first")
ADVICE = {f"advisor.{name}" for name in (*ANSWER, *COSTS)}

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
    "advisor.cli": ADVICE | LIGHT | MANNERS | {"advisor.next_cli", "advisor.options", "advisor.plan_cli"},
    "advisor.next_cli": ADVICE | LIGHT | MANNERS | {"advisor.options"},
    "advisor.options": ADVICE | LIGHT | MANNERS | {"sweeper.data_cli"},
    "advisor.plan_cli": ADVICE | LIGHT | MANNERS,
    "sweeper.printing": LIGHT,
    "sweeper.command": {"sweeper", "sweeper.printing", "sweeper.completion", "sweeper.schema_cli"},
    "sweeper.completion": LIGHT,
    "sweeper.schema_cli": {"sweeper.suggest"},
    "sweeper.store_cli": LIGHT | MANNERS,
    "sweeper.launch_cli": LIGHT | MANNERS | {"sweeper.adapters_cli", "sweeper.data_cli"},
    "sweeper.cli": LIGHT
    | MANNERS
    | {
        "sweeper.adapters_cli",
        "sweeper.data_cli",
        "sweeper.doctor_cli",
        "sweeper.import_cli",
        "sweeper.launch_cli",
        "sweeper.store_cli",
        "sweeper.submit_cli",
        "sweeper.validate_cli",
    },
    "sweeper.doctor": {"sweeper.disk"},
    "sweeper.doctor_cli": MANNERS,
    "sweeper.validate_cli": MANNERS,
    "sweeper.import_cli": LIGHT | MANNERS,
    "sweeper.submit_cli": LIGHT | MANNERS | {"sweeper.errors", "sweeper.launch_cli"},
    "sweeper.data_cli": LIGHT | MANNERS,
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


@functools.cache
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
    if name not in ("sweeper.launch", "sweeper.submit_cli"):
        assert "ray" not in {module.split(".")[0] for module in everything}, "sweeper.launch imports ray for all"
    if name in LIGHT | ADVICE | {
        "sweeper.cli",
        "sweeper.launch_cli",
        *MANNERS,
        "sweeper.adapters_cli",
        "sweeper.data_cli",
        "sweeper.doctor",
        "sweeper.doctor_cli",
        "sweeper.validate_cli",
        "advisor.cli",
        "advisor.plan_cli",
        "advisor.next_cli",
        "advisor.options",
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
    ],
)
def test_start_up_loads_nothing_heavy(call: str, tmp_path: Path) -> None:
    program = f"{call}\nimport sys\nprint('loaded:', *sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "sweeper" in loaded
    assert not loaded & (HEAVY | {"numpy"})
