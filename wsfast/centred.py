"""A kernel of training networks, its feature space's origin moved to their mean: what kernel classifiers solve on."""

import numpy as np


class CentredKernel:
    """kernel [n, n] of the training networks; `train` is it centred and divided by its mean diagonal, `scale`.

    A penalty therefore means the same whatever the kernel is multiplied by. Networks that are all alike (a mean
    diagonal within rounding of zero) leave nothing to learn but the classes' shares: `train` is then zero.
    """

    def __init__(self, kernel: np.ndarray):
        self.mean, self.scale = kernel.mean(axis=0), 1.0
        self.total = self.mean.mean()
        self.train = self.centre(kernel)
        scale = np.trace(self.train) / len(kernel)
        if scale > np.finfo(np.float64).eps * np.trace(kernel):
            self.scale = scale
            self.train /= scale
        else:
            self.train[:] = 0

    def centre(self, kernel: np.ndarray) -> np.ndarray:
        """kernel [m, n] of any networks against the training ones, centred and scaled alike."""
        return (kernel - kernel.mean(axis=1, keepdims=True) - self.mean + self.total) / self.scale

    def decision(self, kernel: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """Scores [..., m, C] of networks with kernel [m, n]; coef [..., n, C], intercept [..., C]."""
        return self.centre(kernel) @ coef + intercept[..., None, :]
