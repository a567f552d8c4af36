"""`python -m skseg` is the `skseg` command."""

from skseg_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
