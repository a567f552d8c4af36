"""Train a segmentation model: python scripts/fit.py --config configs/NAME.yaml [--help]."""

from skseg.commands.fit import main

if __name__ == "__main__":
    raise SystemExit(main())
