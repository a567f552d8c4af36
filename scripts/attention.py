"""See what SK units attend to: python scripts/attention.py --ckpt_path FILE [--help]."""

from skseg.commands.attention import main

if __name__ == "__main__":
    raise SystemExit(main())
