"""The results of the shrinkage benchmark as tables, JSON and a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.networks import Network
from benchmarks.shrinking import BISECTION_TOLERANCE, Shrunk
from core.tables import markdown_table
from core.timing import Outcome

WIDTHS, CUT = "ours, widths", "ours, cut network"
# How far from the budget a run of Torch-Pruning may end, in shares of the baseline's MACs: above it by its bisection's
# tolerance at most; below it by a loose tolerance (its stepwise loop overshoots), or by the bisection's.
ABOVE = BISECTION_TOLERANCE
LOOSE, CLOSE = 0.02, BISECTION_TOLERANCE
TARGET_RATIO = 20.0


@dataclass(frozen=True)
class Row:
    """All measurements on one network.

    Attributes:
        network: which.
        groups: free channel groups that we found.
        outcomes: way -> times and result, ours first.
        shares: way -> MACs of its network over the baseline's, by our own counter on the cut network.
        runs: way -> whether the cut network runs and gives the baseline's output shape.
        spare: channels that our result could still add within the budget.
        masked_equals_cut: largest relative difference between our masked and our cut network, on random keeps.
        first_call: "ours" and "peer" -> seconds of the first call in a fresh process.
    """

    network: Network
    groups: int
    outcomes: Mapping[str, Outcome[Shrunk]]
    shares: Mapping[str, float]
    runs: Mapping[str, bool]
    spare: int | None
    masked_equals_cut: float | None
    first_call: Mapping[str, float]

    def fastest_peer(self, target: float, below: float = LOOSE) -> str | None:
        """Torch-Pruning's fastest way to a network that runs and costs at most `below` less than the budget."""
        seconds = {
            name: outcome.timing.median
            for name, outcome in self.outcomes.items()
            if name not in (WIDTHS, CUT)
            and outcome.timing is not None
            and self.runs[name]
            and -below <= self.shares[name] - target <= ABOVE
        }
        return min(seconds, key=seconds.__getitem__) if seconds else None

    def ratio(
        self, target: float, below: float = LOOSE, *, ours: str = CUT, cpu: bool = False
    ) -> float | None:
        """The peer's fastest way over ours, in median seconds; None if one side has none."""
        peer = self.fastest_peer(target, below)
        return self.times_ours(peer, ours=ours, cpu=cpu) if peer else None

    def times_ours(self, way: str, *, ours: str = CUT, cpu: bool = False) -> float | None:
        """Seconds of one of the peer's ways over ours; None if one side failed."""
        mine, theirs = self.outcomes[ours].timing, self.outcomes[way].timing
        if mine is None or theirs is None:
            return None
        return theirs.cpu_median / mine.cpu_median if cpu else theirs.median / mine.median


def our_table(rows: Sequence[Row]) -> str:
    """The table of our own results, one row per network."""
    header = ["network", "groups", "to widths", "to the cut network", "MACs", "channels to spare"]
    header += ["masked − cut", "first call"]
    cells = [
        [
            row.network.title,
            str(row.groups),
            _time_of(row, WIDTHS),
            _time_of(row, CUT),
            _number(row.shares.get(CUT), ".5f"),
            _number(row.spare, "d"),
            _number(row.masked_equals_cut, ".0e"),
            _number(row.first_call.get("ours"), ".2f") + " s",
        ]
        for row in rows
    ]
    return markdown_table(header, cells)


def comparison_table(rows: Sequence[Row], target: float) -> str:
    """The comparison with Torch-Pruning's fastest ways, one row per network and tolerance."""
    header = ["network", "ends within", "fastest way", "time", "MACs", "times faster: ours"]
    header += ["by CPU time", "ours, widths", "first call"]
    cells = []
    for row in rows:
        if all(row.outcomes[name].failure for name in row.outcomes if name not in (WIDTHS, CUT)):
            cells.append([row.network.title, "–", "every way fails", *["–"] * 6])
            continue
        for below in (LOOSE, CLOSE):
            peer = row.fastest_peer(target, below)
            first = _number(row.first_call.get("peer"), ".2f") + " s" if below == LOOSE else ""
            cells.append(
                [
                    row.network.title,
                    f"{below:.1%}",
                    peer or "none",
                    _time_of(row, peer) if peer else "–",
                    _number(row.shares.get(peer or ""), ".4f"),
                    _number(row.ratio(target, below), ".1f"),
                    _number(row.ratio(target, below, cpu=True), ".1f"),
                    _number(row.ratio(target, below, ours=WIDTHS), ".1f"),
                    first,
                ]
            )
    return markdown_table(header, cells)


