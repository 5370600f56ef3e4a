"""Every error names the thing, the value and the way out; the catalogue is read off the source, not kept by hand."""

from __future__ import annotations

import ast

import pytest

from tests.errors import Error, errors, of_tree

# What makes no sense together is left out, and this says why; where it ends a launch `check_all` adds the way out.
# Packs that cannot be made never leave the packer.
REASONS = {"NotApplicableError", "CannotPackError", "_SlowerTogetherError", "_CutReachedError"}

# Module -> beginnings of texts that never stand alone, and what stands around them.
PARTS: dict[str, dict[str, str]] = {
    "advisor/emit/job.py": {
        "{tool} has ": "in `tools.emit`: what the tool can say, and which tools can say this, follow",
        "{job.strategy}.targets ": "the same",
    },
    "advisor/emit/llama_factory.py": {"llama-factory has ": "the same"},
    "advisor/emit/peft.py": {"peft has ": "the same"},
    "advisor/emit/script.py": {"the script classifies texts": "the same"},
    "advisor/emit/torchtune.py": {"torchtune has ": "the same"},
    "advisor/evidence.py": {
        "bad value of ": "in `load`: 'FILE' is not a fitted file (...); `advisor fit` writes one",
        "its format is ": "the same",
        "its schema ": "the same",
    },
    "sweeper/checkpoint.py": {
        "something trains here": "in `restored`: the checkpoint does not fit and is removed, launch again",
        "{name} {tuple(tensor.shape)} has no place": "the same",
    },
    "sweeper/cited.py": {"it holds neither results": "in `read`: 'FILE' cannot be read: ..."},
    "sweeper/disk.py": {"it is not a plain file": "readers put the file before it"},
    "sweeper/leave.py": {
        "{name} is {tuple(large.shape)}": "packs that do not merge go on apart",
        "{name} is in": "...",
    },
    "sweeper/models/minilm_l3.py": {"no ONNX file of": "of a file that we fetched, and whose checksum we know"},
    "sweeper/predict.py": {"input {number}: ": "of one input, before what is said of it alone"},
    "sweeper/prefix.py": {"no tensor passes the cut": "such a model is trained without the short cut"},
    "sweeper/results.py": {
        "unfinished line": "a Damage: file, line, and that the rest is read",
        "the checksum": "the same",
        "the row has schema": "the same",
        "not a row of schema": "the same",
    },
    "sweeper/safe_json.py": {
        "{constant} is no number": "in `parse_object`: FILE is not JSON: ... Copy or save it anew",
        "a key stands there twice": "the same",
    },
    "sweeper/spec.py": {
        "trial_id {stored_id}": "in `decode`: a Damage, or FILE: trial is no trial",
        "{name} is not an object": "the same",
        "a complete row without": "the same",
    },
    "sweeper/suggest.py": {"no {kind} named": "lists what there is, the nearest first"},
    "sweeper/tasks/pictures.py": {"no image that can be read": "the reason why a row was dropped, in the report"},
    "sweeper/train.py": {"a parameter that trained": "only a strategy of one's own that takes modules away gets here"},
}

CATALOGUE = errors()


def is_part(error: Error) -> bool:
    return any(error.text.startswith(start) for start in PARTS.get(error.module, ()))


def test_the_catalogue_holds_what_the_packages_raise() -> None:
    assert len(CATALOGUE) > 300
    texts = [error.text for error in CATALOGUE]
    for known in ("no results store at", "is not a fitted file", "cannot be met: there are", "does not fit"):
        assert any(known in text for text in texts), known
    assert len([error for error in CATALOGUE if not error.lacks]) > 0.85 * len(CATALOGUE), (
        "exceptions are the exception"
    )


@pytest.mark.parametrize("module", sorted({error.module for error in CATALOGUE}))
def test_every_error_names_a_value_and_a_way_out(module: str) -> None:
    here = [error for error in CATALOGUE if error.module == module]
    lacking = [
        f"{module}:{error.line}: {error.text!r} lacks {error.lacks}"
        for error in here
        if error.lacks and error.kind not in REASONS and not is_part(error)
    ]
    assert not lacking, "\n".join(lacking)
    stale = [start for start in PARTS.get(module, ()) if not any(error.text.startswith(start) for error in here)]
    assert not stale, f"no error of {module} begins so any more: {stale}"


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ('raise ValueError("bad value")', "a value"),
        ('raise ValueError(f"{name!r} is bad")', "a way out"),
        ('raise ValueError(f"{name!r} is bad: use a number from 1 to 9")', ""),
        ('raise click.UsageError("--a and --b contradict: leave one out")', ""),
        ('raise ValueError(f"{where}: {error}")', ""),
        ('error = OSError(f"{name} is " + ("gone" if gone else f"full: free {size} bytes"))', "a way out"),
        ('return UnavailableError(f"{name} is away") if away else None', "a way out"),
        ('raise ValueError(f"there is no folder {name!r}")', "a way out"),
    ],
)
def test_what_counts_as_one(source: str, lacks: str) -> None:
    tree = ast.parse(source if not source.startswith("return") else f"def f():\n    {source}")
    found = [
        error.lacks for error in of_tree("x.py", tree, {"ValueError", "OSError", "UsageError", "UnavailableError"})
    ]
    assert lacks in found
    assert lacks or found == [""]
