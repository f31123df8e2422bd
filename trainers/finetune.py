"""Fine-tunes a backbone with few labels: python -m trainers.finetune --backbone=RUN --labels=1%.

This is the paper's semi-supervised protocol: backbone and a new linear head are trained together on
1%, 10% or any other share of the labels. With --from_scratch the same network starts from random
weights, with the same labels and steps, to show what pretraining is worth. The same command
continues an interrupted run.
"""

from trainers.cli import command
from trainers.runs.settings import FinetuningSettings


def finetune(settings):
    """Fine-tunes, measures on the test images and writes everything to the workdir."""
    # Imported only once the flags are known to be valid: TensorFlow takes seconds.
    with command.quiet_start():
        from trainers.runs import classifying, finetuning

    with command.mistakes:
        classifying.classify(finetuning.Finetuning, settings)


def main():
    """Runs the command."""
    command.run(finetune, FinetuningSettings)


if __name__ == "__main__":
    main()
