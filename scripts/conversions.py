"""Print what conversion to SK units does to encoders of smp and timm, as a Markdown table.

Weights are random, and so are the norms' parameters and statistics. Differences are of the worst
feature, over its largest value. `gradient` is the largest of the attention's weights, in training
on noise, before and after one step of SGD.
"""

import argparse

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

import skseg
from skseg.nn.attention import SKAttention

ENCODERS = (
    *("resnet18", "resnext50_32x4d", "se_resnext50_32x4d", "sknet50_plain", "tu-regnety_002"),
    *("efficientnet-b0", "efficientnet_lite0", "tu-tf_efficientnetv2_b0", "mobilenet_v2"),
    *("tu-mobilenetv3_small_100", "tu-convnext_atto", "densenet121", "vgg11_bn", "mit_b0"),
)


def randomize_norms(network: nn.Module) -> None:
    """Give batch norms parameters and statistics that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)


def difference(before: nn.Module, after: nn.Module, images: Tensor) -> float:
    """Return the largest difference of a feature, relative to its largest value."""
    with torch.no_grad():
        pairs = zip(before.eval()(images), after.eval()(images), strict=True)
        return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs if a.numel())


def attention_gradients(encoder: nn.Module, images: Tensor) -> list[float]:
    """Return the largest gradient before and after one step of training."""
    encoder.train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    weights = [m.fc_select.weight for m in encoder.modules() if isinstance(m, SKAttention)]
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack([f.square().mean() for f in encoder(images)[1:] if f.numel()]).sum().backward()
        found.append(max(float(w.grad.abs().max()) for w in weights))
        optimizer.step()
    return found


def row(name: str) -> str:
    """Convert an encoder and return its row of the table."""
    torch.manual_seed(0)
    encoder = smp.encoders.get_encoder(name, weights=None)
    randomize_norms(encoder)
    converted = skseg.convert_to_sk(encoder)
    found = converted.conversion
    images = torch.randn(2, 3, 96, 64)
    single = difference(encoder, converted, images)
    first, second = attention_gradients(converted.double(), images.double())
    millions = [value / 1e6 for value in found.parameters]
    billions = [value / 1e9 for value in found.multiply_adds]
    return (
        f"| `{name}` | {len(found.converted)} | {millions[0]:.2f} -> {millions[1]:.2f} "
        f"| {billions[0]:.2f} -> {billions[1]:.2f} | {found.difference['eval']:.0e} "
        f"| {found.difference['train']:.0e} | {single:.0e} | {first:.0e}, {second:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="*", default=ENCODERS, help="names in smp")
    args = parser.parse_args()
    print(
        "| encoder | units | M parameters | GFLOPs | float64 | in training | float32 | gradient |"
    )
    print("|---|---:|---|---|---:|---:|---:|---|")
    for name in args.encoders:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
