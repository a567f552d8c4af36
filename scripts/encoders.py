"""Print the encoders as a Markdown table: size, cost, and published weights."""

import segmentation_models_pytorch as smp
import torch

import skseg
from skseg.encoders import HUB_IDS
from skseg.nn.inspect import multiply_adds

# Published top-1 accuracy in % on ImageNet-1k at 224 pixels; timm's is that of the listed weights.
TOP1 = {
    "sknet50": "79.21 (paper), 80.17 (timm)",
    "sknet50_plain": "77.77 (paper)",
    "sknet50_se": "78.88 (paper)",
    "sknet101": "79.81 (paper)",
    "sknet101_plain": "78.89 (paper)",
    "sknet101_se": "79.42 (paper)",
    "skresnet18": "73.02 (timm)",
    "skresnet34": "76.96 (timm)",
    "sk_resnet50": "77.54 (PytorchInsight)",
    "sk_resnet101": "78.79 (PytorchInsight)",
}
FILES = ("sk_resnet50", "sk_resnet101")  # their weights are published as files, not on a hub


def main() -> None:
    print("| encoder | parameters | GFLOPs | weights | published top-1 % |")
    print("|---|---:|---:|---|---|")
    for name in skseg.list_encoders():
        with torch.device("meta"):
            model = smp.encoders.get_encoder(name, weights=None).eval()
            parameters = sum(p.numel() for p in model.parameters())
            gflops = multiply_adds(model) / 1e9
        weights = f"`{HUB_IDS[name]}`" if name in HUB_IDS else "a file" * (name in FILES)
        print(
            f"| `{name}` | {parameters:,} | {gflops:.2f} | {weights or '-'} | "
            f"{TOP1.get(name, '-')} |"
        )


if __name__ == "__main__":
    main()
