"""Segmentation models: any encoder under any convolutional decoder of smp."""

import inspect
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
from torch import nn

from skseg.convert import convert_to_sk
from skseg.encoders import (  # and registers the encoders
    HUB_IDS,
    LITE_ENCODERS,
    SKSettings,
    has_sk_units,
    is_path,
    load_lite_weights,
    load_weights,
    with_settings,
)
from skseg.errors import UserError


class Arch(NamedTuple):
    """What an smp architecture accepts.

    Attributes:
        model: the smp class.
        depths: encoder depths it works at.
        strides: encoder output strides it works at.
    """

    model: type[nn.Module]
    strides: tuple[int, ...]
    depths: tuple[int, ...] = (3, 4, 5)


# Decoders that double the resolution step by step take only undilated encoders (stride 32).
ARCHS = {
    "unet": Arch(smp.Unet, (8, 16, 32)),
    "unetplusplus": Arch(smp.UnetPlusPlus, (32,)),
    "manet": Arch(smp.MAnet, (32,)),
    "linknet": Arch(smp.Linknet, (32,)),
    "fpn": Arch(smp.FPN, (32,)),
    "pspnet": Arch(smp.PSPNet, (8, 16, 32)),
    "deeplabv3": Arch(smp.DeepLabV3, (8, 16)),
    "deeplabv3plus": Arch(smp.DeepLabV3Plus, (8, 16)),
    "pan": Arch(smp.PAN, (16, 32)),
    "upernet": Arch(smp.UPerNet, (8, 16, 32)),
    "segformer": Arch(smp.Segformer, (8, 16, 32)),
}
_UNET_CHANNELS = (256, 128, 64, 32, 16)


