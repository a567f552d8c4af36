from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader, TensorDataset

from skseg import SegmentationTask, SKConv2d, UserError, build_model, load_model
from skseg.convert import convert
from skseg.encoders import SKSettings
from skseg.metrics import confusion_matrix, scores
from skseg.training.losses import Loss
from skseg.training.network import unused_parameters

CLASSES = {
    "class_names": ["a", "b", "c"],
    "colors": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    "mean": (0.4, 0.5, 0.6),
    "std": (0.1, 0.2, 0.3),
}


def save(task: SegmentationTask, path: Path) -> dict:
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return checkpoint


@pytest.mark.parametrize(
    "model",
    [
        {"arch": "unet", "encoder_name": "sknet_tiny", "encoder_depth": 4},
        {"arch": "deeplabv3plus", "encoder_name": "sknet_tiny_se", "encoder_output_stride": 8},
        {"arch": "fpn", "encoder_name": "tu-resnet10t",
         "decoder": {"decoder_pyramid_channels": 32}},
    ],
    ids=lambda m: m["arch"],
)  # fmt: skip
def test_a_checkpoint_stands_alone(model: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = SegmentationTask(**CLASSES, **model).eval()
    save(task, tmp_path / "x.ckpt")
    loaded = load_model(tmp_path / "x.ckpt")
    assert not loaded.training
    for name in CLASSES:
        assert [*getattr(loaded, name)] == [*CLASSES[name]]
    image = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), task(image), rtol=0, atol=0)


def layout(task: SegmentationTask) -> tuple[list[tuple[str, type]], dict[str, tuple[int, ...]]]:
    """The modules, and how the weights lie in memory, which decides how they are rounded."""
    modules = [(name, type(module)) for name, module in task.model.named_modules()]
    return modules, {name: x.stride() for name, x in task.model.state_dict().items()}


