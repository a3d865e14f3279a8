"""Other ways to train the same networks: the same initial weights, batches and recipe.

A peer trains on from where its last `run` stopped, in epochs; `parameters` gives [n, P] in the order of the reference.
The orders drawn are used again from the first when they run out, which only a timed run does.
"""
