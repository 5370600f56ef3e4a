"""Thousands of sweeps on a disk that fails; `python -m tests.faults.simulate` runs more, and one again by its seed."""

from __future__ import annotations

from itertools import count

import pytest

from tests.faults.simulate import Schedule, simulate

SCHEDULES = 10_000


def test_nothing_is_lost_run_again_or_called_done_whatever_fails() -> None:
    seen = simulate(range(SCHEDULES))
    assert seen["sweeps"] == SCHEDULES
    for what in ("power cuts", "kills", "refused writes", "lost workers", "hanging workers", "compactions"):
        assert seen[what] > SCHEDULES / 20, f"too few {what} to have tested anything"


@pytest.mark.parametrize("what", ["full", "fail"])
def test_a_disk_that_refuses_at_any_call_is_an_error_and_nothing_is_lost(what: str) -> None:
    refused = 0
    for call in count(1):
        sweep = Schedule(seed=0, smooth=True)
        sweep.disk.arm(call, what)
        try:
            assert sweep.launch()
        except OSError:
            refused += 1
        if sweep.disk.calls < call:
            break
        sweep.disk.kill()
        sweep.disk.free()
        assert sweep.launch()  # looks first whether all that was reported is there
    assert refused > 10
