"""The super-resolution and denoising networks: published counts, BasicSR's weights, fresh starts, deployment."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.errors import UserError
from super_resolution import models
from super_resolution.models import MODELS, build
from super_resolution.models.basicsr_options import Constants
from super_resolution.models.convert import convert_weights
from tests.counting import Counts, count
from tests.properties import examples

SMALL: dict[str, dict[str, int]] = {
    "edsr": {"n_blocks": 2, "n_feats": 8},
    "srresnet": {"n_blocks": 2, "n_feats": 8},
    "msrresnet": {"n_blocks": 2, "n_feats": 8},
    "dncnn": {"n_blocks": 2, "n_feats": 8},
    "unet": {"depth": 3, "n_feats": 4},
}


def colours(name: str) -> int:
    return 1 if name in ("dncnn", "unet") else 3


def counts(name: str) -> Counts:
    """Costs of a network at its defaults; LR 128x128."""
    with torch.device("meta"):
        return count(build(name), (colours(name), 128, 128))


@pytest.mark.parametrize(
    ("name", "macs", "flops", "parameters"),
    [
        ("edsr", "90.354", "90.371", "3.6967"),
        ("srresnet", "32.719", "32.827", "1.5356"),
        ("dncnn", "9.079", "9.127", "0.557"),
    ],
)
def test_counts_are_the_published_ones(name: str, macs: str, flops: str, parameters: str) -> None:
    counted = counts(name)
    assert f"{counted.macs / 1e9:.3f}" == macs
    assert f"{counted.flops / 1e9:.3f}" == flops
    digits = len(parameters.rpartition(".")[2])
    assert f"{counted.params / 1e6:.{digits}f}" == parameters


def test_edsr_counts_agree_with_the_arithmetic_of_its_layers() -> None:
    pixels = 128 * 128
    head, tail, mean = 3 * 128 * 9, 128 * 3 * 9, 9
    body, upsampler = 17 * 128 * 128 * 9, 128 * 512 * 9
    macs = (mean + head + body + upsampler) * pixels + upsampler * 4 * pixels + (tail + mean) * 16 * pixels
    biases = 128 + 17 * 128 + 2 * 512 + 3
    parameters = head + tail + body + 2 * upsampler + biases + 24
    assert counts("edsr") == (macs, macs + 8 * 128 * pixels, parameters)
    assert parameters == 3_696_667


def test_unet_counts_each_pixel_of_a_transposed_convolution_once() -> None:
    macs, flops, parameters = counts("unet")
    assert f"{parameters / 1e6:.3f}" == "7.760"
    assert flops == macs  # functional ReLUs
    # Each of four transposed convolutions reads h x w pixels, c channels wide; c^2 h w is the same for all.
    transposed = 4 * (512 * 256 * 4) * 8 * 8
    assert f"{macs / 1e9:.3f}" == "3.008"
    assert f"{(macs + 3 * transposed) / 1e9:.3f}" == "3.411"  # DHP multiplies by the output's pixels instead


@pytest.mark.parametrize(
    ("name", "scale", "parameters"),
    [  # BasicSR's counts; EDSR has 24 more, of the mean shift
        ("edsr_baseline", 2, 1_369_859 + 24),
        ("edsr_baseline", 3, 1_554_499 + 24),
        ("edsr_baseline", 4, 1_517_571 + 24),
        ("edsr_large", 2, 40_729_603 + 24),
        ("edsr_large", 4, 43_089_923 + 24),
        ("msrresnet", 2, 1_369_859),
        ("msrresnet", 3, 1_554_499),
        ("msrresnet", 4, 1_517_571),
    ],
)
def test_parameters_of_the_other_sizes(name: str, scale: int, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build(name, scale).parameters()) == parameters


@examples(20)
@given(st.sampled_from(sorted(SMALL)), st.sampled_from((2, 3, 4)), st.integers(4, 23), st.integers(4, 23))
def test_output_size(name: str, scale: int, height: int, width: int) -> None:
    images = torch.rand(2, colours(name), height, width)
    factor = scale if colours(name) == 3 else 1
    with torch.no_grad():
        output = build(name, factor, **SMALL[name])(images)
    assert output.shape == (2, colours(name), factor * height, factor * width)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("esdr"), "unknown network 'esdr': did you mean 'edsr'? allowed: edsr, "),
        (lambda: build("swinir"), "'swinir': allowed: edsr, edsr_baseline, edsr_large, srresnet"),
        (lambda: build("edsr", 5), "scale 5 is not supported: choose from 2, 3, 4."),
        (lambda: build("unet", 2), "'unet' keeps the size of images: its scale is 1, not 2."),
        (
            lambda: build("srresnet", 4, blocks=3),
            "no option 'blocks': did you mean 'n_blocks'? allowed: n_blocks, n_feats",
        ),
    ],
)
def test_wrong_usage_is_one_line_that_helps(call: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_factories_are_importable_by_name() -> None:
    for name, factory in MODELS.items():
        assert getattr(models, name) is factory
        assert factory.__doc__


# --- What the networks compute ---


def test_every_layer_of_edsr_but_the_mean_shift_is_trained() -> None:
    torch.manual_seed(0)
    network = build("edsr", **SMALL["edsr"])
    nn.functional.l1_loss(network(torch.rand(2, 3, 12, 12)), torch.rand(2, 3, 48, 48)).backward()
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {f"{end}_mean.conv.{kind}" for end in ("sub", "add") for kind in ("weight", "bias")}
    for name, parameter in network.named_parameters():
        if name not in frozen:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name


def test_an_edsr_without_output_gives_the_mean_colour() -> None:
    network = build("edsr", **SMALL["edsr"])
    nn.init.zeros_(network.conv_last.weight)
    nn.init.zeros_(network.conv_last.bias)
    with torch.no_grad():
        output = network(torch.rand(1, 3, 5, 7))
    expected = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1).expand(1, 3, 20, 28)
    torch.testing.assert_close(output, expected)


def test_image_range_scales_the_inside_only() -> None:
    torch.manual_seed(0)
    wide, narrow = (build("edsr", **SMALL["edsr"], image_range=r) for r in (255.0, 1.0))
    state = {k: v for k, v in wide.state_dict().items() if "mean" not in k}
    # Without biases the network is homogeneous of degree one, so both ranges give the same image.
    state = {k: torch.zeros_like(v) if k.endswith("bias") else v for k, v in state.items()}
    for network in (wide, narrow):
        network.load_state_dict(state, strict=False)
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(wide(images), narrow(images), rtol=1e-4, atol=1e-5)


def test_res_scale_weighs_the_branches() -> None:
    torch.manual_seed(0)
    half, full = build("edsr", **SMALL["edsr"], res_scale=0.5), build("edsr", **SMALL["edsr"])
    full.load_state_dict(half.state_dict())
    with torch.no_grad():
        for block in full.body:
            block.conv2.weight.mul_(0.5)
            block.conv2.bias.mul_(0.5)
        images = torch.rand(1, 3, 8, 8)
        torch.testing.assert_close(half(images), full(images), rtol=1e-4, atol=1e-5)


def test_dncnn_predicts_the_change_of_the_image() -> None:
    network = build("dncnn", **SMALL["dncnn"])
    nn.init.zeros_(network.layers[-1].weight)
    nn.init.zeros_(network.layers[-1].bias)
    images = torch.rand(2, 1, 9, 9)
    with torch.no_grad():
        assert torch.equal(network(images), images)


def test_msrresnet_predicts_the_difference_from_bilinear() -> None:
    network = build("msrresnet", 3, **SMALL["msrresnet"])
    nn.init.zeros_(network.conv_last.weight)
    images = torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        expected = nn.functional.interpolate(images, (18, 21), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(images), expected)


# --- A fresh start and deployment at other widths ---


def cut_inner(name: str, network: nn.Module) -> None:
    """Remove three channels between two convolutions by hand, as code that changes widths would."""
    block = {
        "edsr": lambda: network.body[0],
        "srresnet": lambda: network.body[0],
        "msrresnet": lambda: network.body[0],
        "dncnn": lambda: SimpleNamespace(
            conv1=network.layers[2], bn1=network.layers[3], conv2=network.layers[5]
        ),
        "unet": lambda: network.encoders[2],
    }[name]()
    makers = [block.conv1, *([block.bn1] if hasattr(block, "bn1") else [])]
    for module in makers:
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.dim() > 0:
                kept = tensor.detach()[:-3].clone()
                setattr(module, key, nn.Parameter(kept) if isinstance(tensor, nn.Parameter) else kept)
    block.conv1.out_channels -= 3
    block.conv2.in_channels -= 3
    if len(makers) == 2:
        block.bn1.num_features -= 3
    block.conv2.weight = nn.Parameter(block.conv2.weight.detach()[:, :-3].clone())


@pytest.fixture(scope="module", params=sorted(SMALL))
def odd_network(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    network = build(request.param, **SMALL[request.param])
    cut_inner(request.param, network)
    network.init_weights()
    return request.param, network.eval()


@torch.no_grad()
def test_scripts_pickles_and_exports_at_odd_widths(odd_network: tuple[str, nn.Module]) -> None:
    name, network = odd_network
    images = torch.rand(1, colours(name), 11, 13)
    expected = network(images)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), expected)
    exported = torch.export.export(network, (images,), strict=False).module()
    torch.testing.assert_close(exported(images), expected)


def test_init_weights_renews_everything_at_odd_widths(odd_network: tuple[str, nn.Module]) -> None:
    name, network = odd_network
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(7)
    network.init_weights()
    for key, tensor in network.state_dict().items():
        assert not (tensor == 7).any(), key
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            assert module.weight.item() == 0.25
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            fan_in = module.weight[0].numel()
            if name == "msrresnet":
                assert not module.bias.any()
                if module.weight.numel() >= 1000:
                    assert module.weight.std().item() == pytest.approx(0.1 * math.sqrt(2 / fan_in), rel=0.15)
            else:
                assert module.weight.abs().max() <= 1 / math.sqrt(fan_in) + 1e-6
                if module.weight.numel() >= 100:
                    assert module.weight.abs().max() > 0.8 / math.sqrt(fan_in)
    if name == "edsr":
        expected = -255 * torch.tensor([0.4488, 0.4371, 0.4040])
        torch.testing.assert_close(network.sub_mean.conv.bias, expected)
        torch.testing.assert_close(network.add_mean.conv.bias, -expected)
        assert not network.add_mean.conv.weight.any()


# --- BasicSR ---


def basicsr_state(name: str, scale: int, n_blocks: int, n_feats: int) -> dict[str, Tensor]:
    """A state dict with the names and shapes of BasicSR's network, written out by hand."""
    shapes: dict[str, tuple[int, int]] = {"conv_first": (n_feats, 3), "conv_last": (3, n_feats)}
    for i in range(n_blocks):
        shapes |= {f"body.{i}.conv{j}": (n_feats, n_feats) for j in (1, 2)}
    first = 4 if scale == 4 else scale**2
    if name == "edsr":
        shapes |= {"conv_after_body": (n_feats, n_feats), "upsample.0": (first * n_feats, n_feats)}
        shapes |= {"upsample.2": (4 * n_feats, n_feats)} if scale == 4 else {}
    else:
        shapes |= {"conv_hr": (n_feats, n_feats), "upconv1": (first * n_feats, n_feats)}
        shapes |= {"upconv2": (4 * n_feats, n_feats)} if scale == 4 else {}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, (outputs, inputs) in shapes.items():
        state[f"{key}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.1
        state[f"{key}.bias"] = torch.randn(outputs, generator=generator)
    return state


@pytest.mark.parametrize("name", ["edsr", "msrresnet"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("wrapper", ["params", "params_ema", None])
def test_conversion_finds_network_and_sizes(name: str, scale: int, wrapper: str | None) -> None:
    state = basicsr_state(name, scale, n_blocks=3, n_feats=6)
    converted = convert_weights(state if wrapper is None else {wrapper: state})
    assert (converted.model, converted.scale) == (name, scale)
    assert converted.options == {"n_blocks": 3, "n_feats": 6} | ({"res_scale": 1.0} if name == "edsr" else {})
    network = converted.build()
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in state.items())
    assert not network.training


def test_the_averaged_weights_are_preferred() -> None:
    state = basicsr_state("edsr", 2, 1, 4)
    plain = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    converted = convert_weights({"params": plain, "params_ema": state})
    assert torch.equal(converted.weights["conv_first.weight"], state["conv_first.weight"])


def test_res_scale_is_that_of_the_published_checkpoints() -> None:
    assert convert_weights(basicsr_state("edsr", 2, 1, 256)).options["res_scale"] == 0.1
    assert convert_weights(basicsr_state("edsr", 2, 1, 256), Constants(1.0)).options["res_scale"] == 1.0


def _edit(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"body__1__conv2__bias": None, "conv_hr2__weight": torch.zeros(1)},
            ["edsr x4", "'body.1.conv2.bias' is missing", "'conv_hr2.weight' has no partner"],
        ),
        ({"conv_last__bias": torch.zeros(4)}, ["'conv_last.bias' is (4,) instead of (3,)"]),
        ({"body__7__conv1__bias": torch.zeros(6)}, ["'body.7.conv1.bias' has no partner"]),
        ({"upsample__4__weight": torch.zeros(24, 6, 3, 3)}, ["'upsample.4.weight' has no partner"]),
        ({"upsample__0__weight": None}, ["it has no 'upsample.0.weight'"]),
        ({"conv_first__weight": None}, ["it has no convolution 'conv_first.weight'", "body.0.conv1.bias"]),
    ],
)
def test_names_without_a_partner_are_all_reported(changes: dict[str, Tensor], messages: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        convert_weights(_edit(basicsr_state("edsr", 4, 3, 6), **changes))
    for message in messages:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["edsr", "msrresnet"])
