"""Print the encoders as a Markdown table: parameters and multiply-adds, beside the paper's."""

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import skseg

# Li et al. 2019, table 2, and implus/SKNet's prototxt files: million parameters, GFLOPs (224).
PAPER = {
    "sknet50": (27.5, 4.47),
    "sknet50_plain": (25.0, 4.24),
    "sknet50_se": (27.7, 4.25),
    "sknet101": (48.9, 8.46),
    "sknet101_plain": (44.3, 7.99),
    "sknet101_se": (49.2, 8.00),
}


def multiply_adds(model: torch.nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224))
    return counter.get_total_flops() // 2


def main() -> None:
    print("| encoder | parameters | with classifier | GFLOPs | paper: parameters | GFLOPs |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in skseg.list_encoders():
        with torch.device("meta"):
            model = timm.create_model(name).eval()
            total = sum(p.numel() for p in model.parameters())
            head = sum(p.numel() for p in model.fc.parameters())
            gflops = multiply_adds(model) / 1e9
        millions, published = PAPER.get(name, ("-", "-"))
        millions = millions if millions == "-" else f"{millions} M"
        print(
            f"| `{name}` | {total - head:,} | {total:,} | {gflops:.2f} | {millions} | {published} |"
        )


if __name__ == "__main__":
    main()
