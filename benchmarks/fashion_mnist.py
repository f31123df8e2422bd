"""What minutes on one GPU give: `python -m benchmarks.fashion_mnist --data=idx:DIR --out=DIR`.

Trains the recipe `fashion_mnist_gpu` with `trainers.pretrain`, and then with the published model,
loss and LARS in PyTorch (`benchmarks.torch_barlow_twins`), in channels last and in the same data
type, on the same views in the same order. PyTorch gets as many epochs as take as long by the speed
of its first steps, at most the recipe's. Both backbones, the untrained one and raw pixels are then
measured as a sweep measures its runs: nearest neighbors (k = 20), plain and whitened, and linear
probes with all labels and with --few_labels, the mean of ten draws.

Each training is a process of its own. KERAS_BACKEND says what keras_bt runs on; the views for
PyTorch are made by TensorFlow on the host. The same command again makes what is missing in DIR.
Give --data=heldout:… while you still choose anything. --epochs=N trains for less, or longer.
--tiny shows in minutes that it works, on CPUs too.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

from benchmarks import tensorflow_device
from benchmarks.gpu import metrics_of, of_metrics
from benchmarks.report import aligned, available_cores, machine
from trainers.ablations.run import MEASURED, AblationSettings
from trainers.cli import command
from trainers.runs.fields import Settings, setting

RECIPE = pathlib.Path(__file__).parent.parent / "trainers" / "recipes" / "fashion_mnist_gpu.flags"
TINY = ["--width=8", "--image_size=8", "--projector=32-32", "--epochs=2", "--batch_size=64"]
TIMED = 50  # steps from which PyTorch's speed is known
ROWS = {
    "keras_bt": "keras_bt",
    "torch": "published code in PyTorch",
    "untrained": "untrained backbone",
    "pixels": "raw pixels",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionSettings(Settings):
    """The flags."""

    data: str = setting("idx:/usr/share/datasets/fashion-mnist", "Labeled images.")
    out: str = setting("fashion_gpu", "Folder for everything that is written.")
    parts: tuple[str, ...] = setting(tuple(ROWS), "What to make.", choices=tuple(ROWS))
    epochs: int | None = setting(
        None,
        "Epochs of keras_bt, whose speed is that after the first. Default: the recipe's.",
        least=2,
    )
    seed: int = setting(0, "Seed of all that is random.", least=0, most=2**31 - 1)
    few_labels: int = setting(600, "Labels of the probe with few.", least=1)
    tiny: bool = setting(False, "Small sizes, to see that it works.")
    alone: bool = setting(False, "Train in PyTorch in this process.")


def passed_on(args):
    """Returns the flags that every process gets as they are here."""
    given = {name: getattr(args, name) for name in ("data", "seed", "few_labels", "epochs")}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def flags_of(part, args):
    """Returns the flags of `trainers.ablations.run` that make or measure a part."""
    flags = [f"--flagfile={RECIPE}", *(TINY if args.tiny else ()), *passed_on(args)]
    flags += [f"--workdir={pathlib.Path(args.out) / part}"]
    return flags + ([f"--measure={part}"] if part in ("untrained", "pixels") else [])


def cost_of_ours(args):
    """Returns what keras_bt's training took: `epochs`, `images/s`, `seconds` without pauses."""
    settings, _ = command.parsed(flags_of("keras_bt", args), AblationSettings)
    lines = metrics_of(pathlib.Path(settings.workdir))
    speed = of_metrics(lines, settings.batch_size, lines[0]["time"])["images/s"]
    seconds = lines[-1]["step"] * settings.batch_size / speed
    return {"epochs": settings.epochs, "images/s": speed, "seconds": seconds}


