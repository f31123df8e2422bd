"""Maps keep similar images together; clusters are sorted, and few or equal images no trouble."""

import numpy as np
import pytest

from keras_bt.evaluation import maps


def groups(each=15, dim=60):
    """Features around three centers, and which center each is near."""
    random = np.random.RandomState(0)
    of = np.arange(3).repeat([each, each + 3, each + 9])
    features = 5 * random.standard_normal((3, dim))[of] + random.standard_normal((len(of), dim))
    return features.astype(np.float32), of


@pytest.mark.parametrize("method", maps.METHODS)
def test_similar_images_are_near_each_other(method):
    features, of = groups()
    plane = maps.image_map(features, method)
    distances = np.linalg.norm(plane[:, None] - plane, axis=2) + np.diag([np.inf] * len(of))
    assert (of[distances.argmin(axis=1)] == of).all()
    np.testing.assert_array_equal(plane, maps.image_map(features, method))


@pytest.mark.parametrize("n", [1, 2, 7, 9])
def test_few_or_equal_images_have_places(n):
    random = np.random.RandomState(0)
    for features in (np.ones((n, 3)), random.standard_normal((n, 3)), np.zeros((n, 1))):
        plane = maps.image_map(features)
        assert plane.shape == (n, 2)
        assert np.isfinite(plane).all()


def test_clusters_are_the_groups_largest_first():
    features, of = groups()
    found = maps.clusters(features, 3, most_typical=4)
    np.testing.assert_array_equal(found.of, 2 - of)
    for number, typical in enumerate(found.typical):
        inside = np.flatnonzero(found.of == number)
        far = np.linalg.norm(features - features[inside].mean(axis=0), axis=1)[inside]
        # In the 50 strongest directions of 60 the order may differ a little.
        assert set(typical) <= set(inside[np.argsort(far)[:8]])
        assert len(typical) == 4


def test_of_equal_images_there_is_one_cluster():
    found = maps.clusters(np.ones((6, 2)), 3)
    assert len(found.typical) == 1
    with pytest.raises(ValueError, match=r"1 to 6 clusters, as many as images. Received: 7"):
        maps.clusters(np.ones((6, 2)), 7)
