"""Draws pictures of finished and unfinished runs: python -m trainers.plot RUN [RUN …] [--out=DIR].

RUN is a folder that trainers.pretrain writes to, its --workdir. Of one run everything is drawn:
curves, C, spectra, maps of the features, neighbors, confusion matrix. Of several runs the curves
are drawn together. Nothing else in the folders is changed, so this may be done while a run trains;
if that leaves no memory on the GPU, put CUDA_VISIBLE_DEVICES= before the command.
"""

import os
import pathlib

from absl import flags

from trainers.cli import command

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "out", None, "Folder of the pictures. Default: plots/ in the run, or here for several runs."
)
flags.DEFINE_string("data_dir", None, "Where the data sets of tfds lie.")
flags.DEFINE_integer(
    "max_images", 5000, "At most so many images are looked at, and as many to fit on.", 20
)


def main(folders):
    """Draws what there is to draw and prints the path of each picture."""
    with command.mistakes:
        if not folders:
            raise ValueError(
                "Give the folder of at least one run: python -m trainers.plot RUN [RUN …]"
            )
        # By what they are, for `runs/*` and `runs/a runs/b` may name one twice.
        folders = list({os.path.realpath(folder): folder for folder in folders}.values())
        # Imported when the arguments are known to be right: TensorFlow takes seconds.
        with command.quiet_start():
            from trainers.runs import network_pictures, rebuilding

        runs = [rebuilding.read_run(folder) for folder in folders]
        metrics = [rebuilding.logged(run) for run, _ in runs]
        default = runs[0][0].plots if len(runs) == 1 else "plots"
        out = writable(pathlib.Path(FLAGS.out or default))
        if len(runs) > 1:
            draw_curves(out, dict(zip(short_names(folders), metrics, strict=True)))
            return
        draw_curves(out, metrics[0])
        run, settings = runs[0]
        job, epochs = rebuilding.rebuild(run, settings, FLAGS.data_dir)
        print(f"The network after epoch {epochs} of {settings['epochs']}:")
        network_pictures.draw(out, job, epochs, FLAGS.max_images)


def writable(folder):
    """The folder, if pictures can be written to it.

    Raises:
        ValueError: if not.
    """
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"--out must be a folder that can be written to. Received: {folder}")
    return folder


def short_names(folders):
    """The last parts of the paths, as many as it takes to tell them apart.

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
    """Draws the loss, and what was measured while the runs trained.

    Args:
        out: folder of the pictures.
        runs: metrics of one run, or dict from name to them.
    """
    from keras_bt import plots

    plots.loss_curve(out / "loss.png", runs)
    print(out / "loss.png")
    try:
        plots.measures(out / "measures.png", runs)
    except plots.NothingMeasuredError:
        print("Left out: measures.png, as no measures were taken during training.")
    else:
        print(out / "measures.png")


if __name__ == "__main__":
    command.run(main, positional=True)