def measure_torch(args):
    """Trains the published code for as long as keras_bt took, measures it, and writes both."""
    settings, _ = command.parsed(flags_of("torch", args), AblationSettings)
    tensorflow_device.prepare(available_cores())
    from keras_bt import data, workdir
    from trainers.ablations import run as measuring
    from trainers.runs import opening, recipe_views
    from trainers.runs.labelled import labelled_halves

    ours = workdir.Workdir(pathlib.Path(args.out) / "keras_bt")
    settings = dataclasses.replace(settings, precision=ours.read_settings()["precision"])
    train, test = opening.open_data(settings.data, settings)
    train, test, where = labelled_halves(train, test, seed=0)
    views = recipe_views.make(settings, train)
    batches = data.pretraining_views(train, *views, settings.batch_size, settings.seed)
    steps_per_epoch = train.num_examples // settings.batch_size
    seconds = cost_of_ours(args)["seconds"]
    backbone, trained = train_published(settings, batches, steps_per_epoch, seconds)
    folder = pathlib.Path(settings.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    backbone.save(workdir.Workdir(folder).backbone)
    found = measuring.measure(*measuring.features(settings, train, test), settings.few_labels)
    workdir.write_record(folder / MEASURED, found | trained | {"measured_on": where})


def train_published(settings, batches, steps_per_epoch, seconds):
    """Trains the published code on batches of views for about so many seconds.

    Returns:
        The backbone as a Keras model; and a dict of the `epochs`, the seconds and the images/s.
    """
    import torch

    from benchmarks import torch_barlow_twins as published
    from keras_bt.torch_weights import backbone_of

    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    depth = int(settings.backbone.removeprefix("resnet"))
    backbone = published.resnet(*published.DEPTHS[depth], settings.stem, settings.width)
    published.initialize(backbone)
    model = published.BarlowTwins(backbone, settings.widths, settings.redundancy_weight).to(device)
    backbone.to(memory_format=torch.channels_last)
    kernels, vectors = ([p for p in model.parameters() if (p.ndim > 1) == k] for k in (True, False))
    groups = [{"params": kernels}, {"params": vectors}]
    optimizer = published.LARS(groups, weight_decay=settings.weight_decay)

    def step(pair, rate):
        for group, ratio in zip(optimizer.param_groups, (1, settings.bias_rate_ratio), strict=True):
            group["lr"] = ratio * rate
        pair = [torch.tensor(x).permute(0, 3, 1, 2).to(device, non_blocking=True) for x in pair]
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = model(*pair)
        loss.backward()
        optimizer.step()
        return loss

    def timed(pairs, rates):
        """Trains a step for every rate; returns the seconds."""
        started = time.perf_counter()
        for rate, pair in zip(rates, pairs, strict=False):
            loss = step(pair, rate)
        print(f"{len(rates)} steps, loss {loss.item():.4g}", flush=True)  # waits for the device
        return time.perf_counter() - started

    warm = batches.as_numpy_iterator()
    timed(warm, [0.0] * 2)  # tunes and allocates, and changes no weight
    trial = timed(warm, [0.0] * TIMED)
    epochs = int(seconds / trial * TIMED / steps_per_epoch)
    epochs = max(1, min(settings.epochs, epochs))
    optimizer.state.clear()
    steps, warmup = epochs * steps_per_epoch, round(min(10, epochs / 10) * steps_per_epoch)
    peak = settings.rate * settings.batch_size / 256
    rates = [published.rate_at(t, steps, warmup, peak) for t in range(steps)]
    took = timed(batches.as_numpy_iterator(), rates)
    state = {name: value.cpu().numpy() for name, value in backbone.state_dict().items()}
    return backbone_of(state), {
        "epochs": epochs,
        "seconds": took,
        "images/s": steps * settings.batch_size / took,
    }


def make_all(args):
    """Makes the parts that are missing, and prints the table."""
    if args.alone:
        with command.mistakes:
            measure_torch(args)
        return
    with command.mistakes:
        if "torch" in args.parts and importlib.util.find_spec("torch") is None:
            raise ValueError(
                "The comparison needs PyTorch: pip install torch; or leave it out of --parts. "
                f"Received: --parts={','.join(args.parts)}"
            )
        out = pathlib.Path(args.out)
        (out / "logs").mkdir(parents=True, exist_ok=True)
        for part in args.parts:
            if not (out / part / MEASURED).exists():
                make(part, args, out / "logs" / f"{part}.txt")
        print(machine(), "", table(args, out), sep="\n")


def make(part, args, log):
    """Makes a part in a process of its own, which writes what it says to a file."""
    module, flags = "trainers.ablations.run", flags_of(part, args)
    environment = dict(os.environ)
    if part == "torch":
        module = "benchmarks.fashion_mnist"
        flags = ["--alone", *["--tiny"] * args.tiny, f"--out={args.out}", *passed_on(args)]
        environment["KERAS_BACKEND"] = "tensorflow"
        environment.pop("LD_LIBRARY_PATH", None)  # may lead to TensorFlow's libraries
    print(f"{ROWS[part]}; see {log}", file=sys.stderr, flush=True)
    with log.open("w") as file:
        status = subprocess.call(
            [sys.executable, "-m", module, *flags], env=environment, stdout=file, stderr=file
        )
    if status:
        last = "".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        raise ValueError(f"{ROWS[part]} failed, {last.removeprefix('error: ')}; see {log}")


def percent(share):
    """Formats a share of 1, or None."""
    return "–" if share is None else f"{100 * share:.1f}"


def table(args, out):
    """Formats what has been measured so far, in percent."""
    rows = []
    for part in args.parts:
        found = json.loads((out / part / MEASURED).read_text())
        if part == "keras_bt":
            found |= cost_of_ours(args)
        few, deviation = (percent(found[f"few_labels{end}"]) for end in ("", "_deviation"))
        accuracies = [percent(found[name]) for name in ("knn", "knn_whitened", "probe")]
        cost = ["–"] * 3
        if "epochs" in found:
            minutes = f"{found['seconds'] / 60:.1f}"
            cost = [str(found["epochs"]), f"{found['images/s']:,.0f}", minutes]
        rows.append([ROWS[part], *accuracies, f"{few} ± {deviation}", *cost])
    header = ["", "neighbors", "whitened", "probe", f"{args.few_labels} labels", "epochs"]
    return aligned([*header, "images/s", "minutes"], rows)


def main():
    """Runs the command."""
    command.run(make_all, FashionSettings)


if __name__ == "__main__":
    main()
