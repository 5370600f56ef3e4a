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
    "sweeper.upkeep",
    "sweeper.provenance",
    "sweeper.suggest",
    "sweeper.diagnose",
    "sweeper.search",
    "sweeper.early_stop",
    "sweeper.safe_json",
}
COSTS = ("shapes", "configs", "model_files", "trainable", "devices", "costs", "plan", "plan_cli")
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
    "advisor.cli": ADVICE
    | LIGHT
    | {"advisor.next_cli", "advisor.options", "advisor.serve_cli", "sweeper.command", "sweeper.printing"},
    "advisor.serve_cli": ADVICE | {"advisor.options", "sweeper.listen"},
    "advisor.questions": ADVICE | {"sweeper.page", "sweeper.suggest"},
    "advisor.service": ADVICE | {"advisor.questions", "sweeper", "sweeper.problems"},
    "advisor.next_cli": ADVICE | LIGHT | {"advisor.options"},
    "advisor.options": ADVICE | LIGHT | {"sweeper.data_cli"},
    "sweeper.printing": LIGHT,
    "sweeper.store_cli": LIGHT | {"sweeper.printing"},
    "sweeper.launch_cli": LIGHT | {"sweeper.adapters_cli", "sweeper.data_cli", "sweeper.printing"},
    "sweeper.cli": LIGHT
    | {
        "sweeper.command",
        "sweeper.adapters_cli",
        "sweeper.data_cli",
        "sweeper.import_cli",
        "sweeper.launch_cli",
        "sweeper.predict_cli",
        "sweeper.printing",
        "sweeper.serve_cli",
        "sweeper.store_cli",
        "sweeper.submit_cli",
    },
    "sweeper.guard": set(),
    "sweeper.listen": {"sweeper.errors"},
    "sweeper.problems": set(),
    "sweeper.service": {"sweeper", "sweeper.guard", "sweeper.predict", "sweeper.problems"},
    "sweeper.serve_cli": {"sweeper.listen"},
    "sweeper.predict_cli": {"sweeper.adapters_cli", "sweeper.printing"},
    "sweeper.signature": {"sweeper.models.base", "sweeper.suggest", "sweeper.tasks.base", "sweeper.work"},
    "sweeper.import_cli": LIGHT | {"sweeper.printing"},
    "sweeper.submit_cli": LIGHT | {"sweeper.errors", "sweeper.launch_cli", "sweeper.printing"},
    "sweeper.data_cli": LIGHT,
    "sweeper.own_data": {
        "sweeper.fetch",
        "sweeper.models.base",
        "sweeper.suggest",
        "sweeper.tasks.columns",
        "sweeper.tasks.own",
        "sweeper.tasks.rows",
        "sweeper.work",
    },
    "sweeper.adapters_cli": LIGHT | {"sweeper.printing"},
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
    if name not in ("sweeper.launch", "sweeper.submit_cli"):
        assert "ray" not in {module.split(".")[0] for module in everything}, "sweeper.launch imports ray for all"
    if name in LIGHT | ADVICE | {
        "sweeper.cli",
        "sweeper.launch_cli",
        "sweeper.printing",
        "sweeper.adapters_cli",
        "sweeper.data_cli",
        "sweeper.listen",
        "sweeper.predict_cli",
        "sweeper.serve_cli",
        "advisor.cli",
        "advisor.serve_cli",
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
