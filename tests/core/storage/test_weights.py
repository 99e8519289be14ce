"""Weights in every form in which people have them."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from core.errors import UserError
from core.storage.checkpoint import load_weights, read_checkpoint, read_weights, save_state
from core.storage.files import write_json
from core.storage.weights import find_weights, fit_weights, fitted_weights, weight_sets


def network(seed=0, outputs=2):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, outputs))


class Holder(nn.Module):
    """A network whose own names begin as wrappers' do."""

    def __init__(self, seed=0):
        super().__init__()
        self.model = network(seed)


def weights(seed=0, prefix=""):
    return {prefix + name: value for name, value in network(seed).state_dict().items()}


def other():
    return weights(5)


def equal(module, expected):
    own = module.state_dict()
    return own.keys() == expected.keys() and all(
        torch.equal(own[name], value) for name, value in expected.items()
    )


def without_counters(state):
    return {name: value for name, value in state.items() if "num_batches_tracked" not in name}


def averaged(seed=0, extra=""):
    """torch's own average of one network is that network."""
    state = AveragedModel(network(seed)).state_dict()
    assert "n_averaged" in state
    return {extra + name: value for name, value in state.items()}


FORMS = {
    "bare": weights,
    "ImageNet example": lambda: {
        "state_dict": weights(prefix="module."),
        "best_acc1": torch.tensor(76.1),
        "epoch": 90,
    },
    "model": lambda: {"model": weights(), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "net": lambda: {"net": weights(), "acc": 95.3, "epoch": 199},
    "arguments": lambda: {"model": weights(), "args": argparse.Namespace(lr=0.1)},
    "timm, average": lambda: {
        "state_dict": other(),
        "state_dict_ema": weights(),
        "args": argparse.Namespace(),
    },
    "timm, average of a wrapper": lambda: {
        "state_dict": other(),
        "state_dict_ema": weights(prefix="module."),
    },
    "DeiT": lambda: {"model": other(), "model_ema": weights(), "scaler": {"scale": 1.0}},
    "BasicSR": lambda: {"params": other(), "params_ema": weights()},
    "torchvision's reference": lambda: {"model": other(), "model_ema": averaged()},
    "averaged": averaged,
    "averaged, in parallel": lambda: averaged(extra="module."),
    "in parallel": lambda: weights(prefix="module."),
    "compiled": lambda: weights(prefix="_orig_mod."),
    "compiled, then parallel": lambda: weights(prefix="module._orig_mod."),
    "parallel, then compiled": lambda: weights(prefix="_orig_mod.module."),
    "lightning": lambda: {"state_dict": weights(prefix="model."), "hyper_parameters": {"lr": 0.1}},
    "lightning, compiled, twice": lambda: {
        "state_dict": weights(prefix="model._orig_mod.model.module.module.")
    },
    "twice": lambda: {"model": {"state_dict": weights()}},
    "sharded": lambda: {"model": weights(prefix="_fsdp_wrapped_module.module.")},
    "another average": lambda: {"model": other(), "ema_model": weights(prefix="module.")},
    "stochastic average": lambda: {"state_dict": other(), "swa_state_dict": averaged()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("holder", [False, True])
def test_every_form_is_read(tmp_path, form, holder):
    torch.save(FORMS[form](), tmp_path / "w.pth")
    module = Holder(1) if holder else network(1)
    load_weights(module, tmp_path / "w.pth")
    assert equal(module.model if holder else module, weights())


@pytest.mark.parametrize("form", [form for form in FORMS if "lightning" not in form])
def test_every_form_is_read_without_a_network(tmp_path, form):
    torch.save(FORMS[form](), tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert found.keys() == weights().keys()
    assert all(torch.equal(found[name], value) for name, value in weights().items())


def test_a_part_leaves_the_rest_of_the_network_and_a_stem_of_another_kernel():
    whole = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "body": nn.Conv2d(4, 4, 3), "fc": nn.Linear(4, 9)})
    part = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 7), "body": nn.Conv2d(4, 4, 3)})
    content = {"state_dict": {f"module.{name}": value for name, value in whole.state_dict().items()}}
    fitted = fitted_weights(part, content, "w.pth", foreign=True, unused=("fc.",), stems=("stem.weight",))
    assert fitted.weights.keys() == {"stem.bias", "body.weight", "body.bias"}
    assert fitted.notes == ("'w.pth' is of a network with another stem: 'stem.weight' starts fresh.",)
    with pytest.raises(UserError, match=r"2 unexpected \(module.fc.weight, module.fc.bias\)"):
        fitted_weights(part, content, "w.pth", stems=("stem.weight",))
    with pytest.raises(UserError, match=r"1 of another shape \(stem.weight"):
        fitted_weights(part, content, "w.pth", unused=("fc.",))


