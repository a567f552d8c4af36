"""Time SK units and networks against timm's, their twins and bare convolutions; and time loading.

All candidates run in turn in one process, each in the faster of the two memory formats, so ratios
are reliable on a machine whose speed varies. On a GPU, compare absolute times.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timm.layers import SelectiveKernel
from torch import nn

import skseg
from skseg.data import SegmentationDataset, get_dataset, read_image, read_pair, train_transform
from skseg.streets import draw_dataset

FORMATS = (torch.contiguous_format, torch.channels_last)
# Channels, height and width in SKNet-50's stages for 256x256 images, and the first at 256x512.
SHAPES = ((128, 64, 64), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (128, 64, 128))
UNIT = {"groups": 32}


class Convolutions(nn.Module):
    """The convolutions of the branches and nothing else: the least time that torch needs."""

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d, groups=32, bias=False)
            for d in dilations
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map [B, C, H, W] to one such map for each convolution."""
        return [conv(x) for conv in self.convs]


def units(channels: int) -> dict[str, nn.Module]:
    timm_args = {"split_input": False, "rd_ratio": 1 / 16, "rd_divisor": 32}
    return {
        "convolutions": Convolutions(channels),
        "SK unit": skseg.SKConv2d(channels, **UNIT),
        "timm": SelectiveKernel(channels, channels, groups=32, **timm_args),
    }


def networks(name: str) -> dict[str, nn.Module]:
    names = {name: name, "plain twin": f"{name}_plain", "SE twin": f"{name}_se"}
    found = {key: smp.encoders.get_encoder(n, weights=None) for key, n in names.items()}
    if name == "sknet50":
        found["timm"] = smp.encoders.get_encoder("tu-skresnext50_32x4d", weights=None)
    return found


def job(module: nn.Module, x: torch.Tensor, training: bool) -> Callable[[], None]:
    """Return a function that runs one training step or one inference of a module."""
    if not training:
        module = module.eval()
        if any(isinstance(m, skseg.SKConv2d) for m in module.modules()):
            module = skseg.optimize_for_inference(module)

        def infer() -> None:
            with torch.inference_mode():
                module(x)

        return infer
    leaf = x.clone().requires_grad_()

    def step() -> None:
        out = module(leaf)
        out = out if isinstance(out, list | tuple) else [out]
        sum(o.sum() for o in out).backward()

    module.train()
    return step


def race(
    make: Callable[[], dict[str, nn.Module]], x: torch.Tensor, training: bool, rounds: int
) -> dict[str, float]:
    """Return the median seconds of each candidate, in the faster of the two formats."""
    jobs = {
        (name, form): job(
            module.to(x.device, memory_format=form), x.to(memory_format=form), training
        )
        for form in FORMATS
        for name, module in make().items()
    }
    times: dict[tuple[str, torch.memory_format], list[float]] = {key: [] for key in jobs}
    for i in range(rounds + 2):
        for key, run in jobs.items():
            if x.is_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if x.is_cuda:
                torch.cuda.synchronize()
            if i >= 2:  # after two to warm up
                times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {name: min(medians[name, form] for form in FORMATS) for name, _ in jobs}


def saved_maps(module: nn.Module, x: torch.Tensor) -> float:
    """Return the bytes that save_for_backward keeps, in units of one input map."""
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    leaf = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = module(leaf)
    del out
    for p in module.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / (x.numel() * x.element_size())


def branches(count: int) -> list[tuple[int, int]]:
    return [(3, d) for d in range(1, count + 1)]


