"""Look through a data set before training on it; exit 1 if something would fail."""

from skseg.commands.check_data import main

if __name__ == "__main__":
    raise SystemExit(main())
