"""The command line of super-resolution, from arguments to the files of a work directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core.graph.channels import trace_channels
from core.report.page import LARGEST
from core.storage.checkpoint import read_weights
from core.storage.description import read_contents
from core.surgery.architecture import Architecture
from core.training.run_files import read_history
from core.widths.scores import score_channels
from super_resolution.config import RunConfig, with_own_options
from super_resolution.data import PAPER_SETS
from super_resolution.eval import main as evaluate
from super_resolution.images import write_image
from super_resolution.models import build
from super_resolution.run import build_parser, main
from super_resolution.task import l1_and_psnr, not_scored
from super_resolution.upscale import main as upscale

pytestmark = pytest.mark.usefixtures("unarranged")
SMALL = [
    "options.n_blocks=1",
    "options.n_feats=8",
    "data.crops_per_epoch=16",
    "data.benchmarks=('skimage',)",
    "data.patch=32",
    "shrink.round_to=1",
]
FAST = ["--epochs", "1", "--no-progress", "--cfg-options", *SMALL]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment on scikit-image's photographs, x4, with a control."""
    folder = tmp_path_factory.mktemp("run") / "work"
    assert main([*FAST, "--scale", "4", "--work-dir", str(folder), "--controls", "uniform"]) == 0
    return folder


def test_a_run_leaves_everything_it_promises(experiment: Path) -> None:
    names = [
        "config.py",
        "widths.json",
        "result.json",
        "report.html",
        "report.md",
        "channels.png",
        "curves.png",
        "comparison.png",
    ]
    assert [name for name in names if not (experiment / name).exists()] == []
    result = json.loads((experiment / "result.json").read_text())
    assert list(result["methods"]) == ["baseline", "lwdna", "uniform"]
    assert {"scikit-image_psnr", "scikit-image_ssim"} == result["methods"]["lwdna"]["metrics"].keys()
    assert result["references"]["Bicubic"]["scikit-image_psnr"] > 20
    assert 0.5 < result["methods"]["lwdna"]["flops_ratio"] <= 0.6134
    page = (experiment / "report.html").read_text()
    assert page.count('<div class="slider">') == 3
    assert len(page) < LARGEST