def test_wrapped_parts_are_unwrapped():
    found = {
        name.replace("0.", "0.module.", 1) if name[0] == "0" else name: v for name, v in weights().items()
    }
    assert "0.module.weight" in found
    module = network(1)
    fit_weights(module, found, "file")
    assert equal(module, weights())


def test_names_that_only_look_wrapped_stay():
    module = nn.ModuleDict({"model": nn.Linear(2, 2), "weight_of": nn.ModuleDict({"model": nn.Linear(2, 2)})})
    expected = {name: torch.randn_like(value) for name, value in module.state_dict().items()}
    fit_weights(module, expected, "file")
    assert equal(module, expected)
    both = nn.ModuleDict({"model": nn.Linear(2, 2), "module": nn.ModuleDict({"model": nn.Linear(2, 2)})})
    with pytest.raises(UserError, match=r"4 missing .* 2 unexpected"):  # which one is not known
        fit_weights(both, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "file")


def test_counters_that_are_missing_start_at_zero():
    module = network(1)
    module[1].num_batches_tracked += 7
    old = without_counters(weights())
    fitted = fitted_weights(module, old, "old.pth")
    assert fitted.missing == []
    assert fitted.notes == ("'old.pth': num_batches_tracked is not in it; 1 of them start at 0.",)
    assert fit_weights(module, old, "old.pth") == ([], [])
    assert int(module[1].num_batches_tracked) == 0
    assert torch.equal(module[1].running_var, weights()["1.running_var"])


def test_a_training_state_gives_its_average(tmp_path):
    state = {"model": other(), "ema": averaged(), "position": {"epoch": 1}}
    save_state(tmp_path / "last.safetensors", state)
    module = network(1)
    load_weights(module, tmp_path / "last.safetensors")
    assert equal(module, weights())
    fitted = fitted_weights(module, read_checkpoint(tmp_path / "last.safetensors"), "last")
    assert fitted.notes == ("'last': the running average is taken, its entry 'ema'.",)
    save_state(tmp_path / "last.safetensors", {**state, "ema": None})
    load_weights(module, tmp_path / "last.safetensors")
    assert equal(module, other())


def test_several_sets_that_fit_are_refused():
    with pytest.raises(UserError, match=r"'f' is ambiguous: it holds 2 different sets .*'model' and 'net'"):
        fit_weights(network(), {"model": weights(), "net": other()}, "f")
    module = network(1)
    fit_weights(module, {"model": weights(), "net": weights()}, "f")  # the same twice is no question
    assert equal(module, weights())
    with pytest.raises(UserError, match=r"2 different sets .*'model_ema' and 'ema'"):
        fit_weights(network(), {"model_ema": weights(), "ema": other()}, "f")
    generative = {"generator": weights(), "discriminator": {"0.weight": torch.ones(1, 3, 3, 3)}}
    fit_weights(module, generative, "f")
    assert equal(module, weights())
    with pytest.raises(
        UserError, match=r"'f' is ambiguous: it holds 2 sets of weights \(generator, discriminator\)"
    ):
        find_weights(generative, "f")


def test_the_closest_set_is_named():
    damaged = other()
    damaged["head.weight"] = damaged.pop("3.weight")
    with pytest.raises(UserError) as caught:
        fit_weights(network(), {"net": {"a.weight": torch.ones(2)}, "model": damaged}, "f.pth")
    assert str(caught.value) == (
        "'f.pth' does not fit Sequential with 9 tensors; the closest is its entry 'model': "
        "1 missing (3.weight); 1 unexpected (head.weight); is '3.weight' called 'head.weight' there?"
    )


def test_heads_of_another_size_keep_their_start():
    module = network(1, outputs=7)
    fitted = fitted_weights(module, {"state_dict": weights()}, "f", foreign=True)
    assert fitted.heads == {"3": (2, 7)}
    assert fitted.notes == ("'f': its head '3' has 2 outputs, this network's 7: the head starts fresh.",)
    assert fitted.weights.keys() == {name for name in weights() if name[0] != "3"}
    with pytest.raises(UserError, match=r"2 of another shape \(3.weight \(2, 4\) instead of \(7, 4\)"):
        fit_weights(module, weights(), "f")


def test_a_wider_network_has_no_heads_of_another_size():
    torch.manual_seed(0)
    wider = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(UserError, match=r"7 of another shape"):
        fitted_weights(network(), wider.state_dict(), "f", foreign=True)
    two = {**weights(), "3.weight": torch.ones(9, 4), "1.bias": torch.ones(5)}
    with pytest.raises(UserError, match=r"2 of another shape"):  # not of one size
        fitted_weights(network(), two, "f", foreign=True)


