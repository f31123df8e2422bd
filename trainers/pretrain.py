"""Pretrains a backbone with Barlow Twins: python -m trainers.pretrain --data=SOURCE --workdir=DIR.

Without flags it pretrains on scikit-learn's handwritten digits, which takes about two minutes on a
CPU. The same command continues an interrupted run. Recipes: --flagfile=trainers/recipes/NAME.flags.
Other objectives for the same network: --objective.
"""

import re

from trainers.cli import command
from trainers.runs.settings import PretrainingSettings


def pretrain(settings):
    """Trains, evaluates and writes everything to the workdir."""
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
    with command.quiet_start():
        from trainers.runs import pretraining

    with command.mistakes:
        pretraining.pretrain(settings)


def default_recipe(arguments):
    """Returns the recipe for the digits; other data get the flags' defaults, sized for a laptop."""
    given = [a.split("=", 1)[1] for a in arguments if re.match("--?data=", a)]
    return "digits" if given in ([], ["digits"]) else None


def main():
    """Runs the command."""
    command.run(pretrain, PretrainingSettings, default_recipe)


if __name__ == "__main__":
    main()
