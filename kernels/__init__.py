"""Compiled kernels, one folder per backend, one file per op, the op names of `wsfast.reference`."""
