"""Measures a backbone with a linear probe: python -m trainers.linear_probe --backbone=RUN.

By default this is the paper's protocol: the backbone is frozen, and a linear classifier is trained
on its features of randomly cropped and flipped images for 100 epochs of SGD. The same command
continues an interrupted run.

With --fast it takes seconds instead of hours: features are extracted once, without augmentation,
kept on disk and classified by multinomial logistic regression, whose regularization is --c or
chosen by cross-validation on the training images. Images with several labels (VOC07) get one linear
support vector machine per class instead, and the mean average precision is reported.
"""

import time

from trainers.cli import command
from trainers.runs.settings import LinearProbeSettings


def linear_probe(settings):
    """Trains the classifier, measures it and writes everything to the workdir."""
    started = time.monotonic()
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
    with command.quiet_start():
        from trainers.runs import classifying, fast_probe, linear_probing, subject

    with command.mistakes:
        if settings.fast:
            print(fast_probe.run(subject.read(settings), settings, started))
            return
        classifying.classify(linear_probing.LinearProbing, settings)


def main():
    """Runs the command."""
    command.run(linear_probe, LinearProbeSettings)


if __name__ == "__main__":
    main()
