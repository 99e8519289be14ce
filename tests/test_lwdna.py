"""The package `lwdna` and its command, from a checkout and from a wheel, beside a stranger's package called `core`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib import import_module
from pathlib import Path

import pytest

import core
import lwdna
from core.storage.checkpoint import save_weights
from lwdna.__main__ import ALIASES, ALONE, TASKS, find_command, main
from lwdna.export import TASKS as KEYS
from super_resolution.checkpoint import Description, save_network
from super_resolution.models import build

CHECKPOINTS = {
    "classification": "classification.checkpoint",
    "super_resolution": "super_resolution.checkpoint",
    "tracking": "tracking.dimp.checkpoint",
}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of what is tracked, and with the wheel that is built from the sdist alone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout: which files belong to the wheel is not known")
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("docs/results/"):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    for kind, place in (("sdist", source), ("wheel", folder / f"lwdna-{lwdna.__version__}")):
        build = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(folder)!r})"
        subprocess.run([sys.executable, "-c", build], cwd=place, check=True, capture_output=True)
        if kind == "sdist":
            with tarfile.open(folder / f"lwdna-{lwdna.__version__}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def site(built: Path) -> Path:
    """A folder with what the wheel installs, its console command under bin/."""
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(built / "site"), str(wheel)], check=True, capture_output=True)
    return built / "site"


@pytest.fixture
def strangers_folder(tmp_path: Path) -> Path:
    """A project of somebody else's with a package `core` and a network."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise RuntimeError('a stranger')\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    text = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))\n"
    (tmp_path / "own" / "nets.py").write_text(text)
    return tmp_path


