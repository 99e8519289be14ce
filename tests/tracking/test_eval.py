"""The commands as users type them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import assert_all_end
from tests.tracking.helpers import PROJECT, write_boxes
from tracking import eval as command


def test_list_names_all_280(lasot_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--dataset", "lasot", "--data-root", str(lasot_tree), "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == 280
    assert {"volleyball-19", "rubicCube-1"} <= set(names)
    assert (
        command.main(
            ["--dataset", "lasot", "--data-root", str(lasot_tree), "--list", "--sequences", "rubic*"]
        )
        == 0
    )
    assert capsys.readouterr().out.split() == ["rubicCube-1", "rubicCube-6", "rubicCube-14", "rubicCube-19"]


def test_runs_resumes_scores_and_reports(
    otb_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--dataset", "otb", "--data-root", str(otb_frames), "--partial"]
    output = ["--output", str(tmp_path / "runs"), "--workers", "1"]
    assert command.main([*start, *output, "--tracker", "still"]) == 0
    assert command.main([*start, *output, "--tracker", "ncc"]) == 0
    capsys.readouterr()
    assert command.main([*start, *output, "--tracker", "ncc"]) == 0
    assert "2 of 2 sequences are finished already" in capsys.readouterr().err
    files = {name: tmp_path / name for name in ("all.json", "t.md", "t.tex", "rows.json")}
    scoring = ["--results", str(tmp_path / "runs"), "--compare", "ncc", "still", "--attributes"]
    outputs = ["--json", "all.json", "--markdown", "t.md", "--latex", "t.tex", "--table-json", "rows.json"]
    paths = [str(files.get(item, item)) for item in outputs]
    assert command.main([*start, *scoring, *paths, "--plots", str(tmp_path / "plots")]) == 0
    shown = capsys.readouterr()
    assert "98 of 100 sequences missing" in shown.err
    assert "NP@0.20" in shown.out
    assert "NP-AUC" in shown.out
    found = json.loads(files["all.json"].read_text())
    assert list(found) == ["ncc", "still"]
    assert found["ncc"]["success_auc"] > 0.4
    assert found["still"]["success_auc"] < 0.1
    assert found["ncc"]["attributes"]["FM"]["sequences"] == 2
    assert found["ncc"]["frames_per_second"] > 0
    assert "ncc − still" in files["t.md"].read_text()
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} == {
        "success.png",
        "precision.png",
        "norm_precision.png",
        "attributes.png",
    }
    exporting = ["--results", str(tmp_path / "runs"), "--trackers", "ncc", "--export", "trackingnet"]
    assert command.main([*start, *exporting, str(tmp_path / "s.zip")]) == 0
    assert (tmp_path / "s.zip").is_file()


def test_files_that_are_not_used_are_said(
    lasot_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = {
        name: [[10 + 2 * frame, 20, 30, 40] for frame in range(n)] for name, n in (("car-2", 4), ("cube", 5))
    }
    for path in ("A/car-2.txt", "B/Car_2.txt"):
        write_boxes(tmp_path / "results" / path, truth["car-2"])
    write_boxes(tmp_path / "results/A/rubicCube-6.txt", truth["cube"])
    for path in ("A/notes.txt", "README.md", "figures/a.png"):
        (tmp_path / "results" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "results" / path).touch()
    start = ["--dataset", "lasot", "--data-root", str(lasot_tree), "--results", str(tmp_path / "results")]
    start += ["--sequences", "car-2", "rubicCube-6", "--partial"]
    assert command.main([*start, "--compare", "A", "B"]) == 0
    shown = capsys.readouterr()
    table = shown.out.splitlines()
    assert table[0].startswith("LaSOT test (1 of 2 sequences that all 2 trackers have), ")
    assert [line.split(" | ")[-1] for line in table[2:7]] == ["has results of |", "---: |"] + [
        f"{number} of 2 |" for number in (2, 1, 0)
    ]
    assert table[6].startswith("| figures | – | ")
    for line in (
        "A: not used: 1 file (A/notes.txt)",
        "B: named like a sequence, but not exactly: 1 file (B/Car_2.txt as car-2)",
        "figures: no result in it, not used: 1 file (figures/a.png)",
        "belong to no tracker, not used: 1 file (README.md)",
        "A: 1 result left out that not all trackers have: rubicCube-6",
        "B: no result for 1 sequence, left out: rubicCube-6",
    ):
        assert line in shown.err
    assert "1 left out that not all trackers have" in shown.out


def test_tracks_real_lasot_frames(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (data / "lasot/airplane/airplane-1/img").is_dir():
        pytest.skip(f"needs LaSOT's airplane-1 at {data}/lasot")
    start = ["--dataset", "lasot", "--data-root", str(data), "--output", str(tmp_path), "--workers", "1"]
    assert command.main([*start, "--sequences", "airplane-1", "--tracker", "ncc"]) == 0
    assert "| ncc | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "losat"], "no data set 'losat'"),
        (["--dataset", "lasot", "--protocol", "mine"], "no protocol 'mine'"),
        (["--dataset", "lasot", "--data-root", "/nowhere"], "LaSOT not found under '/nowhere'"),
        (["--dataset", "lasot", "--results", "/nowhere"], "results not found"),
        (["--dataset", "lasot", "--results", "{results}"], "T: no result for 279 of 280"),
        (
            ["--dataset", "lasot", "--results", "{results}", "--sequences", "car-2x"],
            "no sequence matches 'car-2x'",
        ),
        (
            ["--dataset", "lasot", "--results", "{results}", "--partial", "--attributes"],
            "no challenge attributes",
        ),
        (
            ["--dataset", "lasot", "--results", "{results}", "--partial", "--compare", "T", "U"],
            "no tracker 'U'",
        ),
        (
            ["--dataset", "lasot", "--results", "{results}", "--partial", "--export", "got10k", "x"],
            "not end in .zip",
        ),
        (["--dataset", "lasot", "--results", "{results}", "--tracker", "ncc"], "give one of the two"),
        (["--dataset", "lasot", "--trackers", "T"], "add --results"),
        (["--dataset", "lasot", "--workers", "-1"], "--workers -1"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(
    arguments: list[str], message: str, lasot_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toolkit = lasot_tree / "lasot_annotations/annos"
    for name in _names(lasot_tree, capsys):
        write_boxes(toolkit / f"{name}.txt", [[1, 1, 1, 1]])
        write_boxes(toolkit / f"absent/{name}.txt", [[0]])
    write_boxes(toolkit / "car-2.txt", [[1, 1, 1, 1]] * 2)
    write_boxes(toolkit / "absent/car-2.txt", [[0]] * 2)
    write_boxes(tmp_path / "results/T/car-2.txt", [[1, 1, 1, 1]] * 2)
    arguments = [item.format(results=tmp_path / "results") for item in arguments]
    if "--data-root" not in arguments:
        arguments += ["--data-root", str(lasot_tree)]
    assert command.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert not any("Traceback" in line for line in error)


def _names(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert command.main(["--dataset", "lasot", "--data-root", str(root), "--list"]) == 0
    return capsys.readouterr().out.split()


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--dataset", "lasot", "--data-root", str(tmp_path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_as_a_module_in_a_fresh_process(otb_frames: Path, tmp_path: Path) -> None:
    """Workers are spawned from the command itself; torch and matplotlib are not loaded to score."""
    tracker = tmp_path / "mine.py"
    tracker.write_text(
        "from tracking.online.trackers import StillTracker\ndef make():\n    return StillTracker()\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "tracking.eval", "--dataset", "otb", "--data-root", str(otb_frames), "--partial",
            "--tracker", "mine:make", "--workers", "2", "--output", str(tmp_path / "out"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", "LWDNA_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| mine.make | " in done.stdout
    check = "import sys, tracking.eval; sys.exit(bool({'torch', 'matplotlib', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


SLOW = """
import os, time
from pathlib import Path

