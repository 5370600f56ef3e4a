"""Services as users start them, and their schemas put to the test."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

TOKEN = "-".join(["a", "token", "of", "the", "tests"])


@dataclass
class Running:
    """A command that listens.

    Attributes:
        said: What it told people when it started.
    """

    process: subprocess.Popen[str]
    address: str
    said: str

    @property
    def token(self) -> str:
        found = re.search(r"Bearer ([\w-]+)", self.said)
        return found[1] if found else ""

    def client(self, **headers: str) -> Any:
        import httpx

        known = {"Authorization": f"Bearer {self.token}", **headers}
        return httpx.Client(base_url=self.address, headers=known, trust_env=False, timeout=60)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def start(*line: str) -> Running:
    """Start a command that serves, and wait until it says how to ask it."""
    program = Path(sys.executable).with_name(line[0])
    process = subprocess.Popen(
        [str(program), *line[1:]],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = ""
    assert process.stderr
    while "curl" not in said:
        more = process.stderr.readline()
        assert more, said
        said += more
    address = re.search(r"http://[\d.]+:\d+", said)
    assert address
    return Running(process, address[0], said)


def check_against_schema(app: Any, examples: int) -> dict[str, Any]:
    """See that what an application answers to anything is what its schema says; return the schema."""
    import schemathesis

    by_token = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=by_token)
    # A text may not be one, and answers may contradict one another: no schema says so.
    lenient = schemathesis.checks.CHECKS.get_one("positive_data_acceptance")
    for operation in schema.get_all_operations():
        case = operation.ok().as_strategy()

        @given(case=case)
        @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
        def check(case: Any) -> None:
            case.call_and_validate(headers=by_token, excluded_checks=[lenient])

        check()
    return dict(schema.raw_schema)
