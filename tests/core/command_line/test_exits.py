from __future__ import annotations

import signal
import subprocess
import sys
import threading
import warnings
from argparse import ArgumentParser
from pathlib import Path

import pytest

from core import FrozenChannelsWarning
from core.command_line.exits import RESUME, run_command, run_parsed
from core.errors import MissingData, UserError
from core.interruption import Preempted

ROOT = Path(__file__).parents[3]


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
        (KeyboardInterrupt("SIGINT"), 130, "interrupted; start it again\n"),
        (Preempted("SIGUSR1"), 75, "stopped by SIGUSR1; start it again\n"),
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


def test_warnings_of_ours_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    files = (ROOT / "core/any.py", ROOT / ".venv/lib/any.py", Path("/elsewhere/core/any.py"))

    def command() -> int:
        for file in files:
            print(warnings.formatwarning("said", UserWarning, str(file), 1), end="")
        return 0

    for debug in (False, True):
        assert run_command(command, debug=debug) == 0
        first, *others = capsys.readouterr().out.splitlines()
        assert first == (f"{files[0]}:1: UserWarning: said" if debug else "warning: said")
        assert others == [f"{file}:1: UserWarning: said" for file in files[1:]]
    assert warnings.formatwarning("said", UserWarning, str(files[0]), 1).startswith(str(files[0]))


def test_a_network_that_is_looked_at_in_several_places_is_warned_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> int:
        for said in ("'a'", "'a'", "'b'"):
            for kind in (FrozenChannelsWarning, UserWarning):
                print(warnings.formatwarning(said, kind, str(ROOT / "core/any.py"), 1), end="")
        return 0

    for _ in range(2):
        assert run_command(command, debug=False) == 0
        assert capsys.readouterr().out.split("warning: ")[1:] == [
            f"{said}\n" for said in ("'a'", "'a'", "'a'", "'b'", "'b'")
        ]


def test_an_empty_argument_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("folder", type=Path)
    assert run_parsed(parser, lambda options: 0, [""]) == 2
    assert "an argument is empty" in capsys.readouterr().err


@pytest.mark.parametrize("debug", [False, True])
def test_a_failure_in_a_thread_is_one_line(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        thread = threading.Thread(
            target=failing, args=[OSError(28, "No space left on device")], name="writer"
        )
        thread.start()
        thread.join()
        return 0

    before = threading.excepthook
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", threading.__excepthook__)  # not pytest's own
        assert run_command(command, debug=debug) == 0
    assert threading.excepthook is before
    error = capsys.readouterr().err
    assert ("Traceback" in error) == debug
    assert debug or error == "failed in writer: OSError: [Errno 28] No space left on device\n"


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


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_signals_have_a_status_of_their_own(
    name: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)

    def command() -> int:
        signal.raise_signal(number)
        raise AssertionError("not reached")

    assert run_command(command, debug=False) == status
    told = "interrupted" if name == "SIGINT" else f"stopped by {name}"
    assert capsys.readouterr().err == f"{told}; {RESUME}\n"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("lines", [1, 100_000])  # fewer and more than the buffer holds
def test_a_reader_that_leaves_is_no_failure_to_print(lines: int, unread: bool, tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = (
        "import sys; from core.command_line.exits import run_command\n"
        "def command():\n"
        "    sys.stdin.read()\n"  # until the reader has left
        f"    for _ in range({lines}): print('x')\n"
        "    sys.stdout.flush()\n"
        f"    open({str(done)!r}, 'w').close()\n"
        "    return 0\n"
        f"sys.exit(run_command(command, False, unread={unread}))"
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
        assert process.wait() == 0
    assert done.exists() == unread  # a command whose results are files goes on to its end


def in_shell(line: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which "$@" is this Python."""
    return subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, *arguments], capture_output=True, text=True, check=False
    )


SAYING = (
    "import sys; from core.command_line.exits import run_command\n"
    "def command():\n"
    "    print(sys.argv[1])\n"
    "    return 0\n"
    "sys.exit(run_command(command, False))"
)


def test_streams_that_are_closed_are_no_traceback() -> None:
    done = in_shell('"$@" >&-', "-c", SAYING, "x")
    assert (done.returncode, done.stderr) == (0, "")
    done = in_shell('"$@" 2>&-', "-c", SAYING, "x")
    assert (done.returncode, done.stdout) == (0, "x\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_the_output_is_told_once() -> None:
    done = in_shell('"$@" >/dev/full', "-c", SAYING, "x")
    assert done.returncode == 1
    assert (
        done.stderr
        == "failed: OSError: [Errno 28] No space left on device: '<stdout>' (--debug shows where)\n"
    )


def test_names_that_the_terminal_has_no_letters_for_are_escaped() -> None:
    done = in_shell('PYTHONIOENCODING=ascii "$@"', "-c", SAYING, "größe ±")
    assert (done.returncode, done.stdout) == (0, "gr\\xf6\\xdfe \\xb1\n")


HELPING = (
    "import sys; from argparse import ArgumentParser; from core.command_line.exits import run_parsed\n"
    "sys.stdin.read()\n"
    "sys.exit(run_parsed(ArgumentParser(description='Σ over samples'), lambda arguments: 0, ['--help']))"
)


def test_help_needs_no_letters_and_no_reader() -> None:
    done = in_shell('PYTHONIOENCODING=ascii "$@" </dev/null', "-c", HELPING)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u03a3 over samples" in done.stdout
    done = in_shell('{ sleep 0.1; } | "$@" | true; echo done', "-c", HELPING)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_no_torch_is_imported() -> None:
    code = "import sys, core.command_line.exits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
