"""The compiled CPU kernels of the SK unit.

`_sk.c` holds the kernels. `library.py` loads them, `ops.py` checks tensors and calls them,
`halves.py` puts a unit together from them, and `autograd.py` (eager) and `operators.py` (compiled
graphs) make that differentiable.
Which computations run on them is decided in `skseg.nn.dispatch`.
"""
