"""A run read back from its folder: settings, metrics and the model of the newest checkpoint."""

from keras_bt import workdir
from keras_bt.callbacks.metrics_log import read_metrics
from trainers.runs.settings import PretrainingSettings


def read_run(folder):
    """Opens the run in a folder: a `Workdir`, and its `PretrainingSettings`.

    Raises:
        ValueError: if it is not a folder or not a run, or its settings cannot be read.
    """
    run = workdir.Workdir(folder)
    if not run.path.is_dir():
        raise ValueError(
            f"A run is a folder, the --workdir of trainers.pretrain. Received: {folder}"
        )
    if not run.config.is_file():
        raise ValueError(
            f"A run must hold {run.config.name}, written by trainers.pretrain. Received: {folder}"
        )
    settings = run.read_settings()
    if "projector" not in settings:
        raise ValueError(
            f"A run must be one of trainers.pretrain. Received: {folder}, of another command."
        )
    return run, checked(run, settings)


def checked(run, settings):
    """Returns the `PretrainingSettings` that a run recorded.

    Raises:
        ValueError: if a setting is of another type or out of range.
    """
    try:
        return PretrainingSettings.of_identity(settings, strategy="one")
    except ValueError as error:
        raise ValueError(f"{run.config} must hold a run's settings. {error}") from error


def logged(run):
    """Reads the metrics that a run has logged.

    Raises:
        ValueError: if there are none yet, or the file holds something else.
    """
    metrics = read_metrics(run.metrics) if run.metrics.is_file() else []
    if not any("loss" in entry for entry in metrics):
        raise ValueError(
            f"Nothing has been logged yet in {run.metrics}: the run has only just begun. Try again "
            "after some steps."
        )
    return metrics


def rebuild(run, settings):
    """Builds the model of a run, opens its data and restores the newest checkpoint.

    Nothing in the folder changes, so this is safe while the run trains.

    Returns:
        `trainers.runs.pretraining.Pretraining`, and the number of epochs its model has trained.

    Raises:
        ValueError: if there is no checkpoint, or settings, data and checkpoint do not match.
    """
    import keras

    from keras_bt.strategy import choose_strategy
    from trainers.runs import opening, pretraining

    if newest_checkpoint(run) is None:
        raise ValueError(
            f"{run.checkpoints} must hold a checkpoint, which a run writes after its first epoch. "
            "Received: none."
        )
    keras.config.set_dtype_policy(settings.policy)
    train, test = opening.open_data(settings.data, settings)
    job = pretraining.Pretraining(settings, train, test, choose_strategy("one"), run)
    return job, job.restore() // job.steps_per_epoch


def newest_checkpoint(run):
    """Returns the `pathlib.Path` of the newest checkpoint, or None if there is none."""
    from keras_bt.checkpoint import checkpoints

    return next(iter(checkpoints(run.checkpoints)), None)