def measurements(
    device: str, rounds: int, encoder: str
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield (group, label, seconds or numbers by candidate)."""
    for training in (False, True):
        mode = "training" if training else "inference"
        for shape in SHAPES:
            x = torch.randn(4, *shape, device=device)
            label = "x".join(map(str, shape))
            yield f"unit, {mode}", label, race(lambda c=shape[0]: units(c), x, training, rounds)
        x = torch.randn(2, 3, 256, 256, device=device)
        seconds = race(lambda: networks(encoder), x, training, max(2, rounds // 3))
        yield f"network, {mode}", encoder, seconds
    for scale in (1, 2, 4, 8):
        x = torch.randn(2, 128, 64, 64 * scale, device=device)  # two: Fuse has a batch norm
        yield "growth with pixels", f"{scale}x", race(lambda: units(128), x, True, rounds)
    x = torch.randn(4, 128, 32, 32, device=device)
    for count in (2, 3, 4):
        candidates = {
            "convolutions": lambda n=count: Convolutions(128, tuple(range(1, n + 1))),
            "SK unit": lambda n=count: skseg.SKConv2d(128, **UNIT, branches=branches(n)),
        }
        seconds = race(lambda c=candidates: {k: f() for k, f in c.items()}, x, True, rounds)
        yield "growth with branches", str(count), seconds
    x = torch.randn(2, 128, 64, 64, device=device)
    kept = {n: saved_maps(m.to(device).train(), x) for n, m in units(128).items()}
    yield "maps kept for backward", "128x64x64", kept


def loading(rounds: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield the seconds to load a training sample from PNG files of 1024x2048, and the floor.

    The floor is decoding image and mask by OpenCV and cutting the crop out of both.
    """
    with tempfile.TemporaryDirectory() as root:
        draw_dataset(root, train=4, val=1, height=1024, width=2048, seed=0, workers=2)
        spec = get_dataset("streets", Path(root))
        cv2.setNumThreads(0)  # as in a loader's workers
        for crop in ((512, 512), (512, 1024)):
            data = SegmentationDataset(spec, root, "train", train_transform(crop))
            image, mask = read_pair(spec, data.pairs[0])
            window = np.s_[: crop[0], : crop[1]]
            steps = {
                "floor": lambda p, w=window: (
                    cv2.imread(str(p.image))[w].copy(),
                    cv2.imread(str(p.mask), cv2.IMREAD_UNCHANGED)[w].copy(),
                ),
                "sample": lambda p, d=data: d[d.pairs.index(p), 0],
                "of that: image": lambda p: read_image(p.image),
                "mask": lambda p: spec.read_mask(p.mask),
                "transforms": lambda p, d=data, i=image, m=mask: d.transform(image=i, mask=m),
            }
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(2 * rounds):
                for name, step in steps.items():
                    start = time.perf_counter()
                    for pair in data.pairs:
                        step(pair)
                    times[name].append((time.perf_counter() - start) / len(data.pairs))
            medians = {name: statistics.median(values) for name, values in times.items()}
            yield "loading", f"crop {crop[0]}x{crop[1]}", medians


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def show(console: Console, results: dict[str, dict[str, dict[str, float]]]) -> None:
    for group, rows in results.items():
        names = list(next(iter(rows.values())))
        is_time = group != "maps kept for backward"
        table = Table(title=group + (", milliseconds" if is_time else ""))
        for column in ("", *names):
            table.add_column(column, justify="right" if column else "left")
        for label, values in rows.items():
            factor = 1000 if is_time else 1
            table.add_row(label, *(f"{factor * values[n]:.2f}" for n in names))
        if group.startswith("unit"):
            table.add_section()
            for name in ("convolutions", "timm"):
                ratio = geometric_mean([r["SK unit"] / r[name] for r in rows.values()])
                table.add_row(f"SK unit / {name}", f"{ratio:.2f}")
        if group == "loading":
            table.add_section()
            ratio = geometric_mean([r["sample"] / r["floor"] for r in rows.values()])
            table.add_row("sample / floor", f"{ratio:.2f}")
        if group.startswith("network"):
            table.add_section()
            for values in rows.values():
                ours = next(iter(values.values()))
                table.add_row("SK / each", *(f"{ours / values[n]:.2f}" for n in names))
        console.print(table)


COLORS = {"convolutions": "tab:gray", "SK unit": "tab:blue", "timm": "tab:orange"}


def plot(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw times relative to those of the bare convolutions, and growth."""
    figure = Figure(figsize=(12, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, group in zip(axes, ("unit, inference", "unit, training"), strict=False):
        rows = results[group]
        for offset, name in enumerate(("SK unit", "timm")):
            heights = [r[name] / r["convolutions"] for r in rows.values()]
            axis.bar(
                [i + 0.4 * offset for i in range(len(rows))],
                heights,
                0.4,
                label=name,
                color=COLORS[name],
            )
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks([i + 0.2 for i in range(len(rows))], list(rows), rotation=40, ha="right")
        axis.set_title(f"{group}\ntime / its convolutions", fontsize=10)
        axis.margins(y=0.25)  # room for the legend
        axis.legend(fontsize=8)
    for axis, group in zip(axes[2:], ("growth with pixels", "growth with branches"), strict=True):
        rows = results[group]
        for name in next(iter(rows.values())):
            axis.plot(
                list(rows),
                [1000 * r[name] for r in rows.values()],
                "o-",
                label=name,
                color=COLORS[name],
            )
        axis.set_title(f"{group}\ntraining step, ms", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--encoder", default="sknet50", choices=sorted(skseg.encoders.TRUNKS))
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each candidate")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--plot", type=Path, help="draw them to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    results: dict[str, dict[str, dict[str, float]]] = {}
    steps = chain(measurements(args.device, args.rounds, args.encoder), loading(args.rounds))
    for group, label, values in track(steps, "measuring", total=22, transient=True):
        results.setdefault(group, {})[label] = values
    show(Console(), results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