def run(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_public_names_are_cores() -> None:
    assert set(lwdna.__all__) == {"__version__", *core.__all__}
    assert lwdna.shrink is core.shrink
    assert dir(lwdna) == sorted(["__version__", *core.__all__])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lwdna.nothing  # noqa: B018


def test_every_command_is_there() -> None:
    modules = [*ALONE.values(), *(f"{task}.{verb}" for task, verbs in TASKS.items() for verb in verbs)]
    for module in modules:
        assert callable(import_module(module).main), module
    for task, verbs in TASKS.items():
        assert {"run", "predict", "eval", "export"} <= {*verbs, *ALIASES.get(task, {})}
    # A task's verbs are the files at its top that can be run.
    for task, verbs in TASKS.items():
        commands = [p.stem for p in (ROOT / task).glob("*.py") if '__name__ == "__main__"' in p.read_text()]
        assert sorted(commands) == sorted(verbs)


def test_words_become_a_command_and_its_arguments() -> None:
    assert find_command(["super-resolution", "upscale", "a", "b"]) == ("super_resolution.upscale", ["a", "b"])
    assert find_command(["tracking", "check-dataset"]) == ("tracking.check_dataset", [])
    assert find_command(["super_resolution", "predict", "a"]) == ("super_resolution.upscale", ["a"])
    assert find_command(["tracking", "predict", "a"]) == ("tracking.track", ["a"])
    assert find_command(["inspect", "f"]) == ("core.inspect", ["f"])
    assert find_command(["export", "f", "f.onnx"]) == ("lwdna.export", ["f", "f.onnx"])
    assert find_command(["tracking", "export", "f"]) == ("tracking.export", ["f"])
    assert find_command(["channels", "m:f"]) == ("core.channels", ["m:f"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["tracking", "evl"], "did you mean 'tracking eval'"), (["clasification", "run"], "did you mean 'classification'"),
     (["tracking"], "use one of|did you mean"), (["x"], "use one of classification")],
)  # fmt: skip
def test_unknown_commands(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown command")
    assert any(part in error for part in hint.split("|"))


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.count("lwdna tracking eval ...") == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lwdna {lwdna.__version__}\n"


def test_export_asks_the_file_for_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, out = build("edsr", 2, n_blocks=1, n_feats=4), tmp_path / "out.safetensors"
    save_network(tmp_path / "c.safetensors", network, Description("edsr", 2, {"n_blocks": 1, "n_feats": 4}))
    assert main(["export", str(tmp_path / "c.safetensors"), str(out), "--turns", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'c.safetensors'}: edsr x2 (super_resolution)\n")
    save_weights(network, tmp_path / "plain.safetensors")
    (tmp_path / "dimp50.pth").write_bytes(b"")
    for name, message in (
        ("plain.safetensors", "does not name its task"),
        ("dimp50.pth", "is exported by lwdna tracking export"),
        ("none.safetensors", "not found"),
    ):
        assert main(["export", str(tmp_path / name), str(tmp_path / "other.safetensors")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other.safetensors").exists()


def test_every_task_knows_its_key() -> None:
    keys = {import_module(module).KEY: task for task, module in CHECKPOINTS.items()}
    assert keys == KEYS
    assert set(KEYS.values()) == set(TASKS)


def test_our_commands_say_that_they_are_shadowed(site: Path, strangers_folder: Path) -> None:
    for module in ("classification.run", "super_resolution.upscale", "tracking.eval"):
        done = run(site, strangers_folder, "-m", module, "--help")
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"error: '{strangers_folder / 'core'}' is imported in the place of LW-DNA's package 'core'"
        )


def test_a_library_import_says_it_too(site: Path, strangers_folder: Path) -> None:
    done = run(site, strangers_folder, "-c", "import lwdna; lwdna.shrink")
    assert done.returncode == 1
    assert "ShadowedError" in done.stderr
    assert "a stranger" not in done.stderr


@pytest.mark.parametrize("form", ["console", "module"])
def test_the_command_works_beside_a_stranger(site: Path, strangers_folder: Path, form: str) -> None:
    start = [str(site / "bin" / "lwdna")] if form == "console" else ["-m", "lwdna"]
    done = run(site, strangers_folder, *start, "channels", "own.nets:net", "--input", "1,3,8,8")
    assert done.returncode == 0, done.stderr
    assert "1 free groups" in done.stdout


def test_the_wheel_brings_what_the_commands_need(site: Path, tmp_path: Path) -> None:
    program = (
        f"import lwdna, classification.config, classification.run, super_resolution.run, tracking.run; "
        f"assert lwdna.__file__.startswith({str(site)!r}); "
        f"print(lwdna.__version__, lwdna.Budget(flops=0.9).flops, classification.config.find_config(None, None, False))"
    )
    done = run(site, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    version, budget, protocol = done.stdout.split()
    assert (version, budget) == (lwdna.__version__, "0.9")
    assert Path(protocol).is_file()
    assert protocol.startswith(str(site))


def test_the_sdist_holds_what_tests_and_docs_need(built: Path) -> None:
    unpacked = built / f"lwdna-{lwdna.__version__}"
    for name in (
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
        "tests/test_lwdna.py",
        "docs/start.md",
        "LICENSE",
        "CITATION.cff",
    ):
        assert (unpacked / name).is_file(), name


def test_the_wheel_is_typed_and_holds_packages_alone(site: Path) -> None:
    packages = ("benchmarks", "classification", "core", "lwdna", "super_resolution", "tracking")
    for package in packages:
        assert (site / package / "py.typed").is_file(), package
    found = {path.name for path in site.iterdir() if path.is_dir()}
    assert found == {*packages, "shared_configs", "bin", f"lwdna-{lwdna.__version__}.dist-info"}


def test_an_experiment_runs_outside_of_the_checkout(site: Path, tmp_path: Path) -> None:
    small = ["--epochs", "1", "--train-limit", "64", "--no-progress", "--work-dir", "w"]
    done = run(site, tmp_path, str(site / "bin" / "lwdna"), "classification", "run", *small)
    assert done.returncode == 0, done.stderr
    assert {"report.md", "widths.json", "lwdna.safetensors"} <= {
        path.name for path in (tmp_path / "w").iterdir()
    }


def test_the_release_is_called_the_same_everywhere() -> None:
    version = lwdna.__version__
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
