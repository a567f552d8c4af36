"""Weights of every layout, from networks as their authors build them, give their features."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from huggingface_hub import constants
from norms import randomize_norms
from safetensors.torch import save_file
from torch import nn

import skseg
from skseg import SegmentationTask
from skseg.encoders import SKSettings, load_weights
from skseg.errors import UserError


class InsightBlock(nn.Module):
    """PytorchInsight's SK bottleneck, from the names and shapes of its weights."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2g = nn.Conv2d(planes, planes, 3, stride, 1, groups=32, bias=False)
        self.bn2g = nn.BatchNorm2d(planes)
        self.conv_fc1 = nn.Conv2d(planes, planes // 16, 1, bias=False)
        self.bn_fc1 = nn.BatchNorm2d(planes // 16)
        self.conv_fc2 = nn.Conv2d(planes // 16, 2 * planes, 1, bias=False)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride > 1 or inplanes != 4 * planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn1(self.conv1(x)).relu()
        dense, grouped = self.bn2(self.conv2(out)).relu(), self.bn2g(self.conv2g(out)).relu()
        z = (dense + grouped).mean((2, 3), keepdim=True)
        z = self.conv_fc2(self.bn_fc1(self.conv_fc1(z)).relu())
        weight, _ = z.reshape(len(z), 2, -1, 1, 1).softmax(1).unbind(1)
        out = self.bn3(self.conv3(dense * weight + grouped * (1 - weight)))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class Insight(nn.Module):
    """PytorchInsight's SK-ResNet, its features after each stage."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, count in enumerate(layers):
            planes = 64 * 2**i
            blocks = []
            for j in range(count):
                blocks.append(InsightBlock(channels, planes, 2 if i and not j else 1))
                channels = 4 * planes
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.bn1(self.conv1(x)).relu()
        features = [x]
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def timm_features(name: str) -> Callable[[], tuple[nn.Module, Callable]]:
    def make() -> tuple[nn.Module, Callable]:
        model = timm.create_model(name)
        return model, lambda x: model.forward_intermediates(x, intermediates_only=True)

    return make


def insight(*layers: int) -> Callable[[], tuple[nn.Module, Callable]]:
    def make() -> tuple[nn.Module, Callable]:
        model = Insight(layers)
        return model, model

    return make


def shufflenet() -> tuple[nn.Module, Callable]:
    model = torchvision.models.shufflenet_v2_x0_5()

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        out = []
        for stage in (model.conv1, model.maxpool, model.stage2, model.stage3, model.stage4):
            x = stage(x)
            out.append(x)
        return [*out[:-1], model.conv5(out[-1])]

    return model, features


ORIGINALS = {
    "sknet50": timm_features("skresnext50_32x4d"),
    "sknet50_plain": timm_features("resnext50_32x4d"),
    "sknet50_se": timm_features("seresnext50_32x4d"),
    "skresnet18": timm_features("skresnet18"),
    "skresnet34": timm_features("skresnet34"),
    "sk_resnet50": insight(3, 4, 6, 3),
    "sk_shufflenet_v2_x0_5_plain": shufflenet,
    "resnet18": timm_features("resnet18"),
    "tu-regnetx_002": timm_features("regnetx_002"),
}


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return randomize_norms(model, spread=0.2).eval()


@pytest.mark.parametrize("name", ORIGINALS)
@torch.inference_mode()
def test_weights_of_the_original_give_its_features(name: str, tmp_path: Path) -> None:
    original, features = ORIGINALS[name]()
    randomized(original)
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    model = skseg.build_model("fpn", name, str(tmp_path / "weights.safetensors"))
    ours = model.eval().encoder
    x = torch.randn(2, 3, 64, 64)
    theirs, mine = features(x), ours(x)[1:]
    if len(theirs) < len(mine):  # timm's RegNets begin at stride 2 too, of one stage fewer
        mine = mine[len(mine) - len(theirs) :]
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return randomized(timm.create_model("skresnet18"))


def wrapped(state: dict, how: str) -> dict:
    return {
        "bare": lambda: state,
        "module.": lambda: {f"module.{k}": v for k, v in state.items()},
        "state_dict": lambda: {"state_dict": state, "epoch": 3, "arch": "skresnet18"},
        "both": lambda: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "best": 1.0},
        "old": lambda: {k: v for k, v in state.items() if "num_batches" not in k},
    }[how]()


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pt", ".bin"])
@pytest.mark.parametrize("how", ["bare", "module.", "state_dict", "both", "old"])
def test_wrappings_and_endings(how: str, suffix: str, original: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(wrapped(original.state_dict(), how), path)
    encoder = smp.encoders.get_encoder("skresnet18", weights=None)
    load_weights(encoder, path)
    assert torch.equal(encoder.layer4[1].conv2.weight, original.layer4[1].conv2.conv.weight)
    assert torch.equal(encoder.layer2[0].conv1.attn.fc_select.weight,
                       original.layer2[0].conv1.attn.fc_select.weight.flatten(1))  # fmt: skip


def test_a_training_checkpoint_gives_its_encoder(run_dir: Path) -> None:
    path = run_dir / "checkpoints" / "last.ckpt"
    model = skseg.build_model("unet", "sknet_tiny", str(path))
    trained = skseg.load_model(path).model.encoder.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in model.encoder.state_dict().items())
    with pytest.raises(UserError, match=r"last\.ckpt: not the weights of this encoder: missing"):
        skseg.build_model("unet", "sknet_tiny_se", str(path))


@pytest.mark.parametrize("prefix", [
    "backbone.", "model.", "net.", "module.", "_orig_mod.", "encoder.", "model.encoder.",
    "module._orig_mod.student.backbone.",
])  # fmt: skip
@pytest.mark.parametrize("name", ["skresnet18", "tu-resnet10t"])
def test_the_prefix_that_fits_is_found(prefix: str, name: str, tmp_path: Path) -> None:
    """Whatever else the file has: a decoder, other heads, parts that were compiled."""
    trained, encoder = (randomized(smp.encoders.get_encoder(name, weights=None)) for _ in "ab")
    state = {f"{prefix}{key}": value for key, value in trained.state_dict().items()}
    state = {k.replace("layer2.", "layer2._orig_mod."): v for k, v in state.items()}
    if prefix != "_orig_mod.":  # which is no name of a part
        state |= {f"decoder.{i}.weight": torch.zeros(3) for i in range(200)}
        state["head.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save({"model": state}, tmp_path / "x.pth")
    load_weights(encoder, tmp_path / "x.pth")
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key])


def test_a_converted_networks_checkpoint_for_other_classes(tmp_path: Path) -> None:
    """Its SK units are there after the conversion, with the trained weights."""
    known = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "encoder_name": "resnet18"}
    sk = SKSettings(stages=[4, 5])
    trained = SegmentationTask(["a", "b"], [(0, 0, 0)] * 2, sk=sk, **known)
    randomized(trained.model)
    checkpoint = {"state_dict": trained.state_dict()}
    trained.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    path = str(tmp_path / "x.ckpt")
    tuned = SegmentationTask(list("abc"), [(0, 0, 0)] * 3, sk=sk, encoder_weights=path, **known)
    expected = trained.model.encoder.state_dict()
    assert any(".paths.1." in key for key in expected)
    for key, value in tuned.model.encoder.state_dict().items():
        assert torch.equal(value, expected[key])
    with pytest.raises(UserError, match="not the weights of this encoder"):
        SegmentationTask(list("abc"), [(0, 0, 0)] * 3, encoder_weights=path, **known)


def test_weights_that_are_damaged_in_silence(original: nn.Module, tmp_path: Path) -> None:
    """One flipped bit, which torch does not notice, and values that are not finite."""
    state = original.state_dict()
    torch.save(state, tmp_path / "x.pth")
    content = bytearray((tmp_path / "x.pth").read_bytes())
    weight = state["layer3.0.conv2.conv.weight"]
    content[content.index(bytes(weight.untyped_storage())) + 3] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth: .*differs from its checksum"):
        load_weights(smp.encoders.get_encoder("skresnet18", weights=None), tmp_path / "x.pth")
    weight = weight.clone()
    weight[0, 0, 0, 0] = torch.nan
    save_file({**state, "layer3.0.conv2.conv.weight": weight}, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match=r"layer3\.0\.conv2\.weight has values that are not finite"):
        load_weights(
            smp.encoders.get_encoder("skresnet18", weights=None), tmp_path / "y.safetensors"
        )


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_input_channels_adapt_the_stem(
    channels: int, original: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(original.state_dict(), path)
    encoder = skseg.build_model("fpn", "skresnet18", str(path), in_channels=channels).encoder
    theirs = timm.models.adapt_input_conv(channels, original.conv1.weight)
    torch.testing.assert_close(encoder.conv1.weight, theirs)
    assert torch.equal(encoder.layer4[1].conv2.weight, original.layer4[1].conv2.conv.weight)


def test_a_wrong_file_lists_what_is_wrong_and_loads_nothing(
    original: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    state = original.state_dict()
    del state["bn1.weight"]
    state["layer9.0.weight"] = torch.zeros(1)
    state["layer1.0.conv2.conv.weight"] = torch.zeros(64, 32, 3, 3)
    save_file(state, path)
    encoder = smp.encoders.get_encoder("skresnet18", weights=None)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(encoder, path)
    assert "missing bn1.weight; unexpected layer9.0.weight; misshapen layer1.0.conv2.weight" in (
        str(error.value)
    )
    assert "[64, 32, 3, 3], not [64, 64, 3, 3]" in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    with pytest.raises(UserError, match=r"missing .* and \d+ more; unexpected"):
        load_weights(smp.encoders.get_encoder("sknet_tiny", weights=None), path)


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("ran",)


def damaged(path: Path, kind: str, state: dict) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": Evil()}))
    elif kind == "torch pickle":
        torch.save({"conv1.weight": Evil()}, path)
    elif kind in ("truncated", "tampered"):
        torch.save(state, path)
        content = bytearray(path.read_bytes())
        content = content[: len(content) // 2] if kind == "truncated" else b"x" * 99 + content[99:]
        path.write_bytes(content)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "text":
        path.write_text("not weights")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "kind",
    ["missing", "directory", "pickle", "torch pickle", "truncated", "tampered", "empty", "list",
     "text"],
)  # fmt: skip
def test_a_damaged_or_evil_file_is_refused(
    kind: str, suffix: str, original: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / f"bad{suffix}"
    damaged(path, kind, original.state_dict())
    with pytest.raises(UserError, match=rf"^`encoder_weights`: \S*bad{suffix}: ") as error:
        skseg.build_model("fpn", "skresnet18", str(path))
    assert "\n" not in str(error.value)
    assert "ran" not in capsys.readouterr().out


def cache_on(hub: Path, repository: str, model: nn.Module) -> None:
    """Put a model's weights where a hub's download would be."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: nn.Module) -> Path:
    """A hub's cache without a network: it has skresnet18 and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache_on(tmp_path, "timm/skresnet18.ra_in1k", original)
    return tmp_path


def test_imagenet_comes_from_the_hub(hub: Path, original: nn.Module) -> None:
    model = skseg.build_model("fpn", "skresnet18", "imagenet")
    assert torch.equal(model.encoder.conv1.weight, original.conv1.weight)
    again = smp.create_model("unet", "skresnet18", encoder_weights="imagenet")
    assert torch.equal(again.encoder.conv1.weight, original.conv1.weight)


@pytest.mark.parametrize("name", ["sknet50", "resnet18", "tu-resnet10t"])
def test_without_a_network_the_error_says_what_to_do(
    name: str, hub: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(UserError, match="not cached and cannot be downloaded") as error:
        skseg.build_model("fpn", name, "imagenet")
    assert "pass the file's path" in str(error.value)
    assert ("huggingface.co/timm/skresnext50_32x4d.ra_in1k" in str(error.value)) == (
        name == "sknet50"
    )
    assert not [w for w in recwarn if "encoder_weights" in str(w.message)]


def test_timm_finds_the_weights_of_these_names(hub: Path) -> None:
    """Classifier included, through timm's own machinery."""
    original = randomized(timm.create_model("skresnext50_32x4d"))
    cache_on(hub, "timm/skresnext50_32x4d.ra_in1k", original)
    ours = timm.create_model("sknet50", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), original(x), rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Wrong pretrained weights `imagenet`"):
        skseg.build_model("fpn", "sknet26", "imagenet")
