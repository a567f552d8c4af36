"""Score a checkpoint on a split: a table, evaluation.json, .csv and .md, report.html, a picture."""

from skseg.commands.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