def test_a_run_is_given_more_epochs(experiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(experiment, folder)
    assert main(["--resume", "--epochs", "2", "--no-progress", "--work-dir", str(folder)]) == 0
    for method in ("baseline", "lwdna", "uniform"):
        name = f"{method}-seed0"
        kept, longer = (read_history(place / "runs" / name) for place in (experiment, folder))
        assert longer[:1] == kept
        assert len(longer) == 2
        record = json.loads((folder / f"records/{name}.json").read_text())
        assert record["recipe"]["train"]["extended"] == [[1, 1]]
        stored = folder / f"epochs-1/records/{name}.json"
        assert stored.read_bytes() == (experiment / f"records/{name}.json").read_bytes()
    assert json.loads((folder / "result.json").read_text())["epochs"] == 2


@pytest.mark.parametrize("scale", [2, 3])
def test_a_run_at_another_scale(scale: int, photo: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    write_image(tmp_path / "photos/a.png", photo[:100, :120])
    options = [f"data.benchmarks=({str(tmp_path / 'photos')!r},)"]
    options += ["data.patch=64"]  # the default protocol's, no multiple of 3
    assert main([*FAST, *options, "--scale", str(scale), "--work-dir", str(folder)]) == 0
    image = np.zeros((5, 6, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "low.png"), image)
    files = [str(tmp_path / "low.png"), str(tmp_path / "high.png")]
    assert upscale([*files, "--checkpoint", str(folder / "lwdna.safetensors")]) == 0
    assert cv2.imread(files[1]).shape == (5 * scale, 6 * scale, 3)


def test_srresnet_runs_on_the_default_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert main([*FAST, "--model", "srresnet", "--work-dir", str(folder)]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["methods"]["lwdna"]["metrics"].keys() == {"scikit-image_psnr", "scikit-image_ssim"}
    assert 0.8 < result["methods"]["lwdna"]["flops_ratio"] <= 0.8775
    assert "srresnet" in (folder / "config.py").read_text()


def test_its_checkpoints_say_how_they_were_made(experiment: Path) -> None:
    contents = read_contents(experiment / "lwdna.safetensors")
    assert contents == read_contents(experiment / "runs/lwdna-seed0/model.safetensors")
    assert (contents.task, contents.checked, contents.origin["method"]) == ("super_resolution", True, "lwdna")
    assert contents.description["scale"] == 4
    assert contents.description["input_shape"] == [3, None, None]
    assert contents.origin["recipe"]["data"]["patch"] > 0


def test_evaluating_a_checkpoint_gives_the_tables_scores(experiment: Path, tmp_path: Path) -> None:
    table = json.loads((experiment / "result.json").read_text())
    for method in ("baseline", "lwdna"):
        file = str(experiment / f"{method}.safetensors")
        assert evaluate(["--checkpoint", file, "--device", "cpu", "--out", str(tmp_path / "s.json")]) == 0
        ((name, entry),) = json.loads((tmp_path / "s.json").read_text())["sets"].items()
        for kind in ("psnr", "ssim"):
            of_run = table["methods"][method]["metrics"][f"{name}_{kind}"]["values"]
            assert [entry["methods"][method][kind]] == of_run[:1]
            assert entry["methods"]["Bicubic"][kind] == table["references"]["Bicubic"][f"{name}_{kind}"]


def test_its_checkpoints_upscale_an_image(experiment: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "low.png"), image)
    for method in ("baseline", "lwdna"):
        high = tmp_path / f"{method}.png"
        assert (
            upscale(
                [
                    str(tmp_path / "low.png"),
                    str(high),
                    "--checkpoint",
                    str(experiment / f"{method}.safetensors"),
                ]
            )
            == 0
        )
        assert cv2.imread(str(high)).shape == (48, 40, 3)


def test_tied_upsamplers_have_the_trunks_width(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert main([*FAST, "--work-dir", str(folder), "--tie-upsampler", "--stages", "shrink"]) == 0
    architecture = Architecture.load(folder / "widths.json")
    assert set(architecture.widths) == {"conv_first", "body.0.conv1"}
    network = architecture.build(build("edsr", 4, n_blocks=1, n_feats=8))
    trunk = architecture.widths["conv_first"]
    assert network.upsample[0].out_channels == network.upsample[2].out_channels == 4 * trunk


def test_ties_of_ones_own_exclude_tied_upsamplers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "work"
    other = [*FAST, "shrink.ties=(('conv_first','body.0.conv1'),)", "--work-dir", str(folder)]
    assert main([*other, "--tie-upsampler"]) == 2
    assert "--tie-upsampler exclude each other" in capsys.readouterr().err
    assert not folder.exists()
    assert main([*other, "--stages", "shrink"]) == 0
    assert set(Architecture.load(folder / "widths.json").widths) == {"conv_first", "upsample.0", "upsample.2"}


def test_a_run_with_tied_upsamplers_can_be_resumed(tmp_path: Path) -> None:
    line = [*FAST, "--work-dir", str(tmp_path / "work"), "--tie-upsampler", "--stages", "shrink"]
    assert main(line) == 0
    assert main([*line, "--resume"]) == 0  # the stored protocol has the ties by name


def test_upsamplers_can_be_untied_where_the_protocol_ties_them() -> None:
    parse = build_parser().parse_args
    assert [parse(line).tie_upsampler for line in ([], ["--tie-upsampler"], ["--no-tie-upsampler"])] == [
        None,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("model", "given", "left"),
    [
        ("edsr_baseline", [], {}),
        ("srresnet", [], {"n_blocks": 4}),
        (None, [], {"n_blocks": 4, "res_scale": 0.1}),
        ("edsr_baseline", ["options.res_scale=0.1"], {"n_blocks": 4, "res_scale": 0.1}),
    ],
)
def test_a_network_is_spared_options_of_the_protocols_own(
    model: str | None, given: list[str], left: dict[str, float]
) -> None:
    line = [*(["--model", model] if model else []), *(["--cfg-options", *given] if given else [])]
    config = RunConfig(options={"n_blocks": 4, "res_scale": 0.1})
    arguments = build_parser().parse_args(line)
    assert with_own_options(config, arguments.model, arguments.cfg_options).options == left


def test_no_benchmarks_at_all_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FAST, "data.benchmarks=()", "--work-dir", str(tmp_path / "work")]) == 2
    assert "no set to score on: data.benchmarks is empty" in capsys.readouterr().err


def test_missing_benchmarks_are_named_in_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    options = [*SMALL, "data.benchmarks=('skimage','Urban100')"]
    arguments = ["--epochs", "1", "--no-progress", "--work-dir", str(folder), "--data-root", str(tmp_path)]
    assert main([*arguments, "--cfg-options", *options]) == 0
    report = (folder / "report.md").read_text()
    assert "Not scored: the benchmark Urban100 not found" in report
    assert (
        "Not scored: Set5, Set14, B100, DIV2K of the paper's sets, which data.benchmarks does not ask for."
        in report
    )


def test_nothing_is_said_of_sets_that_are_scored() -> None:
    assert not_scored(("skimage", *PAPER_SETS), {}) == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cfg-options", "model='espcn'"], "'espcn' is an unknown network"),
        (["--cfg-options", "model='dncnn'"], "keeps the size of images"),
        (["--dataset", "div2k", "--data-root", "/nonexistent"], "not found"),
        (["--dataset", "/nonexistent/photos"], "/nonexistent/photos"),
        (["--tile", "0"], "data.tile is 0"),
    ],
)
def test_user_errors_exit_with_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FAST, *arguments, "--work-dir", str(tmp_path / "work")]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""  # found out before anything is trained


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (
            ["--model", "dncnn"],
            "keeps the size of images: allowed: edsr, edsr_baseline, edsr_large, srresnet",
        ),
        (["--model", "unet"], "srresnet, msrresnet; or name your own as package.module:factory"),
    ],
)
def test_an_impossible_network_is_wrong_usage(
    arguments: list[str], allowed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--work-dir", str(tmp_path / "work")]) == 2
    assert allowed in capsys.readouterr().err


def test_an_impossible_scale_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["--scale", "5"])
    assert stopped.value.code == 2
    assert "2, 3, 4" in capsys.readouterr().err


