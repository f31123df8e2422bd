"""The run of the linear protocol behind `trainers.linear_probe` without --fast."""

import math

import keras

from keras_bt.evaluation import finetune, linear_protocol
from keras_bt.evaluation.report import percent
from trainers.runs import classifying

EVALUATION_BATCH = 256


class LinearProbing(classifying.ClassifierRun):
    """A run of the linear protocol: classifier, data, training and report."""

    name = "linear_probe"
    labels_without_name = "100%"

    def __init__(self, settings, subject, train, strategy, run):
        super().__init__(settings, subject, train, strategy, run)
        s = settings
        self.rates = finetune.epoch_rates(s.schedule, s.rate, s.epochs, s.milestones, s.decay)
        self.replicas = self.strategy.num_replicas_in_sync
        self.batch_size = min(s.batch_size, self.train.num_examples)
        if self.batch_size % self.replicas:
            raise ValueError(
                "batch_size must divide evenly across replicas. "
                f"Received: batch_size={self.batch_size}, replicas={self.replicas}."
            )
        # On several replicas the first test batch must divide evenly.
        test_batch = min(EVALUATION_BATCH, self.test.num_examples)
        self.test_batch_size = max(1, test_batch - test_batch % self.replicas)
        self.steps_per_epoch = math.ceil(self.train.num_examples / self.batch_size)
        keras.utils.set_random_seed(s.seed)
        with self.strategy.scope():
            self.model = linear_protocol.linear_classifier(
                subject.backbone, len(self.train.class_names), s.weight_decay, seed=s.seed
            )

    def description(self):
        """Describes the run before it starts, for the terminal."""
        s = self.settings
        steps = f" at epochs {', '.join(map(str, s.milestones))}" if s.milestones else ""
        devices = f"{self.replicas} replicas" if self.replicas > 1 else "one device"
        return (
            f"{self.subject}\nTraining: a linear classifier on {self.train.num_examples:,} images "
            f"(--labels={s.labels}), {s.epochs} epochs of {self.steps_per_epoch} steps, "
            f"batch size {self.batch_size}, rate {s.rate:g}, {s.schedule} schedule{steps}, "
            f"on {devices}\nEverything is written to {self.run.path}"
        )

    def fit(self, first_epoch, progress):
        """Trains to the last epoch and measures after each."""
        linear_protocol.train(
            self.model,
            self.batches(first_epoch),
            self.test_batches(self.test_batch_size),
            self.rates,
            self.steps_per_epoch,
            first_epoch,
            callbacks=self.callbacks(
                first_epoch,
                progress,
                "Try a lower --rate; if that does not help, the features are not finite.",
            ),
        )

    def finish(self, started):
        """Writes the summary and returns the closing message."""
        run = self.run
        summary = self.write_summary(self.history(), started)
        seconds = summary["seconds_of_last_call"]
        return "\n".join(
            [
                f"\nFinished; this call took {seconds:.0f} s. Accuracy in percent on "
                f"{self.subject.where}:\n",
                f"{'':24}{'top-1':>8}{'top-5':>8}",
                f"{'last epoch':24}{percent(summary['top1']):>8}{percent(summary['top5']):>8}",
                f"{'best of all epochs':24}{percent(summary['best_top1']):>8}"
                f"{percent(summary['best_top5']):>8}",
                f"\nTop-1 was best after epoch {summary['best_epoch']}. The best epoch is chosen "
                "on the images measured on, which flatters it; the last is not.",
                f"These results: {run.summary}; those of every epoch: {run.metrics}",
            ]
        )
