"""Loops over flat arrays that compiled code without reference counts cannot write as slices."""

from .jit import leaf


@leaf
def copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]


@leaf
def add(term, total):
    for i in range(len(total)):
        total[i] += term[i]
