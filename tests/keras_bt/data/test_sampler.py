"""Seeds of images: whoever is drawn for, the draws have nothing to do with each other."""

import numpy as np

from keras_bt.data.pipeline import seeds_of_views
from keras_bt.data.sampler import Order
from keras_bt.randomness import uniform_each


def test_draws_of_images_epochs_views_and_runs_are_independent():
    """Also of neighbors: numbers and epochs count up, which a poor hash would let through."""
    images = np.arange(20_000)
    rows = {}
    for seed in (0, 1):
        order = Order(num_examples=20_000, batch_size=100, seed=seed)
        for epoch in (0, 1):
            seeds = order.seeds(np.full(20_000, epoch), images)
            assert len(np.unique(seeds, axis=0)) == 20_000
            for view, view_seeds in enumerate(seeds_of_views(seeds, 3)):
                uniform = uniform_each(view_seeds, [0, 1, 64]).numpy()
                for place, values in enumerate(uniform.T):
                    rows[seed, epoch, view, place] = values
                rows[seed, epoch, view, "next image"] = np.roll(uniform[:, 0], 1)
    values = np.array(list(rows.values()))
    # Uniform in every tenth, and no two rows correlate: 48 × 47 / 2 coefficients of deviation
    # 1 / √n, of which one in a million exceeds 4.9.
    counts = np.stack([np.histogram(row, 10, (0, 1))[0] for row in values])
    assert ((counts - 2000) ** 2 / 2000).sum(axis=1).max() < 38  # χ², 9 degrees: 1 in 50,000
    correlations = np.corrcoef(values)[np.triu_indices(len(values), 1)]
    assert np.abs(correlations).max() < 4.9 / np.sqrt(20_000)


def test_a_seed_does_not_depend_on_the_others_beside_it():
    order = Order(num_examples=50, batch_size=10, seed=3)
    together = order.seeds(np.array([4, 4, 5]), np.array([7, 8, 7]))
    alone = [order.seeds(np.int64(epoch), np.int64(n)) for epoch, n in ((4, 7), (4, 8), (5, 7))]
    np.testing.assert_array_equal(together, alone)
