"""The benchmark on a GPU: ours beside five other ways to train the same networks, with ceilings of the same run."""
