"""Weights of timm and torchvision are found where these libraries keep them, and nowhere else."""

import socket
from pathlib import Path

import pytest
import torch

from core.errors import MissingData, UserError
from core.storage.hubs import is_file_name, weights_file


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Caches that are empty, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    downloads = pytest.importorskip("huggingface_hub.file_download")
    monkeypatch.setattr(downloads, "HF_HUB_CACHE", str(tmp_path / "hf"), raising=False)

    def no_network(*arguments, **named):
        raise AssertionError("something looked for a network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    return tmp_path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def test_a_file_is_itself(tmp_path):
    path = put(tmp_path / "my" / "w.pth")
    assert weights_file(str(path)) == path
    assert is_file_name(str(path))
    assert not is_file_name("timm:resnet18")
    with pytest.raises(MissingData, match=r"'none.pth': there is no such file; name one, or timm:NAME"):
        weights_file("none.pth")


@pytest.mark.parametrize("name", ["resnet18", "ResNet18_Weights.IMAGENET1K_V1", "ResNet18_Weights.DEFAULT"])
def test_torchvision(torchvision, caches, name):
    with pytest.raises(MissingData) as caught:
        weights_file(f"torchvision:{name}")
    assert str(caught.value) == (
        f"'torchvision:{name}' is not in the cache '{caches}/hub/checkpoints', and nothing is downloaded here: run  "
        'python -c "from torchvision.models import get_weight; '
        "get_weight('ResNet18_Weights.IMAGENET1K_V1').get_state_dict()\"  where there is a network, or name a file"
    )
    path = put(caches / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    assert weights_file(f"torchvision:{name}") == path


def test_torchvision_has_no_such_weights(torchvision):
    for name in ("resnet19", "ResNet19_Weights.DEFAULT", "ResNet18_Weights.V9"):
        with pytest.raises(UserError, match=f"torchvision has no weights '{name}'"):
            weights_file(f"torchvision:{name}")


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "resnet18"])
def test_timm_of_hugging_face(timm, caches, name):
    with pytest.raises(MissingData) as caught:
        weights_file(f"timm:{name}")
    assert str(caught.value) == (
        f"'timm:{name}' is not in the cache '{caches}/hf', and nothing is downloaded here: run  "
        f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\"  where there is a network, or name a "
        f"file"
    )
    place = caches / "hf" / "models--timm--resnet18.a1_in1k"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0a1b")
    old = put(place / "snapshots" / "0a1b" / "pytorch_model.bin")
    assert weights_file(f"timm:{name}") == old
    (old.parent / "model.safetensors").write_bytes(b"weights")
    assert weights_file(f"timm:{name}") == old.with_name("model.safetensors")


def test_timm_of_a_url(timm, caches):
    names = [name for name in timm.list_pretrained() if not timm.get_pretrained_cfg(name).hf_hub_id]
    name = next((name for name in names if timm.get_pretrained_cfg(name).url), None)
    if name is None:
        pytest.skip("all weights of this release of timm lie at Hugging Face")
    with pytest.raises(MissingData, match="hub/checkpoints"):
        weights_file(f"timm:{name}")
    path = put(caches / "hub" / "checkpoints" / timm.get_pretrained_cfg(name).url.rpartition("/")[2])
    assert weights_file(f"timm:{name}") == path


def test_timm_has_no_such_weights(timm):
    with pytest.raises(UserError, match=r"timm has no weights 'resnet18.a9', did you mean"):
        weights_file("timm:resnet18.a9")
