"""What `skseg NAME` and `scripts/NAME.py` run: one file per command.

A command is a typed function. Its signature and docstring make its flags and its help page (see
`skseg.commands.parser`), and the `main` beside it runs it.
"""
