"""The simulation of a store that several commands share, in its smallest form."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.store import operations, page_text
from benchmarks.store_simulation import AFTER_ITS_RECORD, WRONG, Injected, Simulation, counted, simulate
from core.errors import UserError
from core.storage.files import write_json

SMALL = Injected.drawn(trials=12, jobs=1, kills=1, errors=2, hopeless=1)


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    """Two commands share twelve trials; a kill ends the whole of one, since its trials run in its own process."""
    found = simulate(tmp_path, SMALL, commands=2, command_kills=0, seconds=280)
    figures = counted(tmp_path, SMALL, found)
    assert figures["recorded"] == 11
    for key in (*WRONG, "reported_besides", "ended_between", "claims_left"):
        assert figures[key] == 0
    assert figures["hopeless_reported"] == 1
    assert figures["commands_restarted"] == 1
    assert (
        figures["attempts"] >= 12 + 1 + 2 + 1
    )  # one more for the kill, for each error, and for the hopeless one
    calls = operations(tmp_path / "one")
    assert 8 < calls < 40  # claim, weights and record
    steps = {"look for a record that is not there": 1e-5, "read a record": 1e-4}
    page = page_text({**figures, "commands": 2, "workers": 2, "operations": calls, "steps": steps})
    assert "| trained twice | 0 |" in page


def test_more_cannot_go_wrong_than_there_is() -> None:
    with pytest.raises(UserError, match="--trials 10: 12 of them are to go wrong"):
        Injected.drawn(trials=10, jobs=4, kills=4, errors=4, hopeless=4)


def test_kills_come_twice_only_where_a_pool_replaces_processes() -> None:
    drawn = Injected.drawn(trials=100, jobs=4, kills=16, errors=3, hopeless=2)
    assert (len(drawn.kills), len(drawn.kills_twice), len(drawn.errors), len(drawn.hopeless)) == (14, 2, 3, 2)
    assert len({*drawn.kills, *drawn.kills_twice, *drawn.errors, *drawn.hopeless}) == 21
    assert SMALL.kills_twice == ()


@pytest.mark.parametrize(
    ("notes", "wrong"),
    [
        (["begins", "told to end", "begins", "trained", "ends"], set()),  # its command was killed, another goes on
        (["begins", "dies", "begins", "raises", "begins", "trained", "ends"], set()),
        (["begins", "begins", "trained", "ends"], {"two_at_a_time"}),
        (["begins", "trained", "begins", "trained", "ends"], {"two_at_a_time", "trained_twice"}),
        (["begins", "trained", "ends", "begins", "trained", "ends"], {"trained_twice", "unexplained"}),
        (["begins", "trained", "ends", AFTER_ITS_RECORD, "told to end"], {"begun_after_record"}),
        (["begins", "trained", "ends", "begins", "ends"], {"unexplained"}),  # it ended before its record: who made it?
    ],
)  # fmt: skip
def test_faults_of_a_store_are_counted(notes: list[str], wrong: set[str], tmp_path: Path) -> None:
    write_json(tmp_path / "store" / "records" / "key.json", {"seed": 0})
    journal = [(float(moment), "machine0", moment, 0, what) for moment, what in enumerate(notes)]
    figures = counted(tmp_path, Injected(1, 1, (), (), (), ()), Simulation(1.0, 0, 0, journal, [[]]))
    assert {key for key in WRONG if figures[key]} == wrong
