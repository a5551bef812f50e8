"""Thousands of whole-cluster lives: at most one result an input, no over-commit, nothing lost, nothing leaked.

`HOTBED_SIM_SCHEDULES=50000 HOTBED_SIM_SCALE=4` runs more and bigger ones. A failure names its seed; run that one alone with
`HOTBED_SIM_SEED=...`.
"""

from __future__ import annotations

import io
import os
import secrets

import pytest

from hotbed_scheduler import journal
from support.simulation import Simulation

SCHEDULES = int(os.environ.get("HOTBED_SIM_SCHEDULES", "2000"))
SCALE = int(os.environ.get("HOTBED_SIM_SCALE", "1"))
BATCHES = 20
FRESH = 40


def live(seed: int) -> Simulation:
    simulation = Simulation(seed, SCALE)
    try:
        simulation.run()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, scale {SCALE}, at {simulation.now_s:.3f} s: {error}") from error
    return simulation


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_life_keeps_the_promises(batch: int) -> None:
    for seed in range(batch, SCHEDULES, BATCHES):
        live(seed)


def test_fresh_seeds_keep_them_too() -> None:
    for _ in range(FRESH):
        live(secrets.randbits(48))


def test_one_seed() -> None:
    """The seed of HOTBED_SIM_SEED, and that a life is reproducible at all."""
    seed = int(os.environ.get("HOTBED_SIM_SEED", "1"))
    first, second = live(seed), live(seed)
    assert first.now_s == second.now_s
    assert first.actions == second.actions


@pytest.mark.parametrize("seed", range(100, 110))
def test_a_recorded_life_replays_to_the_same_actions(seed: int) -> None:
    simulation = live(seed)
    file = io.StringIO()
    journal.write_header(file, simulation.settings, simulation.generation)
    for now_s, event in simulation.journal:
        journal.record(file, now_s, event)
    file.seek(0)
    replayed = list(journal.replay(file, check=True))
    assert [event for _, event, _ in replayed] == [event for _, event in simulation.journal]
    assert [actions for _, _, actions in replayed] == simulation.actions


def test_the_simulation_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that delivers every output twice is caught: the checks are alive."""
    original = Simulation.carry_out

    def twice(self: Simulation, event: object, action: object) -> None:
        original(self, event, action)  # type: ignore[arg-type]
        if type(action).__name__ == "Accept":
            original(self, event, action)  # type: ignore[arg-type]

    monkeypatch.setattr(Simulation, "carry_out", twice)
    with pytest.raises(AssertionError, match="second result"):
        live(3)
