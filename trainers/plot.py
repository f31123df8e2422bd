"""Plots finished and unfinished runs: python -m trainers.plot RUN [RUN …] [--out=DIR].

RUN is the --workdir of trainers.pretrain. One run gets all plots: curves, C, spectra, feature maps,
neighbors, the confusion matrix, and every accuracy that has been measured. Several runs get their
curves in common plots, and a table of their final figures and of the settings in which they differ,
which is also printed. Nothing else in the folders changes, so a run can be plotted while it trains;
if it leaves no memory on the GPU, put CUDA_VISIBLE_DEVICES= before the command.
"""

import dataclasses
import os
import pathlib

from trainers.cli import command
from trainers.runs.fields import setting
from trainers.runs.settings import DataSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotSettings(DataSettings):
    """The flags."""

    out: str | None = setting(
        None,
        "Folder of the plots. Default: plots/ in the run (plots_max_images=N/ with --max_images), "
        "or in the current folder for several runs.",
    )
    max_images: int = setting(
        5000,
        "Largest number of images to plot, and of further images for neighbors and the linear "
        "probe.",
        least=20,
    )


def plot(flags, folders):
    """Draws every plot that can be drawn and prints its path."""
    with command.mistakes:
        if not folders:
            raise ValueError(
                "Give the folder of at least one run: python -m trainers.plot RUN [RUN …]. "
                "Received: none."
            )
        # By real path, as links and arguments such as `runs/* runs/a` may name one folder twice.
        folders = list({os.path.realpath(folder): folder for folder in folders}.values())
        # Imported only once the arguments are known to be valid: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import messages
            from trainers.runs import network_pictures, rebuilding, run_page

        runs = [rebuilding.read_run(folder) for folder in folders]
        metrics = [rebuilding.logged(run) for run, _ in runs]
        default = runs[0][0].plots if len(runs) == 1 else pathlib.Path("plots")
        if flags.max_images != PlotSettings().max_images and len(runs) == 1:
            # The run's own pictures, and those of the default number, stay.
            default = default.with_name(f"{default.name}_max_images={flags.max_images}")
        out = messages.check_writable("--out", flags.out or default, folder=True)
        if len(runs) > 1:
            names = short_names(folders)
            draw_curves(out, dict(zip(names, metrics, strict=True)))
            compare(out, dict(zip(names, (run for run, _ in runs), strict=True)))
            return
        draw_curves(out, metrics[0])
        run, settings = runs[0]
        draw_accuracies(out, run)
        # The run has decided how many images may be unreadable.
        settings = dataclasses.replace(settings, data_dir=flags.data_dir, max_unreadable="100%")
        job, epochs = rebuilding.rebuild(run, settings)
        print(f"The network after epoch {epochs} of {settings.epochs}:")
        network_pictures.draw(out, job, epochs, flags.max_images)
        page = run.report if out == run.plots else out / run.report.name
        seen = run_page.look(job, job.model.backbone)
        run_page.of_pretraining(page, job, epochs, run_page.words_of(job), seen, out)
        print(page)


def short_names(folders):
    """Shortens paths to their last parts, as many as it takes to tell them apart.

    >>> short_names(["a/digits", "b/digits"])
    ['a/digits', 'b/digits']
    """
    parts = [pathlib.Path(os.path.realpath(folder)).parts for folder in folders]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(part) for part in parts]


def draw_curves(out, runs):
    """Draws the loss and what was measured during one run, or several by their names."""
    from keras_bt import plots

    plots.loss_curve(out / "loss.png", runs)
    print(out / "loss.png")
    try:
        plots.measures(out / "measures.png", runs)
    except plots.NothingMeasuredError:
        print("Not drawn: measures.png, as nothing was measured during training.")
    else:
        print(out / "measures.png")


def draw_accuracies(out, run):
    """Draws every accuracy in the run's folder, and says how its settings differ."""
    from keras_bt import plots
    from trainers.runs import results

    rows = [(r.name, r.of, r.accuracy, r.deviation) for r in results.read(run)]
    if not rows:
        print("Not drawn: accuracies.png, as nothing has been measured after training.")
        return
    plots.accuracies(out / "accuracies.png", rows)
    print(out / "accuracies.png")


def compare(out, runs):
    """Draws and prints the final figures of runs by name, and the settings that differ."""
    from keras_bt import plots
    from trainers.runs import comparing

    figures, settings = comparing.table(runs)
    parts = {"final figures": figures} | ({"settings that differ": settings} if settings else {})
    plots.table(out / "table.png", list(runs), parts)
    print(out / "table.png")
    print(f"\n{comparing.as_text(list(runs), figures, settings)}")


def main():
    """Runs the command."""
    command.run(plot, PlotSettings, positional=True)


if __name__ == "__main__":
    main()
