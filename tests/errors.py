"""The catalogue of errors: every one that the two packages can raise at a user, read off their source.

An error names the thing, the value that was found, and the way out. Whether its text does is decided here by the text
alone; `python -m tests.errors` prints the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What becomes a line for the user, or a part of one; what of ours derives from them is found in the source.
RAISED = {"ValueError", "OSError", "ConnectionError", "TypeError", "RuntimeError", "UsageError", "BadParameter"}
NOTHING: Mapping[str, object] = {}
# Functions of others that make an error of what they are given.
MAKERS = {"fail"}
VERBS = (
    "add|ask|bring|check|choose|close|copy|delete|drop|end|fetch|free|give|group|have|install|launch|leave|load|make|mend"
    "|name|pick|prepare|put|run|save|say|set|show|start|take|try|uninstall|unset|use|write"
)
WAY_OUT = re.compile(
    rf"""
    `[^`]+`                                          # a command to type
    | (?<![\w-])--[a-z§]                             # an option
    | \bpip\ install\b | \bsweeper\ [a-z]+\ | \badvisor\ [a-z]+
    | \b(must|needs?|can\ only|has\ to)\b            # what would be right
    | \bat\ (least|most)\b | \bbelow\b | \b(more|longer|larger)\ than\b | \bread\ are\b
    | \b(Available|Shipped|Example|Examples|for\ example|such\ as|not\ one\ of|(there\ are|it\ has)\ §)
    | (^|[:;.,]\ |\bor\ |\band\ |\ \()(?i:{VERBS})\b  # what to do
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Error:
    """One place that makes an error.

    Attributes:
        text: What it says, with {expression} where something is filled in.
        values: How many of these there are.
        bare: Whether it only puts something before what another error says.
    """

    module: str
    line: int
    kind: str
    text: str
    values: int
    bare: bool

    @property
    def lacks(self) -> str:
        """What is not in it: a value, a way out, or nothing."""
        if self.bare:
            return ""
        if not self.values and not re.search(
            r"(^| )--[a-z]|pip install", self.text
        ):  # options, packages: named as such
            return "a value"
        fixed = re.sub(r"\{[^{}]*\}", "§", self.text)
        return "" if WAY_OUT.search(fixed) else "a way out"


def errors() -> list[Error]:
    """Return every error of the two packages, in the order of their files."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in ("sweeper", "advisor")
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    constants = {
        node.targets[0].id: node.value.value
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and " " in str(node.value.value)  # a sentence
    }
    classes = {"ClickException"} | RAISED
    for _ in range(3):  # classes of ours, and those that derive from them
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and any(_name(base) in classes for base in node.bases):
                    classes.add(node.name)
    return [error for module, tree in trees.items() for error in of_tree(module, tree, classes, constants)]


def of_tree(
    module: str, tree: ast.AST, classes: Collection[str] = RAISED, constants: Mapping[str, object] = NOTHING
) -> Iterator[Error]:
    """Yield the errors that a module makes, whether it raises them at once or hands them on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in {*classes, *MAKERS} and node.args:
            for text, values in _texts(node.args[0], constants):
                words = re.sub(r"\{[^{}]*\}", "", text)
                bare = bool(values) and not re.search(r"[a-z]{3}", words)
                yield Error(module, node.lineno, _name(node.func), text, values, bare)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr, constants: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """Yield what an expression can say: both sides of a choice, parts that are added joined."""
    if isinstance(node, ast.Constant):
        yield str(node.value), 0
    elif isinstance(node, ast.JoinedStr):
        parts, filled = [], 0
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue) and (inner := ast.unparse(part.value)) in constants:
                parts.append(str(constants[inner]))
            else:
                parts.append(f"{{{re.sub(r'[{}]', '', ast.unparse(part.value))}}}")  # type: ignore[attr-defined]
                filled += 1
        yield "".join(parts), filled
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, constants)
        yield from _texts(node.orelse, constants)
    elif isinstance(node, ast.BinOp):
        for left, more in _texts(node.left, constants):
            for right, most in _texts(node.right, constants):
                yield left + right, more + most
    else:
        yield f"{{{ast.unparse(node)}}}", 1


if __name__ == "__main__":
    for error in errors():
        print(
            f"{error.module}:{error.line} {error.kind}: {error.text}{f'  LACKS {error.lacks}' if error.lacks else ''}"
        )
