"""Segmentation models: any encoder under any convolutional decoder of smp."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
from torch import nn

from skseg.convert import convert_to_sk
from skseg.encoders import (  # and registers the encoders
    HUB_IDS,
    LITE_ENCODERS,
    SKSettings,
    has_converted_units,
    has_sk_units,
    is_path,
    load_lite_weights,
    load_weights,
    name_with_settings,
)
from skseg.errors import UserError, near_names


class Arch(NamedTuple):
    """An smp architecture and the settings it works with.

    Attributes:
        model: The smp class.
        strides: Encoder output strides that it accepts.
        depths: Encoder depths that it accepts.
        upsampling: Computes the `upsampling` from the decoder's output to the image's size, from
            the encoder's depth and output stride; None where smp's default is right.
        decoder_channels: Channels of the decoder's stages, of which an encoder of depth d uses the
            last d; empty where smp's default fits every depth.
    """

    model: type[nn.Module]
    strides: tuple[int, ...]
    depths: tuple[int, ...] = (3, 4, 5)
    upsampling: Callable[[int, int], int] | None = None
    decoder_channels: tuple[int, ...] = ()


def _fpn_upsampling(depth: int, stride: int) -> int:
    return 1 << (depth - 3)  # the finest map of its pyramid is 3 stages above the last


def _pspnet_upsampling(depth: int, stride: int) -> int:
    return min(stride, 1 << depth)


_UNET_CHANNELS = (256, 128, 64, 32, 16)
# Decoders that double the resolution step by step accept only undilated encoders (stride 32).
ARCHS = {
    "unet": Arch(smp.Unet, (8, 16, 32), decoder_channels=_UNET_CHANNELS),
    "unetplusplus": Arch(smp.UnetPlusPlus, (32,), decoder_channels=_UNET_CHANNELS),
    "manet": Arch(smp.MAnet, (32,), decoder_channels=_UNET_CHANNELS),
    "linknet": Arch(smp.Linknet, (32,)),
    "fpn": Arch(smp.FPN, (32,), upsampling=_fpn_upsampling),
    "pspnet": Arch(smp.PSPNet, (8, 16, 32), upsampling=_pspnet_upsampling),
    "deeplabv3": Arch(smp.DeepLabV3, (8, 16)),
    "deeplabv3plus": Arch(smp.DeepLabV3Plus, (8, 16)),
    "pan": Arch(smp.PAN, (16, 32)),
    "upernet": Arch(smp.UPerNet, (8, 16, 32)),
    "segformer": Arch(smp.Segformer, (8, 16, 32)),
}


class InputRule(NamedTuple):
    """The image sides that a model accepts.

    Attributes:
        multiple: Each side is a multiple of this number of pixels.
        minimum: The smallest side, in pixels.
    """

    multiple: int
    minimum: int


def build_model(
    arch: str,
    encoder_name: str,
    encoder_weights: str | None = None,
    in_channels: int = 3,
    classes: int = 1,
    encoder_depth: int | None = None,
    encoder_output_stride: int | None = None,
    sk: SKSettings | None = None,
    **decoder: Any,
) -> nn.Module:
    """Build an smp segmentation model whose logits have the input's size.

    Args:
        arch: Name of the architecture, a key of `ARCHS`.
        encoder_name: An encoder of this package, of smp, or "tu-NAME" for timm's NAME.
        encoder_weights: Name of the encoder's pretrained weights, such as "imagenet", or path of
            a file of them, see `skseg.encoders.load_weights`; random weights when None.
            "imagenet" of `efficientnet_lite0` to 2 comes from a Python package, not from a hub.
        in_channels: Channels of the input image.
        classes: Channels of the logits.
        encoder_depth: Number of encoder stages, 3 to 5; smp's default when None.
        encoder_output_stride: Stride of the last stage, 8, 16 or 32; smp's default when None.
        sk: Settings of the encoder's SK units. An encoder without SK units is converted, see
            `skseg.convert_to_sk`, and the model has the report of that as `conversion`. The encoder
            stays as it is when None.
        **decoder: Further arguments of the smp class, such as ``decoder_channels``.

    Returns:
        The model, with `.encoder`, `.decoder` and `.segmentation_head`. It maps [B, in_channels,
        H, W] to logits [B, classes, H, W] for sides that `input_rule` allows.

    Raises:
        UserError: A name is unknown, or the architecture does not accept the settings.

    Example:
        >>> import torch
        >>> model = build_model("unet", "sknet_tiny", classes=19, decoder_channels=(8,) * 5)
        >>> model(torch.zeros(2, 3, 64, 96)).shape
        torch.Size([2, 19, 64, 96])
    """
    accepted = _find_arch(arch)
    check_encoder(encoder_name)
    settings = _smp_settings(arch, accepted, encoder_depth, encoder_output_stride, decoder)
    weights = _find_weights(encoder_name, encoder_weights)
    is_converted = sk is not None and _needs_conversion(encoder_name)
    with name_with_settings(encoder_name, None if is_converted else sk) as registered_name:
        try:
            model = accepted.model(
                encoder_name=registered_name,
                encoder_weights=weights.smp_name,
                in_channels=in_channels,
                classes=classes,
                **settings,
            )
        except UserError:
            raise
        except Exception as error:
            mistake = _as_mistake(error, arch, encoder_name, encoder_weights, weights)
            if mistake is None:
                raise
            raise mistake from error
    # A checkpoint of a converted network has the weights of its SK units.
    is_trained = is_converted and encoder_weights is not None and _is_converted(encoder_weights)
    if weights.load is not None and not is_trained:
        weights.load(model.get_submodule("encoder"))
    if sk is not None and is_converted:
        model = _convert(model, encoder_name, sk)
    if weights.load is not None and is_trained:
        weights.load(model.get_submodule("encoder"))
    return model


def _is_converted(weights: str) -> bool:
    return is_path(weights) and has_converted_units(weights)


class _Weights(NamedTuple):
    """Where an encoder's pretrained weights come from.

    Attributes:
        smp_name: What smp is asked to download; None for nothing.
        load: Loads weights from elsewhere into the encoder, once smp has built it.
    """

    smp_name: str | bool | None = None
    load: Callable[[nn.Module], None] | None = None


def _find_weights(encoder_name: str, weights: str | None) -> _Weights:
    if weights is None:
        return _Weights()
    if is_path(weights):
        return _Weights(load=partial(load_weights, path=weights))
    if encoder_name in LITE_ENCODERS and weights == "imagenet":
        return _Weights(load=partial(load_lite_weights, name=encoder_name))
    if encoder_name.startswith("tu-") and weights == "imagenet":
        return _Weights(True)  # smp reads from the encoder's name which weights these are
    return _Weights(weights)


def _needs_conversion(encoder_name: str) -> bool:
    """Whether settings of SK units mean a conversion."""
    own_name = encoder_name.removeprefix("tu-")
    if own_name != encoder_name and has_sk_units(own_name):
        raise UserError(f"`sk` requires the encoder {own_name}, not {encoder_name}")
    return not has_sk_units(encoder_name)


def _smp_settings(
    arch: str, accepted: Arch, depth: int | None, stride: int | None, decoder: Mapping[str, Any]
) -> dict[str, Any]:
    """Check depth, stride and decoder arguments; return all as arguments of the smp class."""
    parameters = inspect.signature(accepted.model).parameters
    if depth is None:
        depth = int(parameters["encoder_depth"].default)
    # Only some smp classes name the stride; the others pass `output_stride` to the encoder.
    has_stride = "encoder_output_stride" in parameters
    if stride is None:
        stride = int(parameters["encoder_output_stride"].default) if has_stride else 32
    if depth not in accepted.depths:
        raise UserError(f"`encoder_depth` of {arch} must be one of {accepted.depths}, got {depth}")
    if stride not in accepted.strides:
        raise UserError(
            f"`encoder_output_stride` of {arch} must be one of {accepted.strides}, got {stride}"
        )
    for key in decoder:
        # smp would pass an unknown key on to the encoder, which ignores it.
        if key not in parameters or key in ("kwargs", "aux_params"):
            valid = [p for p in parameters if p.startswith(("decoder_", "psp_", "upsampling"))]
            raise UserError(f"{arch} has no argument {key!r}{near_names(key, valid)}")
    settings: dict[str, Any] = {
        "encoder_depth": depth,
        "encoder_output_stride" if has_stride else "output_stride": stride,
    }
    if accepted.upsampling is not None:
        settings["upsampling"] = accepted.upsampling(depth, stride)
    if accepted.decoder_channels:
        settings["decoder_channels"] = accepted.decoder_channels[-depth:]
    return {**settings, **decoder}


def _as_mistake(
    error: Exception, arch: str, encoder: str, weights_name: str | None, weights: _Weights
) -> UserError | None:
    """Translate what smp, timm or a hub's client raised; None where it is no user's mistake."""
    if isinstance(error, KeyError | ValueError) and not isinstance(error, OSError):
        return UserError(f"{arch} with {encoder}: {error.args[0]}")
    if weights.smp_name is None:
        return None
    # Whatever else a download may raise.
    where = f" (huggingface.co/{HUB_IDS[encoder]})" if encoder in HUB_IDS else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"`encoder_weights` {weights_name!r} of {encoder}{where} are not cached and cannot be "
        f"downloaded: {reason}. Download them on a machine with a network and pass the file's path"
    )


def _convert(model: nn.Module, encoder_name: str, sk: SKSettings) -> nn.Module:
    try:
        return convert_to_sk(model, **asdict(sk))
    except UserError as error:
        raise UserError(f"`sk` with {encoder_name}: {error}") from error


def input_rule(model: nn.Module) -> InputRule:
    """Return the image sides that a model of `build_model` accepts.

    Example:
        >>> input_rule(build_model("unet", "sknet_tiny"))
        InputRule(multiple=32, minimum=32)
    """
    stride = int(model.encoder.output_stride)  # type: ignore[arg-type, union-attr]
    # PAN halves the last feature three times.
    return InputRule(stride, 8 * stride if isinstance(model, smp.PAN) else stride)


def check_encoder(name: str) -> None:
    """Raise UserError, with near names, for an encoder that neither smp nor timm has."""
    if name.startswith("tu-"):
        if not timm.is_model(name.removeprefix("tu-").split(".")[0]):
            known = [f"tu-{model}" for model in timm.list_models()]
            raise UserError(f"unknown encoder {name!r}{near_names(name, known)}")
    elif name not in smp.encoders.encoders:
        known = [n for n in smp.encoders.encoders if not n.startswith("timm-")]
        raise UserError(f"unknown encoder {name!r}{near_names(name, known)}")


def _find_arch(name: str) -> Arch:
    if name == "dpt":
        raise UserError(
            f"dpt requires a vision transformer as encoder; use one of {', '.join(ARCHS)}"
        )
    if name not in ARCHS:
        raise UserError(f"unknown architecture {name!r}{near_names(name, ARCHS)}")
    return ARCHS[name]
