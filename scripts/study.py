"""Run a study: python scripts/study.py --config configs/studies/NAME.yaml [--help]."""

from skseg.commands.study import main

if __name__ == "__main__":
    raise SystemExit(main())