class Slow:
    def init(self, frame, box):
        Path(os.environ["PIDS"], str(os.getpid())).touch()
        time.sleep(600)

    def update(self, frame):
        return [0, 0, 1, 1]
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_workers_end_with_the_command(number: str, otb_frames: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SLOW)
    (tmp_path / "pids").mkdir()
    command = [
        sys.executable, "-m", "tracking.eval", "--dataset", "otb", "--data-root", str(otb_frames), "--partial",
        "--tracker", "own:Slow", "--workers", "2", "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PIDS": str(tmp_path / "pids")}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    assert_all_end(process, number, tmp_path / "pids")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (["--json", "R/T/car-2.txt"], "--json '.*' is a result that is read"),
        (["--markdown", "link.md"], "--markdown '.*' is a result that is read"),
        (["--latex", "new.txt", "--table-json", "new.txt"], "is the file that --(latex|table-json) names"),
        (["--json", "data/lasot/car/car-2/groundtruth.txt"], "is the ground truth that is read"),
        (["--json", "data/lasot/car/car-2/out_of_view.txt"], "is the ground truth that is read"),
        (["--markdown", "R/T/times/car-2_time.txt"], "is a result that is read"),
        (["--export", "pytracking", "R"], "--export's '.*' is a result that is read"),
    ],
)
def test_what_is_scored_is_not_written_over(
    output: list[str], message: str, lasot_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = "R/T/default/car-2.txt" if output[0] == "--export" else "R/T/car-2.txt"
    write_boxes(tmp_path / layout, [[1, 1, 1, 1]] * 4)
    (tmp_path / "R/T/times").mkdir(parents=True, exist_ok=True)
    (tmp_path / "R/T/times/car-2_time.txt").write_text("0.1\n" * 4)
    (tmp_path / "link.md").symlink_to("R/T/car-2.txt")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = ["--dataset", "lasot", "--data-root", str(lasot_tree), "--results", str(tmp_path / "R")]
    output = [
        item if item.startswith("--") or item == "pytracking" else str(tmp_path / item) for item in output
    ]
    assert command.main([*arguments, "--sequences", "car-2", *output]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
