"""What `scripts/NAME.py` and `skseg NAME` run, one file a command."""
