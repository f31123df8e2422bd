"""Measures a backbone with a k-nearest-neighbor classifier: python -m trainers.knn --backbone=RUN.

Nothing is trained: the k training images nearest to an image, by cosine similarity of features,
vote for its class, each vote weighted by exp(similarity / temperature) (Wu et al. 2018, arXiv
1805.01978, section 3.4). One search serves all k. Features are kept on disk and memory-mapped;
docs/evaluation.md says how much memory the search needs.
"""

import time

from trainers.cli import command
from trainers.runs.settings import KnnSettings


def knn(settings):
    """Extracts features, finds their nearest neighbors, and writes and prints the accuracies."""
    started = time.monotonic()
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
    with command.quiet_start():
        from trainers.runs import nearest_neighbors, subject

    with command.mistakes:
        print(nearest_neighbors.run(subject.read(settings), settings, started))


def main():
    """Runs the command."""
    command.run(knn, KnnSettings)


if __name__ == "__main__":
    main()
