"""How far confidence is from accuracy: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (ICML
2017, eq. 3). Bin k of K holds the samples whose largest probability is in (k / K, (k + 1) / K].
"""

import numpy as np


def reliability(probabilities, labels, bins=15):
    """(samples, sum of their confidence, right answers) of every bin, float64 [bins] each; probabilities [M, C],
    labels int [M].
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return tuple(
        np.bincount(place, weights=w, minlength=bins) for w in (np.ones(len(labels)), confidence, right.astype(float))
    )


def calibration_error(probabilities, labels, bins=15):
    """ECE: sum over bins of their share of samples times |accuracy - mean confidence|."""
    _, confidence, right = reliability(probabilities, labels, bins)
    return np.abs(right - confidence).sum() / len(labels)
