import numpy as np
from sklearn.metrics import average_precision_score, top_k_accuracy_score
from wsfast.reference.retrieval import cmc, mean_average_precision, ranking


def case():
    rng = np.random.default_rng(0)
    gallery, query = np.repeat(np.arange(5), 6), np.arange(5)
    similarity = rng.standard_normal((5, 30)) + 0.8 * (gallery == query[:, None])
    return similarity, query, gallery


def test_average_precision_is_scikit_learns():
    similarity, query, gallery = case()
    want = [average_precision_score(gallery == q, s) for q, s in zip(query, similarity, strict=True)]
    np.testing.assert_allclose(mean_average_precision(similarity, query, gallery), np.mean(want), rtol=1e-12)


def test_cmc_is_top_k_where_each_class_stands_once():
    similarity = case()[0][:, :5]
    query = np.arange(5)
    curve = cmc(similarity, query, query)
    for k in (1, 2, 4):
        assert curve[k - 1] == top_k_accuracy_score(query, similarity, k=k)
    assert curve[-1] == 1
    assert (np.diff(curve) >= 0).all()


def test_by_hand():
    similarity = np.array([[0.9, 0.8, 0.1, 0.7]])
    query, gallery = np.array([1]), np.array([0, 1, 1, 0])
    np.testing.assert_array_equal(ranking(similarity), [[0, 1, 3, 2]])
    np.testing.assert_array_equal(cmc(similarity, query, gallery), [0, 1, 1, 1])
    assert mean_average_precision(similarity, query, gallery) == (1 / 2 + 2 / 4) / 2
