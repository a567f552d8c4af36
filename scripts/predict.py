"""Segment pictures: label maps (class indices) and overlays at the pictures' own size."""

from skseg.commands.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
