"""Weights from files and hubs, in any of the known layouts; all of an encoder's or none."""

import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import adapt_input_conv
from torch import Tensor, nn

from skseg.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin", ".ckpt")
"""Endings that tell the file of weights from the name of weights."""

HUB_IDS = {
    "sknet50": "timm/skresnext50_32x4d.ra_in1k",
    "sknet50_plain": "timm/resnext50_32x4d.ra_in1k",
    "sknet50_se": "timm/seresnext50_32x4d.racm_in1k",
    "skresnet18": "timm/skresnet18.ra_in1k",
    "skresnet34": "timm/skresnet34.ra_in1k",
}
"""Repositories of weights trained on ImageNet-1k on the Hugging Face hub, by encoder."""

State = dict[str, Tensor]

# How to rename the parameters of each layout to this package's names.
_LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "skseg": (),
    "timm": (
        (r"\.conv([123])\.conv\.", r".conv\1."),
        (r"\.conv([123])\.bn\.", r".bn\1."),
    ),
    "PytorchInsight": (
        (r"(layer\d\.\d+)\.conv2\.", r"\1.conv2.paths.0.conv."),
        (r"(layer\d\.\d+)\.bn2\.", r"\1.conv2.paths.0.bn."),
        (r"\.conv2g\.", ".conv2.paths.1.conv."),
        (r"\.bn2g\.", ".conv2.paths.1.bn."),
        (r"\.conv_fc1\.", ".conv2.attn.fc_reduce."),
        (r"\.bn_fc1\.", ".conv2.attn.bn."),
        (r"\.conv_fc2\.", ".conv2.attn.fc_select."),
    ),
}
# Prefixes of what an encoder lacks, and keys under which a file may hold its tensors.
_CLASSIFIERS = ("fc.", "classifier.", "head.", "last_linear.")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "backbone", "encoder")
_SHOWN = 3  # names of each problem in an error


def smp_settings(name: str | None) -> dict[str, dict[str, Any]]:
    """Return the `pretrained_settings` of an encoder in smp's registry."""
    if name not in HUB_IDS:
        return {}
    return {
        "imagenet": {
            "repo_id": HUB_IDS[name],
            "revision": "main",
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
            "input_space": "RGB",
            "input_range": [0, 1],
        }
    }


def check_records(path: Path) -> None:
    """Verify the checksums of a file of `torch.save`, which `torch.load` ignores.

    Args:
        path: The file.

    Raises:
        BadZipFile: The file is no zip archive, or a record differs from its checksum. Other errors
            of `zipfile` are possible too.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "encoder.pth"
        >>> torch.save({"weight": torch.ones(1000)}, path)
        >>> check_records(path)
        >>> content = bytearray(path.read_bytes())
        >>> content[len(content) // 2] ^= 1
        >>> _ = path.write_bytes(content)
        >>> check_records(path)
        Traceback (most recent call last):
        zipfile.BadZipFile: damaged: encoder/data/0 differs from its checksum
    """
    with ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise BadZipFile(f"damaged: {damaged} differs from its checksum")


def nonfinite_problem(state: Mapping[str, Tensor]) -> str | None:
    """Return which weights or buffers are not finite, None if all are.

    Example:
        >>> nonfinite_problem({"a": torch.ones(2), "b": torch.tensor([1.0, torch.inf])})
        'b has values that are not finite'
    """
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            return f"{name} has values that are not finite"
    return None


def has_converted_units(path: str | Path) -> bool:
    """Whether a file of weights has SK units by this package's names.

    Raises:
        UserError: The file cannot be read.
    """
    return any(".paths.0." in key for key in read_state_dict(path))


def is_path(weights: str) -> bool:
    """Whether `encoder_weights` is the path of a file and not the name of weights.

    Example:
        >>> is_path("runs/mine/last.ckpt"), is_path("imagenet")
        (True, False)
    """
    return weights.endswith(SUFFIXES) or "/" in weights or Path(weights).is_file()


def load_weights(encoder: nn.Module, path: str | Path) -> None:
    """Load all of an encoder's weights from a file.

    Args:
        encoder: An encoder of this package, of smp or of timm.
        path: A `.safetensors` file or a file of `torch.save`, in the layout of this package (a
            training checkpoint too), of timm, or of PytorchInsight for its SK networks. The
            classifier's weights are left out. If the file's stem has 3 input channels and the
            encoder's has not, it is adapted as in timm.

    Raises:
        UserError: The file does not exist, is damaged, cannot be read without running code in it,
            or does not hold the weights of this encoder. Nothing is loaded then.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from segmentation_models_pytorch.encoders import get_encoder
        >>> trained, fresh = (get_encoder("sknet_tiny", weights=None) for _ in range(2))
        >>> path = Path(tempfile.mkdtemp()) / "encoder.pth"
        >>> torch.save(trained.state_dict(), path)
        >>> load_weights(fresh, path)
        >>> torch.equal(fresh.conv1[0].weight, trained.conv1[0].weight)
        True
    """
    state = fit_state_dict(encoder, read_state_dict(path), str(path))
    if problem := nonfinite_problem(state):
        raise UserError(f"`encoder_weights`: {path}: {problem}")
    nn.Module.load_state_dict(encoder, state)


