"""BasicSR's own training with networks at found widths."""

from __future__ import annotations

import logging
import re
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import core
from core.errors import UserError
from super_resolution.checkpoint import load_network
from super_resolution.evaluation import psnr
from super_resolution.images import read_photo
from tests.lwdna.runners import page


@pytest.fixture(scope="module")
def runner(basicsr: types.ModuleType) -> types.ModuleType:
    import lwdna.runners.basicsr

    return lwdna.runners.basicsr


EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "upscale": 2}


@pytest.mark.usefixtures("runner")
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from basicsr.utils.logger import initialized_logger

    page.write_files("BasicSR", tmp_path)
    page.write_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", core.FrozenChannelsWarning)  # EDSR's mean colour
        for line in page.commands("BasicSR"):
            initialized_logger.clear()  # as in the process of its own that the command is
            assert page.type_command(line, monkeypatch) == 0
    widths = core.Architecture.load("widths.json")
    macs = [cost.macs for cost in widths.costs]
    assert 0.8 * macs[1] < macs[0] <= 0.9 * macs[1]
    assert f"found widths: {', '.join(map(str, widths.widths.values()))}\n" in capsys.readouterr().out
    # BasicSR's score of its averaged network is ours of the converted one.
    logging.getLogger("basicsr").handlers.clear()
    [log] = Path("experiments/found").glob("*.log")
    theirs = float(re.findall(r"# psnr: ([\d.]+)", log.read_text())[-1])
    network, _ = load_network("found.safetensors")
    scores = []
    for low in sorted(Path("photos/val/LR").iterdir()):
        image = torch.from_numpy(read_photo(low).transpose(2, 0, 1)[None] / np.float32(255))
        with torch.no_grad():
            high = (network(image)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        scores.append(psnr(high, read_photo(Path("photos/val/HR") / low.name), border=2, channel="y"))
    assert np.mean(scores) == pytest.approx(theirs, abs=1e-3)
    assert len(list(Path("big").glob("*.png"))) == len(scores) == 2


def test_without_widths_it_is_the_base(runner: types.ModuleType) -> None:
    from basicsr.archs import build_network

    torch.manual_seed(0)
    own = build_network(dict(EDSR))
    torch.manual_seed(0)
    same = build_network({"type": "LWDNANet", "base": EDSR})
    assert type(same) is type(own)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in same.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": {"num_feat": 8}}, "its base has no type"),
        ({"base": {**EDSR, "type": "EDSRR"}}, "ARCH_REGISTRY has no network 'EDSRR': did you mean 'EDSR'"),
        ({"base": EDSR, "widths": "none.json"}, "widths file 'none.json' does not exist"),
        (
            {"base": {**EDSR, "num_block": 1}, "widths": "widths.json"},
            "group 'body.1.conv1' of the widths file is not",
        ),
    ],
)
def test_options_that_do_not_fit(
    runner: types.ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", core.FrozenChannelsWarning)
        base = runner.LWDNANet(EDSR)
        core.shrink(base, torch.zeros(1, 3, 8, 8), [], nn.L1Loss(), score="uniform").save("widths.json")
        with pytest.raises(UserError, match=message):
            runner.LWDNANet(**options)
