"""Retrieval scores of queries against a gallery (paper, section on retrieval on unseen tasks)."""

import numpy as np


def ranking(similarity):
    """Gallery positions by falling similarity [Q, M], ties in gallery order: int64 [Q, M]."""
    return np.argsort(-np.asarray(similarity, np.float64), axis=1, kind="stable")


def cmc(similarity, query_labels, gallery_labels):
    """Cumulative match characteristic: share of queries with a right answer among the first k, k = 1..M: [M]."""
    hits = gallery_labels[ranking(similarity)] == query_labels[:, None]
    return np.logical_or.accumulate(hits, axis=1).mean(axis=0)


def mean_average_precision(similarity, query_labels, gallery_labels):
    """Mean over queries of the average precision at each right answer's rank."""
    hits = gallery_labels[ranking(similarity)] == query_labels[:, None]
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())
