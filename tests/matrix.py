"""`make matrix`: the tests on the oldest and the newest supported Python and torch, as far as they are at hand.

    make matrix                             the whole suite, up to four times
    make matrix TESTS="tests/core -x"       a part of it

Pythons are looked for on PATH and where pyenv and uv keep theirs; torch comes from pip, within the range of
pyproject.toml. Environments lie in .venv-matrix/ and are kept. What is not there is said, with the reason. Needs
nothing but Python.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-matrix"
NEWEST = (3, 14)  # to look for
# Releases of torchvision come with those of torch, one minor version each: 0.21 with 2.6.
_TORCHVISION_AHEAD = 15
# Pins that another torch replaces: its own, and what it pins itself.
_TORCHS_OWN = re.compile(r"(torch|torchvision|sympy)==")


@dataclass(frozen=True)
class Interpreter:
    """A Python.

    Attributes:
        version: (3, 11, 7).
        path: of its program.
    """

    version: tuple[int, int, int]
    path: Path

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Torch:
    """A torch to test with.

    Attributes:
        name: "oldest" or "newest".
        pins: what pip is to install, in the place of what constraints.txt says of torch and torchvision.
    """

    name: str
    pins: tuple[str, ...]


def supported(project: Path = ROOT / "pyproject.toml") -> tuple[tuple[int, int], tuple[Torch, Torch]]:
    """The oldest Python, and the newest and the oldest torch, that the project allows."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    python = re.search(r">=\s*(\d+)\.(\d+)", table["requires-python"])
    (line,) = (line for line in table["dependencies"] if re.match(r"torch\W", line))
    oldest, beyond = re.search(r">=\s*(\d+)\.(\d+)", line), re.search(r"<\s*(\d+\.\d+)", line)
    if python is None or oldest is None or beyond is None:
        raise ValueError(f"{project}: no lower bound of Python, or torch without both bounds: '{line}'")
    major, minor = map(int, oldest.groups())
    vision = f"torchvision==0.{minor + _TORCHVISION_AHEAD}.*"
    return (int(python[1]), int(python[2])), (
        Torch("newest", (f"torch<{beyond[1]}",)),
        Torch("oldest", (f"torch=={major}.{minor}.*", vision)),
    )


def candidates() -> Iterator[Path]:
    """Programs that may be a Python."""
    for minor in range(NEWEST[1], -1, -1):
        if found := shutil.which(f"python3.{minor}"):
            yield Path(found)
    yield Path(sys.executable)
    home = Path.home()
    for root in (os.environ.get("PYENV_ROOT") or home / ".pyenv", os.environ.get("UV_PYTHON_INSTALL_DIR")
                 or Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "uv/python"):  # fmt: skip
        yield from sorted(Path(root).glob("versions/*/bin/python3"))
        yield from sorted(Path(root).glob("*/bin/python3"))


def interpreters(oldest: tuple[int, int], paths: Iterator[Path]) -> dict[tuple[int, int], Interpreter]:
    """Of every minor version from the oldest on the newest Python that starts."""
    found: dict[tuple[int, int], Interpreter] = {}
    for path in paths:
        code = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:  # pyenv's programs for versions that are not chosen, Debian's without venv
            continue
        version = tuple(map(int, done.stdout.split()))
        one = Interpreter((version[0], version[1], version[2]), path)
        minor = one.version[:2]
        if minor >= oldest and (minor not in found or found[minor].version < one.version):
            found[minor] = one
    return found


def environment(python: Interpreter, torch: Torch) -> tuple[Path | None, str]:
    """The environment's Python, made where it is missing or out of date; or None, and why there is none."""
    name = f"python{python.version[0]}.{python.version[1]}-torch-{torch.name}"
    program, stamp = FOLDER / name / "bin" / "python", FOLDER / name / "installed"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if torch.name != "newest":
        lines = [*(line for line in lines if not _TORCHS_OWN.match(line)), *torch.pins]
    content = "\n".join(
        [*lines, *torch.pins, str(python), (ROOT / "pyproject.toml").read_text(encoding="utf-8")]
    )
    mark = hashlib.sha256(content.encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == mark:
        return program, ""
    FOLDER.mkdir(exist_ok=True)
    constraints = FOLDER / f"{name}.txt"
    constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = {**os.environ, "PIP_CONSTRAINT": str(constraints)}  # make's own names another torch
    install = [program, "-m", "pip", "install", "--quiet", torch.pins[0], "-e", f"{ROOT}[test]"]
    for command in ([python.path, "-m", "venv", "--clear", FOLDER / name], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return None, (errors or done.stderr.strip().splitlines() or ["no message"])[-1][:300]
    stamp.write_text(mark, encoding="utf-8")
    return program, ""


def run(program: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests; whether they pass, and pytest's last line."""
    versions = "import torch, platform; print(platform.python_version(), torch.__version__)"
    told = subprocess.run([program, "-c", versions], capture_output=True, text=True, check=False)
    print(f"== Python, torch: {told.stdout.strip() or told.stderr.strip()[-300:]}", flush=True)
    command = [program, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tested:
        assert tested.stdout is not None
        last = ""
        for line in tested.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return (
        tested.returncode == 0,
        f"torch {told.stdout.split()[-1] if told.stdout else '?'}: {last.strip('= ')}",
    )


def main(tests: Sequence[str]) -> int:
    """Run the matrix; exit status 0 where all that is there passes, 1 where something fails or nothing is there."""
    oldest, torches = supported()
    found = interpreters(oldest, candidates())
    wanted = [(oldest[0], minor) for minor in range(oldest[1], NEWEST[1] + 1)]
    absent = [
        f"Python {major}.{minor}: not at hand" for major, minor in wanted if (major, minor) not in found
    ]
    if oldest not in found:
        absent[0] += ", the oldest that is supported"
    chosen = [found[minor] for minor in sorted({min(found), max(found)})] if found else []
    results, passed = [], []
    for python in chosen:
        for torch in torches:
            program, why = environment(python, torch)
            if program is None:
                absent.append(
                    f"Python {python} with the {torch.name} torch ({torch.pins[0]}): not to be had: {why}"
                )
                continue
            fine, last = run(program, tests)
            passed.append(fine)
            results.append(f"Python {python}, {torch.name} {last}: {'passed' if fine else 'FAILED'}")
    print("\n".join(["", "matrix:", *results, *absent]))
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["-n", "2", "--dist", "loadfile"]))
