"""Pictures of an evaluation: which classes are taken for which, and the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.report.style import new_figure, save_figure, styled

NAMED = 60  # more classes leave no room for their names
COUNTED = 20  # likewise for a number in every cell
COLUMNS = 6


@styled
def plot_confusion(path: Path, confusion: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix: shares of every true class (row) by predicted class (column).

    Args:
        path: the PNG to write.
        confusion: (C, C or C + 1), counts; an extra last column is for outputs that are no class.
        classes: names of the rows.
        title: shown above.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    shares = 100 * confusion / np.maximum(totals, 1)
    side = float(np.clip(0.34 * len(classes) + 2.2, 4.5, 14))
    figure, axis = new_figure(side + 0.8, side)
    axis.grid(visible=False)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if len(classes) <= NAMED:
        columns = [*classes, *(["other"] if confusion.shape[1] > len(classes) else [])]
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
        axis.set_yticks(range(len(classes)), classes, fontsize=7)
    if len(classes) <= COUNTED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 50 else "black"
            count = str(confusion[row, column])
            axis.text(column, row, count, ha="center", va="center", color=colour, fontsize=7)
    axis.set_xlabel("taken for")
    axis.set_ylabel("true class")
    axis.set_title(title)
    figure.colorbar(picture, ax=axis, shrink=0.8, label="% of the true class")
    save_figure(figure, path)


@styled
def plot_worst(path: Path, images: Sequence[np.ndarray], captions: Sequence[str], title: str) -> None:
    """Draw a contact sheet.

    Args:
        path: the PNG to write.
        images: at least one, (H, W) or (H, W, 3), values from 0 to 1.
        captions: one each.
        title: shown above.
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(1.9 * COLUMNS, 2.2 * rows + 0.5), layout="constrained")
    cells = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, image, caption in zip(cells, images, captions, strict=False):
        cell.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        cell.set_title(caption, fontsize=7)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    save_figure(figure, path)
