"""Trains a Siamese network on pairs: python -m trainers.siamese --data=SOURCE --backbone=RUN.

One network embeds both images of a pair; it is trained such that images of the same thing come to
lie close and those of different things apart. It starts from a backbone, which is trained with it
or, with --frozen, left as it is; --from_scratch starts from random weights. The pairs are drawn
from labels, or named by a table, --data=pairs:FILE. Some classes are held out whole (--unseen): on
pairs of them it is measured how well the distance of two images tells whether they show the same
thing. The same command continues an interrupted run.
"""

from trainers.cli import command
from trainers.runs.pair_settings import SiameseSettings


def siamese(settings):
    """Trains, judges on the test pairs and writes everything to the workdir."""
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
    with command.quiet_start():
        from trainers.runs import siamese as run

    with command.mistakes:
        run.train(settings)


def main():
    """Runs the command."""
    command.run(siamese, SiameseSettings)


if __name__ == "__main__":
    main()
