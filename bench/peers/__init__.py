"""Other ways to train the same N networks: the same initial weights, batches and recipe, float32, on the CPU.

Each file has `train(problem, networks)`: it trains the networks whose numbers it is given and returns their parameters
[n, P] in the order of `wsfast.reference.mlp.train_mlp`.
"""
