"""Weights that other libraries have already downloaded: `timm:NAME` and `torchvision:NAME`, from the user's own cache.

Nothing is downloaded here. If a file is not in the cache, the message says which call downloads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from core.errors import MissingData, UserError, did_you_mean

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of Hugging Face, the safe one first


def weights_file(source: str) -> Path:
    """The file that `--pretrained` names.

    Args:
        source: a file; `timm:NAME`, a name of `timm.list_pretrained()`; or `torchvision:NAME`, a network (its default
            weights) or weights such as `ResNet18_Weights.IMAGENET1K_V1`. A file of such a name comes first.

    Raises:
        MissingData: the file is not there, or not in the cache; or the library is not installed.
        UserError: the library knows no such weights.
    """
    library, separator, name = source.partition(":")
    if separator and library in _LIBRARIES and not Path(source).exists():
        return _LIBRARIES[library](source, name)
    path = Path(source).expanduser()
    if not path.is_file():
        what = "that is a folder; name a file in it" if path.is_dir() else "there is no such file; name one"
        raise MissingData(f"pretrained weights '{source}': {what}, or timm:NAME or torchvision:NAME")
    return path


def is_file_name(source: str) -> bool:
    """Whether `weights_file` takes a source for a file."""
    return source.partition(":")[0] not in _LIBRARIES or Path(source).exists()


def _of_timm(source: str, name: str) -> Path:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise MissingData(_not_importable(source, "timm", error)) from error
    known = timm.list_pretrained()
    usual = "." not in name and timm.is_model(name)  # without a tag: its first one
    config = timm.get_pretrained_cfg(name) if usual or name in known else None
    if config is None or not config.has_weights:
        raise UserError(f"'{source}': timm has no weights '{name}', {did_you_mean(name, known)}")
    found = next((path for path in _cached(config) if path.is_file()), None)
    if found is None:
        call = f"import timm; timm.create_model({name!r}, pretrained=True)"
        raise MissingData(_not_there(source, _hub_folder(config), call))
    return found


def _cached(config: Any) -> Iterator[Path]:
    """Where timm's own loader would find the weights without a network."""
    if config.file:
        yield Path(config.file)
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = config.hf_hub_id.partition("@")
        names = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
        for name in names:
            path = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(path, str):
                yield Path(path)
    if config.url:
        yield _downloaded(config.url)


def _hub_folder(config: Any) -> Path:
    """The cache to name if nothing was found."""
    if not config.hf_hub_id:
        return _downloads()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _of_torchvision(source: str, name: str) -> Path:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise MissingData(_not_importable(source, "torchvision", error)) from error
    known = models.list_models()
    try:
        weights = models.get_model_weights(name).DEFAULT if name in known else models.get_weight(name)
    except (ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"'{source}': torchvision has no weights '{name}', {did_you_mean(name, known)}"
        ) from error
    path = _downloaded(weights.url)
    if not path.is_file():
        call = f"from torchvision.models import get_weight; get_weight('{weights}').get_state_dict()"
        raise MissingData(_not_there(source, path.parent, call))
    return path


def _downloads() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _downloaded(url: str) -> Path:
    """Where `torch.hub.load_state_dict_from_url` puts a file."""
    return _downloads() / Path(urlparse(url).path).name


def _not_importable(source: str, library: str, error: Exception) -> str:
    """The message for a library that is missing or was built for another torch than the installed one."""
    reason = " ".join(str(error).split())[:100]
    remedy = (
        "pip install -e '.[timm]'"
        if isinstance(error, ImportError)
        else "torchvision here was built for another torch than is installed: install the two from one place"
    )
    return f"'{source}': {library} cannot be imported ({reason}): {remedy}, or name a file"


def _not_there(source: str, folder: Path, call: str) -> str:
    return (
        f"'{source}' is not in the cache '{folder}', and nothing is downloaded here: run  python -c \"{call}\"  where "
        f"there is a network, or name a file"
    )


_LIBRARIES: dict[str, Callable[[str, str], Path]] = {"timm": _of_timm, "torchvision": _of_torchvision}
