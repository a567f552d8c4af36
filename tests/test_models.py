import pytest
import segmentation_models_pytorch as smp
import torch

import skseg
from skseg.encoders import SKSettings
from skseg.errors import UserError
from skseg.models import ARCHS, InputRule, build_model, input_rule
from skseg.nn import SKConv2d

CASES = [
    (arch, depth, stride)
    for arch, accepted in ARCHS.items()
    for depth in accepted.depths
    for stride in accepted.strides
]


def test_all_of_smps_convolutional_architectures_are_here() -> None:
    assert {name for name in smp.MODEL_ARCHITECTURES_MAPPING if name != "dpt"} == set(ARCHS)


@pytest.mark.parametrize(("arch", "depth", "stride"), CASES)
def test_logits_have_the_inputs_size(arch: str, depth: int, stride: int) -> None:
    torch.manual_seed(0)
    model = build_model(
        arch, "sknet_tiny", classes=5, encoder_depth=depth, encoder_output_stride=stride
    )
    multiple, minimum = input_rule(model)
    assert multiple == min(stride, 2**depth)
    x = torch.randn(2, 3, minimum, minimum + 3 * multiple)
    out = model(x)
    assert out.shape == (2, 5, *x.shape[2:])
    out.mean().backward()
    assert torch.isfinite(model.eval()(x[:1])).all()


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet10t", "tu-sknet_tiny", "mobilenet_v2"])
def test_encoders_of_smp_and_timm_work_too(name: str) -> None:
    model = build_model("fpn", name, classes=3, in_channels=1).eval()
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("arch", ARCHS)
def test_smps_own_entry_takes_our_encoders(arch: str) -> None:
    model = smp.create_model(arch, encoder_name="sknet_tiny_se", encoder_weights=None).eval()
    assert model(torch.randn(1, 3, 128, 128)).shape == (1, 1, 128, 128)


def test_decoder_arguments_reach_the_decoder() -> None:
    model = build_model("fpn", "sknet_tiny", decoder_pyramid_channels=96)
    assert model.decoder.p5.out_channels == 96
    model = build_model("unet", "sknet_tiny", encoder_depth=3, decoder_channels=(8, 8, 4))
    assert model.segmentation_head[0].in_channels == 4


def test_pan_wants_larger_pictures() -> None:
    assert input_rule(build_model("pan", "sknet_tiny")) == InputRule(16, 128)
    assert input_rule(build_model("unet", "sknet_tiny")) == InputRule(32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "unett"}, "unknown architecture 'unett'.*unet"),
        ({"arch": "zzz"}, "unknown architecture 'zzz'.*unet, unetplusplus"),
        ({"arch": "dpt"}, "dpt .* vision transformer"),
        ({"encoder_name": "sknet5"}, "unknown encoder 'sknet5'.*sknet50"),
        ({"encoder_name": "tu-resnet5o"}, "unknown encoder 'tu-resnet5o'.*tu-resnet5"),
        ({"encoder_depth": 2}, r"`encoder_depth` of fpn .*\(3, 4, 5\), got 2"),
        ({"encoder_output_stride": 16}, r"`encoder_output_stride` of fpn .*\(32,\), got 16"),
        ({"arch": "pan", "encoder_output_stride": 8}, r"pan .*\(16, 32\), got 8"),
        ({"decoder_chanels": 3}, "fpn has no argument 'decoder_chanels'"),
        ({"arch": "unet", "decoder_chanels": 3}, "decoder_chanels.*'decoder_channels'"),
        ({"encoder_weights": "imagenet"}, "Wrong pretrained weights `imagenet`"),
        ({"arch": "linknet", "encoder_name": "mit_b0"}, "mit_b0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(**{"arch": "fpn", "encoder_name": "sknet_tiny", **arguments})


def test_the_public_names() -> None:
    for name in skseg.__all__:
        assert getattr(skseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SKConv'"):
        skseg.SKConv  # noqa: B018


def test_settings_of_sk_units_reach_each_of_them() -> None:
    settings = SKSettings([[3], [3, 3], [5, 1, 4]], "mean")
    model = skseg.build_model("deeplabv3plus", "sknet_tiny", sk=settings)
    units = [m for m in model.modules() if isinstance(m, SKConv2d)]
    assert len(units) == 8
    for unit in units:
        assert unit.attn is None
        kernels = [(p.conv.kernel_size[0], p.conv.groups) for p in unit.paths]
        assert kernels == [(3, 8), (3, 8), (5, 4)]
    assert [p.conv.dilation[0] for p in units[-1].paths] == [2, 6, 2]  # at output stride 16
    norms = SKSettings(fuse_norm="none", reduction=4, min_attention_width=8, pool_window=4)
    (unit, *_) = [
        m
        for m in skseg.build_model("fpn", "sknet_tiny", sk=norms).modules()
        if isinstance(m, SKConv2d)
    ]
    assert isinstance(unit.attn.bn, torch.nn.Identity)
    assert unit.attn.fc_reduce.out_features == 8
    assert unit.pool_window == 4


def test_one_kernel_added_to_nothing_is_the_plain_network() -> None:
    plain = skseg.build_model("fpn", "sknet_tiny_plain")
    single = skseg.build_model("fpn", "sknet_tiny", sk=SKSettings([[3]], "sum"))
    renamed = {
        k.replace(".conv2.paths.0.conv.", ".conv2.").replace(".conv2.paths.0.bn.", ".bn2."): v
        for k, v in single.state_dict().items()
    }
    plain.load_state_dict(renamed)
    plain.eval(), single.eval()  # FPN's head has dropout
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(plain(x), single(x))


@pytest.mark.parametrize("name", ["sknet_tiny_plain", "resnet18"])
def test_settings_without_sk_units_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^`sk` with {name}"):
        skseg.build_model("fpn", name, sk=SKSettings(select="sum"))
