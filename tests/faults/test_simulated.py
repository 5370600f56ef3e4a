"""Thousands of sweeps on a disk that fails; `python -m tests.faults.simulate` runs more, and one again by its seed."""

from __future__ import annotations

from tests.faults.simulate import simulate

SCHEDULES = 10_000


def test_nothing_is_lost_run_again_or_called_done_whatever_fails() -> None:
    seen = simulate(range(SCHEDULES))
    assert seen["sweeps"] == SCHEDULES
    for what in ("power cuts", "kills", "refused writes", "lost workers", "hanging workers", "compactions"):
        assert seen[what] > SCHEDULES / 20, f"too few {what} to have tested anything"
