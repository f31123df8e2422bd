"""Do two images show the same thing? Measures it: python -m trainers.verify --backbone=RUN.

Pairs of images of classes that are not trained on are told apart by the distance of their
embeddings: ROC curve, equal error rate, true accepts at few false accepts, and the accuracy at a
threshold chosen on other pairs, for the backbone's features, plain and whitened, those of
trainers.siamese, and raw pixels.

With --reference=A.png --image=B.png it answers for one pair, by the threshold that was chosen; with
several references, by the nearest and by the mean distance. docs/verification.md has more.
"""

import time

from trainers.cli import command
from trainers.runs.verify_settings import VerifySettings


def verify(settings):
    """Measures verification, or answers for one pair, and prints what was found."""
    started = time.monotonic()
    with command.mistakes:
        # Imported only once the flags are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from trainers.runs import one_pair, verifying

        print(
            one_pair.run(settings)
            if settings.image is not None
            else verifying.run(settings, started)
        )


def main():
    """Runs the command."""
    command.run(verify, VerifySettings)


if __name__ == "__main__":
    main()