def test_a_network_that_is_part_of_what_was_saved():
    lightning = {"state_dict": {**weights(prefix="model."), "criterion.weight": torch.ones(2)}}
    fitted = fitted_weights(network(1), lightning, "f.ckpt", foreign=True)
    assert fitted.notes == (
        "'f.ckpt': its entry 'state_dict/model.' is taken.",
        "1 other tensors there are left out (criterion.weight).",
    )
    both = {**weights(5, "model."), **weights(prefix="model_ema.module."), "criterion.weight": torch.ones(2)}
    fitted = fitted_weights(network(1), both, "f", foreign=True)
    assert torch.equal(fitted.weights["0.weight"], weights()["0.weight"])
    assert "running average is taken, its entry 'model_ema.'" in fitted.notes[0]
    with pytest.raises(UserError, match="is ambiguous"):
        fitted_weights(
            network(1), {**weights(5, "student."), **weights(prefix="teacher.")}, "f", foreign=True
        )


def test_what_holds_itself_ends():
    content = {"epoch": 1}
    content["again"] = content
    with pytest.raises(UserError, match="holds no weights"):
        fit_weights(network(), content, "f")


class Attack(argparse.Namespace):
    """Looks like arguments, and creates a folder where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_arguments_do_not_open_a_door(tmp_path):
    path, target = tmp_path / "w.pth", tmp_path / "was-run"
    inner = argparse.Namespace(inner=Attack(target=str(target)))
    for content in (Attack(target=str(target)), inner, {"args": inner, "model": weights()}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"was refused: .*run code that it carries \(posix.mkdir\)"):
            load_weights(network(), path)
        assert not target.exists()


def test_a_file_that_holds_one_thing_under_many_names_is_read_once() -> None:
    content: dict = {"model": {"weight": torch.ones(2)}}
    content |= {f"self{number}": content for number in range(1000)}
    assert [found.entry for found in weight_sets(content, "file.pth")] == ["model"]
    for _ in range(5):  # 1000^5 ways lead to the weights
        content = {f"k{number}": content for number in range(1000)}
    with pytest.raises(UserError, match="holds no weights"):
        weight_sets(content, "file.pth")


@pytest.mark.parametrize("prefix", ["model.net.", "net._orig_mod.", "module.encoder.backbone."])
def test_a_network_deep_within_what_was_saved(prefix):
    content = {"state_dict": {**weights(prefix=prefix), "loss.weight": torch.ones(2)}}
    fitted = fitted_weights(network(1), content, "f", foreign=True)
    assert all(torch.equal(fitted.weights[name], value) for name, value in weights().items())
    assert "1 other tensors there are left out (loss.weight)." in fitted.notes


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda value: value.to(torch.int8), "int8"),
        (lambda value: value > 0, "bool"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to("meta"), "no values, a shape alone"),
        (lambda value: value.to_sparse(), "sparse_coo"),
    ],
)
def test_what_are_no_values_of_weights_is_refused(change, kind):
    changed = {**weights(), "3.weight": change(weights()["3.weight"])}
    with pytest.raises(UserError, match=rf"1 of another kind \(3.weight: {kind}\)"):
        fit_weights(network(), changed, "f")


def test_an_average_that_does_not_fit_is_told():
    parameters = {name: value for name, value in weights().items() if "running" not in name}
    fitted = fitted_weights(network(1), {"model": other(), "ema": parameters}, "f")
    assert torch.equal(fitted.weights["3.weight"], other()["3.weight"])
    assert "'f': its running average 'ema' does not fit and is not taken: 2 missing" in fitted.notes[-1]


def test_weights_in_several_files_are_read_by_their_index(tmp_path):
    names = list(weights())
    parts = {f"model-0000{part}-of-00002.safetensors": names[part - 1 :: 2] for part in (1, 2)}
    for part, held in parts.items():
        save_file({name: weights()[name] for name in held}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    places = {name: part for part, held in parts.items() for name in held}
    write_json(index, {"metadata": {}, "weight_map": places})
    module = network(1)
    load_weights(module, index)
    assert equal(module, weights())
    with pytest.raises(UserError, match=r"4 missing .*it is one file of several: name their .index.json"):
        load_weights(module, tmp_path / "model-00001-of-00002.safetensors")
    for damage, message in (
        ({**places, "x": "../w.pth"}, "is no file beside it"),
        ({**places, "x": next(iter(parts))}, "names x, which"),
        ([], "is no index"),
    ):
        write_json(index, {"weight_map": damage})
        with pytest.raises(UserError, match=message):
            load_weights(module, index)