def read_state_dict(path: str | Path) -> State:
    """Read the tensors of a file by name; no code in the file runs.

    Raises:
        UserError: The file does not exist, or holds no tensors by name that can be read safely.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise UserError(f"`encoder_weights`: {path}: {what}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        if is_zipfile(path):  # torch wrote no archives before 1.6
            check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"`encoder_weights`: {path}: refused, because it is damaged or would run code; save "
            "only tensors"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds of errors on any bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"`encoder_weights`: {path}: cannot be read ({reason})") from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"`encoder_weights`: {path}: holds no tensors by name")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def fit_state_dict(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> State:
    """Convert weights of any known layout to an encoder's.

    Args:
        encoder: The encoder.
        state: Tensors by name.
        source: Name of the weights in an error.

    Returns:
        Tensors for all keys of the encoder's `state_dict`.

    Raises:
        UserError: Keys are missing or unexpected, or have other shapes; the error names some.
    """
    target: State = nn.Module.state_dict(encoder)
    fitted = rename(state, encoder)
    for key in target.keys() - fitted.keys():
        if key.endswith("num_batches_tracked"):  # older files have none
            fitted[key] = target[key]
    _adapt_stem(fitted, target)
    if problems := _problems(fitted, target):
        raise UserError(
            f"`encoder_weights`: {source}: not the weights of this encoder: "
            + "; ".join(_listed(problems))
        )
    return fitted


def rename(state: Mapping[str, Tensor], model: nn.Module) -> State:
    """Rename weights to a model's names: by the prefix and the layout that fit best."""
    target: State = model.state_dict()
    candidates = [
        _renamed(inside, target, layout)
        for inside in _without_prefixes(state, len(target))
        for layout in _LAYOUTS.values()
    ]
    return min(candidates, key=lambda found: sum(map(len, _problems(found, target).values())))


def _without_prefixes(state: Mapping[str, Tensor], wanted: int) -> list[State]:
    """Return the weights below each prefix that may be an encoder's.

    Wrappers, segmentation models and training tasks add prefixes such as `module.`,
    `model.encoder.` and `backbone.`.

    Args:
        state: Tensors by name.
        wanted: Number of the encoder's tensors; below its prefix are at least half as many.
    """
    # torch.compile adds its prefix wherever a module was compiled.
    plain = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    below = Counter[str]()
    for key in plain:
        parts = key.split(".")
        below.update(".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
    prefixes = [prefix for prefix, count in below.items() if 2 * count >= wanted]
    return [
        {key.removeprefix(p): value for key, value in plain.items() if key.startswith(p)}
        for p in ("", *prefixes)
    ]


def _renamed(state: State, target: State, layout: tuple[tuple[str, str], ...]) -> State:
    renamed = {}
    for key, value in state.items():
        for pattern, name in layout:
            key = re.sub(pattern, name, key)
        if key not in target and f"model.{key}" in target:  # smp wraps timm's networks so
            key = f"model.{key}"
        if key not in target and key.startswith(_CLASSIFIERS):
            continue
        # A linear layer of ours may be a 1x1 convolution there.
        if key in target and target[key].ndim == 2 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        renamed[key] = value
    return renamed


def _adapt_stem(state: State, target: State) -> None:
    """Adapt the first convolution, in place, if it differs in its input channels only."""
    stem = next((key for key, value in target.items() if value.ndim == 4), "")
    if stem in state and state[stem].shape[1] == 3 != target[stem].shape[1]:
        adapted = adapt_input_conv(target[stem].shape[1], state[stem])
        if adapted.shape == target[stem].shape:
            state[stem] = adapted


def _problems(state: State, target: State) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {
        "missing": sorted(target.keys() - state.keys()),
        "unexpected": sorted(state.keys() - target.keys()),
        "misshapen": [
            f"{key} {list(state[key].shape)}, not {list(target[key].shape)}"
            for key in sorted(target.keys() & state.keys())
            if state[key].shape != target[key].shape
        ],
    }
    return {kind: keys for kind, keys in found.items() if keys}


def _listed(problems: Mapping[str, list[str]]) -> Iterator[str]:
    for kind, keys in problems.items():
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        yield f"{kind} {', '.join(keys[:_SHOWN])}{more}"


class LoadsAnyLayout:
    """A mixin for encoders whose `load_state_dict` accepts weights of any known layout.

    smp loads pretrained weights by this method, so it can load those that others trained.
    """

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights except those of a classifier."""
        assert isinstance(self, nn.Module)
        fitted = fit_state_dict(self, state_dict, "the weights") if strict else state_dict
        return nn.Module.load_state_dict(self, fitted, strict=strict, assign=assign)