class InputRule(NamedTuple):
    """Image sides a model takes: multiples of `multiple` (pixels) from `minimum` up."""

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
        arch: name of the architecture, a key of `ARCHS`.
        encoder_name: an encoder of this package, of smp, or "tu-NAME" for timm's NAME.
        encoder_weights: name of the encoder's pretrained weights, such as "imagenet", or path of
            a file of them, see `skseg.encoders.load_weights`; None starts from random ones.
            "imagenet" of `efficientnet_lite0` to 2 needs their package, no hub.
        in_channels: channels of the input image.
        classes: channels of the logits.
        encoder_depth: number of encoder stages, 3 to 5; smp's default when None.
        encoder_output_stride: stride of the last stage, 8, 16 or 32; smp's default when None.
        sk: settings of the encoder's SK units; one without them is converted, see
            `convert_to_sk`, and the model has its report as `conversion`. When None the encoder is
            as it is.
        **decoder: further arguments of the smp class, such as ``decoder_channels``.

    Returns:
        The model, with `.encoder`, `.decoder` and `.segmentation_head`; it maps [B, in_channels,
        H, W] to logits [B, classes, H, W] for sides that `input_rule` allows.

    Raises:
        UserError: an unknown name, or settings that the architecture does not take.
    """
    accepted = _find_arch(arch)
    check_encoder(encoder_name)
    if sk is not None and has_sk_units(encoder_name):
        encoder_name, sk = with_settings(encoder_name, sk), None
    elif sk is not None and has_sk_units(encoder_name.removeprefix("tu-")):
        raise UserError(f"model.sk wants the encoder {encoder_name[3:]}, not {encoder_name}")
    parameters = inspect.signature(accepted.model).parameters
    depth = parameters["encoder_depth"].default if encoder_depth is None else encoder_depth
    own_stride = "encoder_output_stride" in parameters
    stride = encoder_output_stride
    if stride is None:
        stride = parameters["encoder_output_stride"].default if own_stride else 32
    if depth not in accepted.depths:
        raise UserError(f"{arch} takes encoder_depth {accepted.depths}, got {depth}")
    if stride not in accepted.strides:
        raise UserError(f"{arch} takes encoder_output_stride {accepted.strides}, got {stride}")
    for key in decoder:
        # smp would hand an unknown key to the encoder, which ignores it.
        if key not in parameters or key in ("kwargs", "aux_params"):
            valid = [p for p in parameters if p.startswith(("decoder_", "psp_", "upsampling"))]
            raise UserError(f"{arch} has no argument {key!r}{_near(key, valid)}")

    settings: dict[str, Any] = {"encoder_depth": depth}
    settings["encoder_output_stride" if own_stride else "output_stride"] = stride
    if arch == "fpn":
        settings["upsampling"] = 2 ** (depth - 3)  # its finest map is 3 stages above the last
    elif arch == "pspnet":
        settings["upsampling"] = min(stride, 2**depth)
    elif arch in ("unet", "unetplusplus", "manet"):
        settings["decoder_channels"] = _UNET_CHANNELS[-depth:]
    is_file = encoder_weights is not None and is_path(encoder_weights)
    packaged = encoder_name in LITE_ENCODERS and encoder_weights == "imagenet"
    from_hub: str | bool | None = None if is_file or packaged else encoder_weights
    if encoder_name.startswith("tu-") and from_hub == "imagenet":
        from_hub = True  # smp reads from the encoder's name which weights these are
    try:
        model = accepted.model(
            encoder_name=encoder_name,
            encoder_weights=from_hub,
            in_channels=in_channels,
            classes=classes,
            **settings | decoder,
        )
    except UserError:
        raise
    except Exception as error:  # settings smp refuses, or whatever a hub's client raises
        is_of_settings = isinstance(error, KeyError | ValueError) and not isinstance(error, OSError)
        if is_of_settings:
            raise UserError(f"{arch} with {encoder_name}: {error.args[0]}") from error
        if encoder_weights is None or is_file or packaged:
            raise
        raise _unreachable(encoder_name, encoder_weights, error) from error
    if is_file:
        assert encoder_weights is not None
        load_weights(model.get_submodule("encoder"), encoder_weights)
    if packaged:
        load_lite_weights(model.get_submodule("encoder"), encoder_name)
    if sk is not None:
        try:
            model = convert_to_sk(model, **asdict(sk))
        except UserError as error:
            raise UserError(f"model.sk with {encoder_name}: {error}") from error
    return model


def _unreachable(name: str, weights: str, error: Exception) -> UserError:
    where = f" (huggingface.co/{HUB_IDS[name]})" if name in HUB_IDS else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"encoder_weights {weights!r} of {name}{where} are neither cached nor to be downloaded: "
        f"{reason}. Download them where there is a network, and give the file's path"
    )


def input_rule(model: nn.Module) -> InputRule:
    """Return the image sides that a model of `build_model` takes."""
    stride = int(model.encoder.output_stride)  # type: ignore[arg-type, union-attr]
    # PAN halves the last feature three times.
    return InputRule(stride, 8 * stride if isinstance(model, smp.PAN) else stride)


def check_encoder(name: str) -> None:
    """Raise UserError, with near names, for an encoder that nobody has."""
    if name.startswith("tu-"):
        if not timm.is_model(name.removeprefix("tu-").split(".")[0]):
            raise UserError(f"unknown encoder {name!r}{_near(name[3:], timm.list_models(), 'tu-')}")
    elif name not in smp.encoders.encoders:
        known = [n for n in smp.encoders.encoders if not n.startswith("timm-")]
        raise UserError(f"unknown encoder {name!r}{_near(name, known)}")


def _find_arch(name: str) -> Arch:
    if name == "dpt":
        raise UserError(f"dpt needs a vision transformer as encoder; use one of {', '.join(ARCHS)}")
    if name not in ARCHS:
        raise UserError(f"unknown architecture {name!r}{_near(name, list(ARCHS))}")
    return ARCHS[name]


def _near(name: str, known: list[str], prefix: str = "") -> str:
    """Say which known names are near, or all of a few."""
    near = get_close_matches(name.lower(), known, n=5)
    if near:
        return "; near: " + ", ".join(prefix + n for n in near)
    return "; known: " + ", ".join(known) if len(known) <= 20 else ""