def test_basicsr_weights_give_basicsr_images(
    name: str, scale: int, basicsr: ModuleType, tmp_path: Path
) -> None:
    torch.manual_seed(scale)
    if name == "edsr":
        theirs = basicsr.archs.edsr_arch.EDSR(3, 3, num_feat=8, num_block=2, upscale=scale, res_scale=0.3)
    else:
        theirs = basicsr.archs.srresnet_arch.MSRResNet(3, 3, num_feat=8, num_block=2, upscale=scale)
    torch.save({"params": theirs.state_dict()}, tmp_path / "net_g.pth")
    checkpoint = torch.load(tmp_path / "net_g.pth", weights_only=True)
    ours = convert_weights(checkpoint, Constants(0.3) if name == "edsr" else Constants()).build()
    images = torch.rand(2, 3, 10, 13)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-5, atol=2e-6)


def test_msrresnet_starts_as_basicsr_does(basicsr: ModuleType) -> None:
    torch.manual_seed(0)
    theirs = dict(basicsr.archs.srresnet_arch.MSRResNet(num_feat=32, num_block=1).named_parameters())
    ours = build("msrresnet", n_feats=32, n_blocks=1)
    assert [(key, p.shape) for key, p in ours.named_parameters()] == [(k, p.shape) for k, p in theirs.items()]
    for key, parameter in ours.named_parameters():
        if key.endswith("bias"):
            assert torch.equal(parameter, theirs[key])
        elif key != "upconv2.weight":
            assert parameter.std().item() == pytest.approx(theirs[key].std().item(), rel=0.12)
