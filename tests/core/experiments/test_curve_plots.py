"""Pictures of training losses."""

from __future__ import annotations

from pathlib import Path

from core.experiments.curve_plots import plot_losses
from core.experiments.series import Series


def series(**curves: list[list[float]]) -> dict[str, Series]:
    """Method -> its curves, by seed."""
    return {
        method.replace("_", "-"): Series(method, {seed: {"losses": own} for seed, own in enumerate(by_seed)})
        for method, by_seed in curves.items()
    }


def test_losses_have_a_panel_of_differences_to_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "losses.png"
    given = series(
        baseline=[[3.0, 2.0, 1.0], [3.0, 2.0, 1.5]],
        uniform=[[3.0, 2.5, 2.0], [3.0, 2.5, 2.5], [9.0, 9.0, 9.0]],
    )
    assert plot_losses(path, "toys", given, "baseline")
    text = path.with_suffix(".svg").read_text()
    assert "minus the baseline's, seed by seed" in text
    assert text.count("Uniform widths (n = 3)") == 1  # of all seeds
    assert text.count("Uniform widths (n = 2)") == 1  # of the baseline's seeds
    assert text.count("Baseline (n = 2)") == 1


def test_without_the_baselines_losses_there_is_one_panel(tmp_path: Path) -> None:
    path = tmp_path / "losses.png"
    other_epochs = series(baseline=[[3.0, 2.0]], uniform=[[3.0, 2.5, 2.0]])
    for given in (series(uniform=[[3.0, 2.5, 2.0]]), other_epochs):
        assert plot_losses(path, "toys", given, "baseline")
        assert "minus the baseline" not in path.with_suffix(".svg").read_text()


def test_records_without_losses_draw_nothing(tmp_path: Path) -> None:
    assert not plot_losses(
        tmp_path / "losses.png", "toys", {"baseline": Series("baseline", {0: {}})}, "baseline"
    )
    assert not list(tmp_path.iterdir())