@pytest.mark.parametrize(
    ("encoder_name", "settings"),
    [
        ("mobilenet_v2", {"stages": [4, 5], "fuse_norm": "none"}),
        ("resnet18", {"depthwise": True, "stages": [4]}),
        ("resnet18", {"modules": ["layer2.*.conv1"], "branches": [[3], [3, 2]]}),
        ("tu-resnet10t", {"branches": [[3], [7]]}),
        ("efficientnet_lite0", {}),
        ("sk_shufflenet_v2_x0_5_plain", {"select": "mean"}),
    ],
)
def test_a_converted_network_comes_back_without_a_conversion(
    encoder_name: str, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    task = SegmentationTask(**CLASSES, encoder_name=encoder_name, sk=SKSettings(**settings)).eval()
    with torch.no_grad():
        for parameter in task.model.encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # branches differ, as when trained
    save(task, tmp_path / "x.ckpt")
    monkeypatch.setattr(convert, "_differences", None)  # the proof
    image = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        loaded = load_model(tmp_path / "x.ckpt")
        torch.testing.assert_close(loaded(image), task(image), rtol=0, atol=0)
    assert any(isinstance(module, SKConv2d) for module in loaded.modules())
    assert layout(loaded) == layout(task)
    assert loaded.spec == task.spec


@pytest.mark.parametrize(
    ("encoder_name", "mean", "std"),
    [
        ("efficientnet_lite0", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("efficientnet_lite0", (127 / 255,) * 3, (0.229, 0.224, 0.225)),
    ],
)
def test_weights_of_another_normalization_are_refused(
    encoder_name: str, mean: tuple, std: tuple
) -> None:
    given = {**CLASSES, "mean": mean, "std": std}
    with pytest.raises(UserError, match=r"efficientnet_lite0 .*0\.4980.*0\.5020") as error:
        SegmentationTask(**given, encoder_name=encoder_name, encoder_weights="imagenet")
    assert str(std[0]) in str(error.value)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    task = SegmentationTask(**CLASSES, encoder_name="sknet_tiny_plain")
    good = save(task, tmp_path / "good.ckpt")
    whole = (tmp_path / "good.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save(Evil(), tmp_path / "evil.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    good["skseg"]["format"] = 99
    torch.save(good, tmp_path / "future.ckpt")
    for name, message in {
        "missing": "no such file",
        "cut": "cannot be read safely",
        "empty": "cannot be read safely",
        "text": "cannot be read safely",
        "evil": "cannot be read safely",
        "foreign": "not written by skseg's fit",
        "list": "not written by skseg's fit",
        "future": "format 99",
    }.items():
        with pytest.raises(UserError, match=rf"{name}\.ckpt.*{message}"):
            load_model(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="is a directory"):
        load_model(tmp_path)


def small_loader() -> DataLoader:
    torch.manual_seed(0)
    images, masks = torch.randn(4, 3, 64, 64), torch.randint(0, 2, (4, 64, 64))
    return DataLoader(TensorDataset(images, masks), batch_size=2)


class KeepMetrics(Logger):
    """A logger of one's own."""

    name, version = "mine", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({**metrics, "step": step})


def plain_trainer(tmp_path: Path, logger: Logger | bool = False) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=logger, log_every_n_steps=1,
        default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_a_trainer_and_loaders_of_ones_own(tmp_path: Path) -> None:
    task = SegmentationTask(["a", "b"], encoder_name="sknet_tiny")
    logger = KeepMetrics()
    trainer = plain_trainer(tmp_path, logger)
    trainer.fit(task, small_loader(), small_loader())
    steps = [row for row in logger.rows if "train/loss" in row]
    assert [row["step"] for row in steps] == [0, 1, 2, 3]
    assert {"train/grad_norm", "lr/encoder", "lr/decoder"} <= steps[0].keys()
    (tested,) = trainer.test(task, small_loader(), verbose=False)
    assert tested["test/miou"] == pytest.approx(float(trainer.validate(
        task, small_loader(), verbose=False)[0]["val/miou"]))  # fmt: skip
    path = next(tmp_path.rglob("*.ckpt"))
    for loaded in (load_model(path), SegmentationTask.load_from_checkpoint(path)):
        labels = plain_trainer(tmp_path).predict(loaded, small_loader())
        assert labels is not None
        counts = confusion_matrix(2)
        for predicted, (_, mask) in zip(labels, small_loader(), strict=True):
            assert predicted.dtype is torch.uint8
            counts.update(predicted, mask)
        assert float(scores(counts.compute())["miou"]) == pytest.approx(tested["test/miou"])
    with pytest.raises(UserError, match="a path alone"):
        SegmentationTask.load_from_checkpoint(path, arch="unet")


def test_images_alone_can_be_predicted(tmp_path: Path) -> None:
    task = SegmentationTask(["a", "b"], encoder_name="sknet_tiny")
    labels = plain_trainer(tmp_path).predict(task, DataLoader(torch.zeros(3, 3, 40, 50)))
    assert [tuple(x.shape) for x in labels or []] == [(1, 40, 50)] * 3


def test_the_means_give_the_number_of_channels(tmp_path: Path) -> None:
    half = (0.5,) * 4
    task = SegmentationTask(["a", "b"], mean=half, std=half, encoder_name="sknet_tiny").eval()
    assert task(torch.zeros(1, 4, 64, 64)).shape == (1, 2, 64, 64)
    save(task, tmp_path / "x.ckpt")
    assert load_model(tmp_path / "x.ckpt").mean == half
    with pytest.raises(UserError, match="`std` must be 4 numbers"):
        SegmentationTask(["a", "b"], mean=half, std=(0.5,) * 3, encoder_name="sknet_tiny")


def test_class_weights_of_data_need_the_data() -> None:
    task = SegmentationTask(
        ["a", "b"], encoder_name="sknet_tiny", loss=[Loss(class_weights="data")]
    )
    mask = torch.zeros(1, 64, 64, dtype=torch.int64)
    with pytest.raises(UserError, match="set_class_weights"):
        task.criterion(torch.zeros(1, 2, 64, 64), mask)
    task.criterion.set_class_weights(torch.tensor([1.0, 3.0]))
    assert task.criterion(torch.zeros(1, 2, 64, 64), mask)[0] > 0


@pytest.mark.parametrize(
    ("arch", "depth", "unused"),
    [("pspnet", None, "encoder."), ("unet", 3, "encoder.layer"), ("fpn", None, None)],
)
def test_parameters_without_a_gradient_are_found(
    arch: str, depth: int | None, unused: str | None
) -> None:
    decoder = {"decoder_channels": (16,) * 3} if depth == 3 else {}
    model = build_model(arch, "sknet_tiny", encoder_depth=depth, **decoder)
    state = torch.random.get_rng_state()
    names = unused_parameters(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bool(names) == (unused is not None)
    assert all(name.startswith(unused or "-") for name in names)
    # The reference: a step of the model itself.
    model.train()(torch.randn(2, 3, 96, 96)).square().sum().backward()
    assert names == [name for name, p in model.named_parameters() if p.grad is None]


def test_a_network_for_other_classes_starts_from_a_checkpoint(tmp_path: Path) -> None:
    converted = {"encoder_name": "resnet18", "sk": SKSettings(modules=["layer4.1.conv2"])}
    first = SegmentationTask(**CLASSES, **converted)
    save(first, tmp_path / "first.ckpt")
    path = str(tmp_path / "first.ckpt")
    normalization = {key: CLASSES[key] for key in ("mean", "std")}
    second = SegmentationTask(["d", "e"], **normalization, **converted, initial_weights=path)
    assert second.unfitting == [
        "model.segmentation_head.0.bias", "model.segmentation_head.0.weight",
    ]  # fmt: skip
    state = second.state_dict()
    for name, value in first.state_dict().items():
        assert name in second.unfitting or torch.equal(state[name], value)
    assert SegmentationTask(**CLASSES, **converted, initial_weights=path).unfitting == []
    for wrong, message in (
        ({**normalization, "encoder_name": "mobilenet_v2"}, "resnet18"),
        (converted, "`mean`"),
        ({**normalization, **converted, "encoder_weights": path}, "`encoder_weights`"),
    ):
        with pytest.raises(UserError, match=message):
            SegmentationTask(["d", "e"], **wrong, initial_weights=path)
