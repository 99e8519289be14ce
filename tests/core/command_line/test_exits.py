from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser

import pytest

from core.command_line.exits import run_command, run_parsed
from core.errors import MissingData, UserError


def failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such network"), 2, "error: no such network\n"),
        (MissingData("images not found"), 2, "error: images not found\n"),
        (
            RuntimeError("out of memory\nsecond line"),
            1,
            "failed: RuntimeError: out of memory (--debug shows where)\n",
        ),
        (OSError(), 1, "failed: OSError:  (--debug shows where)\n"),
        (KeyboardInterrupt(), 1, "interrupted; start it again\n"),
    ],
)
def test_errors_become_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: failing(error), debug=False, interrupted="start it again") == status
    assert capsys.readouterr().err == line


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: failing(UserError("no")), debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_statuses_and_other_errors_pass_through() -> None:
    assert run_command(lambda: 2, debug=False) == 2
    with pytest.raises(KeyError):
        run_command(lambda: failing(KeyError("a bug")), debug=False)


def test_words_are_parsed_before_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--status", type=int)
    parser.add_argument("--debug", action="store_true")
    assert run_parsed(parser, lambda arguments: arguments.status, ["--status", "1"]) == 1
    assert run_parsed(parser, lambda arguments: failing(UserError("no")), ["--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [1, 100_000])  # fewer and more than the buffer holds
def test_a_reader_that_leaves_is_no_failure_to_print(lines: int) -> None:
    code = (
        "import sys; from core.command_line.exits import run_command\n"
        "def command():\n"
        "    sys.stdin.read()\n"  # until the reader has left
        f"    for _ in range({lines}): print('x')\n"
        "    return 0\n"
        "sys.exit(run_command(command, False))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_no_torch_is_imported() -> None:
    code = "import sys, core.command_line.exits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
