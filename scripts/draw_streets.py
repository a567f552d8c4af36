"""Draw a small street data set in the layout of Cityscapes, to train on without any download."""

from skseg.commands.draw_streets import main

if __name__ == "__main__":
    raise SystemExit(main())