def _time_of(row: Row, name: str) -> str:
    outcome = row.outcomes[name]
    return str(outcome.timing or outcome.failure)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def peer_table(rows: Sequence[Row]) -> str:
    """The table of all of Torch-Pruning's ways on all networks."""
    header = ["network", "way", "time", "runs", "steps or trials", "MACs", "times ours", "cut network"]
    cells: list[list[str]] = []
    for row in rows:
        peer = {name: outcome for name, outcome in row.outcomes.items() if name not in (WIDTHS, CUT)}
        failures = {outcome.failure or "" for outcome in peer.values()}
        if len(failures) == 1 and "" not in failures:
            cells.append([row.network.title, f"every way ({len(peer)})", *["–"] * 5, *failures])
            continue
        for name, outcome in peer.items():
            if outcome.timing is None or outcome.result is None:
                cells.append([row.network.title, name, *["–"] * 5, outcome.failure or "–"])
                continue
            state = "runs" if row.runs[name] else "does not run"
            times = [str(outcome.timing), str(len(outcome.timing.wall)), str(outcome.result.trials)]
            shares = [f"{row.shares[name]:.4f}", _number(row.times_ours(name), ".1f")]
            cells.append([row.network.title, name, *times, *shares, state])
    return markdown_table(header, cells)


def to_json(rows: Sequence[Row], target: float) -> dict[str, Any]:
    """Everything, for machines."""
    networks = {}
    for row in rows:
        ways: dict[str, Any] = {}
        for name, outcome in row.outcomes.items():
            if outcome.timing is None or outcome.result is None:
                ways[name] = {"failure": outcome.failure}
                continue
            ways[name] = {"seconds": outcome.timing.to_json(), "trials": outcome.result.trials}
            ways[name] |= {"macs": row.shares.get(name), "runs": row.runs.get(name)}
            ways[name]["times_ours"] = row.times_ours(name)
            if outcome.result.phases:
                ways[name]["phases_of_last_run"] = outcome.result.phases
        networks[row.network.title] = {
            "input": list(row.network.shape),
            "groups": row.groups,
            "channels_to_spare": row.spare,
            "masked_equals_cut": row.masked_equals_cut,
            "ways": ways,
            "comparison": {
                name: {
                    "ends_within": below,
                    "fastest_peer_way": row.fastest_peer(target, below),
                    "times_faster": row.ratio(target, below),
                    "times_faster_cpu": row.ratio(target, below, cpu=True),
                    "times_faster_to_widths": row.ratio(target, below, ours=WIDTHS),
                }
                for name, below in (("loose", LOOSE), ("close", CLOSE))
            },
            "first_call_seconds": dict(row.first_call),
        }
    return {"benchmark": "shrinkage", "target": target, "networks": networks}


def page(rows: Sequence[Row], target: float) -> str:
    """The page for `docs/results`."""
    return (
        f"{_verdict(rows, target)}\n\n"
        "## Ours\n\nTrace, magnitude scores and exact search give widths and masks; then the network is cut. Seconds "
        "are medians (lowest–highest run). Channels to spare: how many single channels would still fit into the "
        "budget. Masked − cut: largest relative difference of the outputs. First call: in a fresh process, imports of "
        f"the library included, torch imported before.\n\n{our_table(rows)}\n\n"
        "## Against Torch-Pruning\n\nIts fastest way to a network that runs and ends at most so much of the "
        f"baseline's MACs under the budget, and never more than {ABOVE:.1%} above it. Compared with ours to the cut "
        "network, which is what it ends with; *ours, widths*: with ours to the widths that meet the budget, its "
        f"trace, scores and search.\n\n{comparison_table(rows, target)}\n\n"
        f"## Torch-Pruning, every way\n\n{peer_table(rows)}"
    )


def _reached(rows: Sequence[Row], target: float, below: float, ours: str) -> str:
    """'4 of 5 networks; less on U-Net 12.4'."""
    ratios = {row.network.title: row.ratio(target, below, ours=ours) for row in rows}
    found = {title: ratio for title, ratio in ratios.items() if ratio is not None}
    lost = [f"{title} {ratio:.1f}" for title, ratio in found.items() if ratio < TARGET_RATIO]
    return f"{len(found) - len(lost)} of {len(found)} networks" + (
        f"; less on {', '.join(lost)}" if lost else ""
    )


def _verdict(rows: Sequence[Row], target: float) -> str:
    sentences = []
    for below in (LOOSE, CLOSE):
        start = f"Against ways that end within {below:.1%}: at least {TARGET_RATIO:.0f} times faster on "
        sentences.append(start + _reached(rows, target, below, CUT) + ".")
        sentences.append("To widths alone: on " + _reached(rows, target, below, WIDTHS) + ".")
    failed = [row.network.title for row in rows if row.fastest_peer(target) is None]
    if failed:
        sentences.append(f"Torch-Pruning does not reach the budget on {', '.join(failed)}.")
    return " ".join(sentences)