@pytest.mark.parametrize("latents", ["gate", "hypernetwork"])
def test_every_inner_group_of_edsr_receives_a_gradient(latents: str) -> None:
    """DHP's released code feeds every body layer with the head's output, so that inner groups get none."""
    torch.manual_seed(0)
    model = build("edsr", 2, n_blocks=3, n_feats=8)
    low = torch.rand(2, 3, 12, 12)
    graph = trace_channels(model, low)
    batch = (low, torch.rand(2, 3, 24, 24))
    scores = score_channels(
        model, graph, [batch], lambda sr, hr: l1_and_psnr(sr, hr)[0], score="gradient", latents=latents
    )
    inner = [name for name in scores if name.endswith("conv1")]
    assert len(inner) == 3
    for name, score in scores.items():
        assert bool((score > 0).any()), name


def test_the_loss_is_the_mean_absolute_error_and_its_metric_the_mean_psnr() -> None:
    hr = torch.zeros(2, 3, 4, 4)
    sr = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    loss, metrics = l1_and_psnr(sr, hr)
    assert float(loss) == pytest.approx(0.055)
    assert float(metrics["psnr"]) == pytest.approx((20 + 40) / 2, abs=1e-4)


def test_trained_weights_are_fine_tuned(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = experiment / "baseline.safetensors"
    command = [*FAST, "--scale", "4", "--work-dir", str(tmp_path / "w"), "--pretrained", str(weights)]
    assert main([*command, "--start", "pretrained", "--budget", "0.8"]) == 0
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert list(result["methods"]) == ["baseline", "lwdna", "lwdna-scratch"]
    kept = list(Architecture.load(tmp_path / "w" / "widths.json").kept["conv_first"])
    runs = (
        tmp_path / "w" / "runs" / f"{name}-seed0" / "model.safetensors" for name in ("lwdna", "lwdna-scratch")
    )
    tuned, fresh = (read_weights(path)["conv_first.weight"] for path in runs)
    start = read_weights(weights)["conv_first.weight"][kept]
    assert (tuned - start).norm() < 0.5 * (fresh - start).norm()
    assert result["weights"]["kept_whole"] == []
    capsys.readouterr()
    command = [*FAST, "--scale", "2", "--work-dir", str(tmp_path / "x2"), "--pretrained", str(weights)]
    assert main(command) == 2  # an upsampler of another scale is no head
    assert "does not fit EDSR" in capsys.readouterr().err
