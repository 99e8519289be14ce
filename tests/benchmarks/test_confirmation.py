"""Registered contrasts, trained up to planned looks: what is said, written, kept and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.confirmation import differences, main
from benchmarks.confirmation_cost import built, equivalents_text, flops_equivalent
from core.experiments.sequential import Contrast
from core.experiments.series import Series
from core.experiments.task import Metric
from core.graph.channels import find_groups
from core.graph.complexity import count, count_params
from core.surgery.architecture import ArchitectureError
from tests.benchmarks.benches import bench_in

FAST = ["--train-limit", "100", "--epochs", "1", "--cfg-options", "train.batch_size=25", "shrink.batch_size=25",
        "--no-progress", "--device", "cpu"]  # fmt: skip


def write(path: Path, **changes: Any) -> Path:
    contrasts = [
        {"method": "magnitude", "against": "uniform"},
        {"method": "magnitude", "against": "baseline"},
    ]
    content = {
        "contrasts": contrasts,
        "looks": [2, 3],
        "metric": "top1_error",
        "deviation": 5.0,
        "written": "before",
    }
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confirmation")
    command = [str(write(folder / "contrasts.json")), *FAST, "--work-dir", str(folder / "store"),
               "--records", str(folder / "records"), "--output", str(folder / "page")]  # fmt: skip
    assert main(command) == 0
    return folder


def test_every_arm_is_trained_up_to_the_last_look_that_is_needed(confirmed: Path) -> None:
    value = json.loads((confirmed / "page.json").read_text())
    arms = {(record["method"], record["seed"]) for record in value["records"]}
    pairs = {item["pairs"] for item in value["contrasts"]}
    assert pairs <= {2, 3}
    assert arms == {
        (name, seed) for name in ("uniform", "magnitude", "baseline") for seed in range(max(pairs))
    }
    for item in value["contrasts"]:
        assert item["final"]
        assert item["differs"] == (item["p"] <= item["level"])


def test_records_are_small_files_that_say_which_code_made_them_and_when(confirmed: Path) -> None:
    records = [json.loads(path.read_text()) for path in (confirmed / "records").iterdir()]
    value = json.loads((confirmed / "page.json").read_text())
    assert {record["key"] for record in records} == {record["key"] for record in value["records"]}
    for record in records:
        assert math.isfinite(record["metrics"]["loss"])
        assert record["losses"] == [pytest.approx(record["train_loss"], rel=1e-3)]
        assert set(record["environment"]) >= {"finished", "commit"}


def test_the_page_says_what_was_written_down_and_what_the_looks_can_see(confirmed: Path) -> None:
    page = (confirmed / "page.md").read_text()
    assert "2 contrasts, written down before; looks at 2, 3 pairs" in page
    assert "3 pairs see a difference of" in page
    assert "| magnitude against uniform |" in page
    assert "test loss" in page
    for name in ("page.png", "page-losses.png"):
        assert f"({name})" in page
        assert (confirmed / name).read_bytes().startswith(b"\x89PNG")


def test_super_resolution_is_confirmed_by_what_its_task_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contrasts = [{"method": "early-wide", "against": "uniform"}]
    file = write(tmp_path / "contrasts.json", contrasts=contrasts, looks=[2], metric="held-out_psnr")
    small = ["options.n_blocks=1", "options.n_feats=8", "data.crops_per_epoch=16", "data.patch=32",
             "data.benchmarks=()", "data.held_out=1", "shrink.round_to=1"]  # fmt: skip
    command = [str(file), "--task", "super_resolution", "--epochs", "1", "--no-progress", "--device", "cpu",
               "--work-dir", str(tmp_path / "store"), "--cfg-options", *small]  # fmt: skip
    assert main([*command, "--train-limit", "3"]) == 2
    assert "--train-limit: of classification" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "page")]) == 0
    page, value = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert "| contrast | pairs | difference, held-out PSNR |" in page
    assert "| early-wide against uniform | 2 |" in page
    assert "held-out SSIM" in page
    assert "1 images of it, the last by name, are scored on" in page
    assert value["metric"]["higher_is_better"]


def test_mistakes_are_told_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, message in [
        ({"metric": "accuracy"}, "unknown metric 'accuracy'"),
        ({"contrasts": [{"method": "magnitud", "against": "uniform"}]}, "unknown method 'magnitud'"),
    ]:
        path = write(tmp_path / "contrasts.json", **changes)
        assert main([str(path), *FAST, "--work-dir", str(tmp_path / "store")]) == 2
        assert message in capsys.readouterr().err
    path = write(tmp_path / "contrasts.json")
    for options, message in [
        (["--seeds", "7"], "the registered looks say how many"),
        (["--budget", "0.5", "0.9"], "--budget takes one value here"),
    ]:
        assert main([str(path), *FAST, "--work-dir", str(tmp_path / "store"), *options]) == 2
        assert message in capsys.readouterr().err
    assert main([str(path), *FAST, "--work-dir", str(tmp_path / "store"), "--report-only"]) == 2
    assert "holds no trial of these contrasts" in capsys.readouterr().err
    assert not (tmp_path / "store" / "runs").exists()


def test_committed_records_go_on_on_another_machine(
    confirmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(confirmed / "contrasts.json"), *FAST, "--work-dir", str(tmp_path / "empty")]
    command += ["--records", str(confirmed / "records"), "--output", str(tmp_path / "page")]
    capsys.readouterr()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "imported into" in told
    assert "training" not in told

    def tables(path: Path) -> list[str]:
        timed = "–"  # of spans; times are another run's
        return [line for line in path.read_text().splitlines() if line.startswith("|") and timed not in line]

    assert tables(tmp_path / "page.md") == tables(confirmed / "page.md")


def test_a_missing_seed_ends_the_pairs_and_no_later_one_takes_its_place() -> None:
    def series(*seeds: int) -> Series:
        return Series("", {seed: {"metrics": {"top1_error": float(seed)}} for seed in seeds})

    metric, contrast = Metric("top1_error", "error", higher_is_better=False), Contrast("magnitude", "uniform")
    own = {"magnitude": series(5, 6, 8, 9), "uniform": series(5, 6, 7, 8, 9)}
    assert differences([contrast], own, metric) == {contrast: [0.0, 0.0]}
    own["magnitude"] = series(6, 7, 8, 9)  # the first seed is the other side's
    assert differences([contrast], own, metric) == {contrast: []}
    assert differences([contrast], {"uniform": own["uniform"]}, metric) == {contrast: []}


def made_up(**errors: list[float]) -> dict[str, Series]:
    """Arms with these errors, all but the baseline at 80 % of its FLOPs."""
    return {
        name.replace("_", "-"): Series(name, {
            seed: {"metrics": {"top1_error": error}, "cost": {"flops": {"paper": 100 if name == "baseline" else 80}},
                   "baseline_cost": {"flops": {"paper": 100}}}
            for seed, error in enumerate(values)
        })
        for name, values in errors.items()
    }  # fmt: skip


def test_gains_are_said_in_the_flops_of_uniform_widths() -> None:
    def law(share: float) -> float:
        return 60 - 10 * math.log(share)

    for share in (0.5, 0.8, 1.3):
        assert flops_equivalent(law(0.8), law(1.0), law(share), 0.8) == pytest.approx(share)
    error = Metric("top1_error", "top-1 error %", higher_is_better=False)
    scatter = [0.0, 0.01, -0.01]
    arms = {"uniform": 0.8, "baseline": 1.0, "magnitude": 1.3}
    found = made_up(**{name: [law(share) + one for one in scatter] for name, share in arms.items()})
    # Every arm scatters alike, so differences vary by rounding alone: no test, nothing to say.
    assert "not to be said, since 3 pairs do not tell" in equivalents_text(found, error)
    moved = made_up(
        uniform=[law(0.8) + one for one in scatter],
        baseline=[law(1.0) - one for one in scatter],
        magnitude=[law(1.3) + one for one in scatter],
    )
    assert "`magnitude` does as well as uniform widths would at 130 % of" in equivalents_text(moved, error)
    assert "uniform widths at 80 % to the regular network" in equivalents_text(moved, error)
    higher = Metric("top1_error", "PSNR", higher_is_better=True)  # now the regular network is behind
    assert "not to be said" in equivalents_text(moved, higher)
    assert equivalents_text({name: moved[name] for name in ("uniform", "baseline")}, error) == ""


def test_the_page_says_what_the_arms_cost(confirmed: Path) -> None:
    page = (confirmed / "page.md").read_text()
    head, _, *rows = page[page.index("| of the regular network's |") :].splitlines()[:5]
    assert head == (
        "| of the regular network's | MACs % | FLOPs % | parameters % | inference % | training step % |"
    )
    baseline = next(row for row in rows if row.startswith("| baseline |"))
    assert baseline == "| baseline | 100.0 | 100.0 | 100.0 | 100 (100–100) | 100 (100–100) |"
    value = json.loads((confirmed / "page.json").read_text())
    costs = {record["method"]: record["cost"] for record in value["records"] if record["seed"] == 0}
    for name, cost in costs.items():
        shares = [cost[key] / costs["baseline"][key] for key in ("params",)]
        shares = [cost["flops"][key] / costs["baseline"]["flops"][key] for key in ("macs", "paper")] + shares
        told = " | ".join(f"{100 * share:.1f}" for share in shares)
        assert any(row.startswith(f"| {name} | {told} |") for row in rows)
    assert "processor time of one batch of 25" in page or "elapsed time of one batch of 25" in page
    assert "Gains in FLOPs:" in page


def test_networks_that_widths_alone_do_not_say_are_not_timed(tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    task = bench.engine.task
    base = task.searched()
    groups = find_groups(base.model, base.example_inputs, bench.config.shrink.trace)
    record = {"key": "0123", "shrink": {}, "architecture": None, "named_widths": groups.widths,
              "cost": {"flops": {"macs": count(base.model, base.example_inputs)}}}  # fmt: skip
    assert count_params(built(record, task)) == count_params(base.model)
    narrow = dict(groups.widths)
    narrow[next(iter(narrow))] -= 1
    with pytest.raises(ArchitectureError, match="its widths alone build a network of"):
        built({**record, "named_widths": narrow}, task)
    with pytest.raises(ArchitectureError, match="does not say to which groups"):
        built({name: value for name, value in record.items() if name != "named_widths"}, task)
