"""The compiled kernels of the SK unit."""
