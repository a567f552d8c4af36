"""Train a segmentation model: python scripts/fit.py --config configs/NAME.yaml [--help]."""

from skseg.cli import fit

if __name__ == "__main__":
    raise SystemExit(fit())
