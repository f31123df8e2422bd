"""All that one GPU is to show, in about ten minutes: `python -m benchmarks.gpu --out=DIR`.

- `step_…`: training steps of `benchmarks.train_step`'s contestants, ResNet-50, 224 × 224, projector
  8192-8192-8192, batch 256, with the peak of memory; in bfloat16 also a profile of three steps.
- `pretrain_…`: `trainers.pretrain` with the ImageNet recipe from synthetic JPEG files, bfloat16,
  views on the device: images/s after the first epoch, and the seconds from the start of the command
  to its first line of metrics, a few steps after the first. `pretrain_jax_again` is a second start,
  which finds what JAX has compiled.
- `views_…`: milliseconds to make the device's part of both views of a batch.
- `tests_…`: tests of the objective and of LARS; on JAX, the errors beside PyTorch's results.

Every part is a process of its own with a time limit. After each, everything so far is written to
DIR/results.json and DIR/results.txt; what the parts print is in DIR/logs, profiles (for TensorBoard
or Perfetto) are in DIR/profiles. A part that fails is noted, and the next begins. The same command
again measures what is missing. `--tiny` shows in minutes that it works, on CPUs too.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import tensorflow_device, train_step
from benchmarks.report import PACKAGES, available_cores, machine
from trainers.cli import command
from trainers.runs.fields import Settings, setting

ROOT = pathlib.Path(__file__).parent.parent
# As in `train_step.CONTESTANTS`; the most informative first.
STEPS = {
    "step_jax_bfloat16": ("jax", "bfloat16", {}),
    "step_tensorflow_bfloat16": ("keras", "bfloat16", {}),
    "step_torch_bfloat16": ("torch", "bfloat16", {"channels_last": True}),
    "step_tensorflow_bfloat16_no_xla": ("keras", "bfloat16", {"jit_compile": False}),
    "step_jax_float32": ("jax", "float32", {}),
    "step_torch_float32": ("torch", "float32", {}),
    "step_tensorflow_float32": ("keras", "float32", {}),
}
PRETRAIN = ("pretrain_jax", "pretrain_jax_again", "pretrain_tensorflow")
VIEWS = ("views_jax", "views_tensorflow")
TESTS = ("tests_tensorflow", "tests_jax")
PARTS = (*PRETRAIN, *list(STEPS)[:3], *VIEWS, *TESTS, *list(STEPS)[3:])
TESTED = ("tests/keras_bt/objectives/test_barlow_twins.py", "tests/keras_bt/test_optimizer.py")
_PROFILED = 3  # steps


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured; `network` is of `benchmarks.train_step`."""

    network: train_step.Network
    width: int
    batch_size: int
    steps: int
    epochs: int
    images: int
    log_every: int


FULL = Size(train_step.NETWORKS["resnet50"], 64, 256, 15, 6, 8192, 8)
TINY = Size(train_step.Network(18, "small", 32, 64, ()), 8, 8, 2, 3, 64, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuSettings(Settings):
    """The flags."""

    out: str = setting("gpu", "Folder for everything that is written.")
    parts: tuple[str, ...] = setting((), "Parts to measure. Default: all.", choices=tuple(PARTS))
    limit: float = setting(240, "Seconds that a part may take.", above=0)
    minutes: float = setting(60, "Minutes after which no further part begins.", above=0)
    tiny: bool = setting(False, "Small sizes, to see that it works.")
    alone: bool = setting(False, "Measure one part in this process, and print lines of JSON.")

    def __post_init__(self):
        super().__post_init__()
        if self.alone and len(self.parts) != 1:
            raise ValueError(
                "--alone measures one part, given by --parts. "
                f"Received: --parts={','.join(self.parts)}"
            )


# What a process measures by itself, in lines of JSON.


def print_step(name, size, out):
    """Measures steps of a contestant; in bfloat16 also profiles some."""
    train_step.CONTESTANTS[name] = STEPS[name]
    framework, precision, _ = STEPS[name]
    cores = available_cores()
    step = train_step.new_step(name, size.network, size.batch_size, size.width, cores)
    started = time.perf_counter()
    step.run(1)
    print_line({"seconds of the first step": time.perf_counter() - started})
    print_line(train_step.timed(step, size.batch_size, size.steps))
    if precision != "bfloat16" or framework == "torch":
        return
    if framework == "jax":
        from jax.profiler import trace as profile
    else:
        import tensorflow as tf

        profile = tf.profiler.experimental.Profile
    folder = out / "profiles" / name
    with profile(str(folder)):
        step.run(_PROFILED)
    print_line({"ms per step": busiest(folder)})


def busiest(folder, most=15):
    """Returns the kernels that took longest in a profile, with their ms per step."""
    from jax.profiler import ProfileData  # reads TensorFlow's as well

    path = max(folder.rglob("*.xplane.pb"))  # of the last time
    planes = list(ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")] or planes
    lines = [line for plane in devices for line in plane.lines]
    totals = collections.Counter()
    # A GPU's streams hold its kernels; other lines repeat them under the names of operations.
    for line in [line for line in lines if line.name.startswith("Stream")] or lines:
        for event in line.events:
            totals[event.name[:80]] += event.duration_ns / 1e6 / _PROFILED
    return dict(totals.most_common(most))


def print_views(name, size, out):
    """Measures the part of the views that the device makes of crops, compiled."""
    tensorflow_device.prepare(available_cores())  # on JAX it only draws
    import keras
    import tensorflow as tf

    from keras_bt import augmentations

    side, n = size.network.image_size, size.batch_size
    views = [view.rest for view in augmentations.barlow_twins_views(side)]
    random = np.random.default_rng(0)
    seeds = random.integers(0, 2**31, (n, 2))
    crops = [random.integers(0, 256, (n, side, side, 3), np.uint8) for _ in views]
    draws = [keras.tree.map_structure(np.array, view.draw(seeds)) for view in views]
    crops, draws = keras.tree.map_structure(keras.ops.convert_to_tensor, (crops, draws))

    def apply(crops, draws):
        return [view.apply(*batch) for view, *batch in zip(views, crops, draws, strict=True)]

    if name == "views_jax":
        import jax

        compiled = jax.jit(apply)
    else:
        compiled = tf.function(apply, jit_compile=True)

    def seconds():
        started = time.perf_counter()
        for view in compiled(crops, draws):
            np.asarray(view[0, 0, 0])  # waits
        return time.perf_counter() - started

    seconds()  # compiles
    times = [1000 * seconds() for _ in range(size.steps)]
    print_line({"ms": statistics.median(times), "views": 2 * n})


def print_tests(name, size, out):
    """On JAX: the errors of the loss, its gradients and LARS beside PyTorch's results."""
    sys.path.append(str(ROOT / "tests" / "helpers"))
    import backend_run

    errors = collections.defaultdict(float)
    for fixture in ("loss", "lars"):
        with np.load(ROOT / "tests" / "fixtures" / f"{fixture}.npz") as arrays:
            for key, value in getattr(backend_run, f"{fixture}_of_fixture")():
                _, case, *_, what = key.split("/")
                lars = fixture == "lars"
                expected = arrays[key.removeprefix("lars/") if lars else f"{case}/{what}"]
                error = np.linalg.norm(value - expected) / max(np.linalg.norm(expected), 1e-30)
                kind = "LARS" if lars else what
                errors[kind] = max(errors[kind], error)
    print_line({f"error of {kind}": float(value) for kind, value in errors.items()})


def print_line(measured):
    """Prints what was measured, for the process that waits for it."""
    print(json.dumps(measured), flush=True)


# What the command does around these processes.


def write_jpegs(count, folder):
    """Writes JPEG files of 500 × 375 pixels, all different."""
    with multiprocessing.Pool() as pool:
        pool.map(functools.partial(_write_jpeg, folder), range(count), 64)


def _write_jpeg(folder, number):
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + random.integers(-12, 12, (375, 500, 1))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    image.save(f"{folder}/{number:05d}.jpg", quality=90)


def pretrain_command(size, photographs, workdir):
    """Returns the command that pretrains with the ImageNet recipe, without pauses to measure."""
    network = size.network
    return [
        *(sys.executable, "-m", "trainers.pretrain"),
        f"--flagfile={ROOT / 'trainers' / 'recipes' / 'imagenet.flags'}",
        *(f"--data=folder:{photographs}", f"--workdir={workdir}"),
        *(f"--backbone=resnet{network.depth}", f"--stem={network.stem}", f"--width={size.width}"),
        f"--image_size={network.image_size}",
        f"--projector={'-'.join([str(network.projector)] * 3)}",
        *(f"--batch_size={size.batch_size}", f"--epochs={size.epochs}", "--warmup_epochs=1"),
        *("--precision=bfloat16", "--augment_on=device", f"--log_every={size.log_every}"),
        *("--monitor_every=0", "--noevaluate", f"--checkpoint_every={size.epochs}"),
    ]


def metrics_of(workdir):
    """Returns the lines of metrics that a run has written so far."""
    with contextlib.suppress(OSError):
        text = (workdir / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return []


def of_metrics(lines, batch_size, started):
    """Returns what a run's lines of metrics say of its speed; `started` is the time it began."""
    found = {f"seconds to step {lines[0]['step']}": lines[0]["time"] - started}
    epochs = collections.defaultdict(list)
    for line in lines:
        epochs[line["epoch"]].append((line["step"], line["time"]))
    rates = [
        batch_size * (steps[-1] - steps[0]) / (times[-1] - times[0])
        for steps, times in (zip(*epochs[epoch], strict=True) for epoch in sorted(epochs)[1:])
        if len(steps) > 1
    ]
    return found | ({"images/s": statistics.median(rates)} if rates else {})


def command_of(name, args, size, shared):
    """Returns the command that measures a part, and what its environment needs."""
    backend = {"KERAS_BACKEND": "jax" if "jax" in name else "tensorflow"}
    if name in PRETRAIN:
        argv = pretrain_command(size, shared / "photographs", shared / name)
        return argv, {**backend, "JAX_COMPILATION_CACHE_DIR": str(shared / "cache")}
    if name == "tests_tensorflow":
        return [sys.executable, "-m", "pytest", "-q", "-n0", *TESTED], backend
    argv = [sys.executable, "-m", "benchmarks.gpu", "--alone", f"--parts={name}"]
    argv += [f"--out={args.out}", *["--tiny"] * args.tiny]
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    return argv, {**backend, **environment}


def measured(name, args, size, shared):
    """Measures a part in a process of its own; returns what it found, an "error" included."""
    argv, environment = command_of(name, args, size, shared)
    environment = {**os.environ, **environment}
    if "torch" in name:
        environment.pop("LD_LIBRARY_PATH", None)  # may lead to TensorFlow's libraries
    last = 1 if name == "pretrain_jax_again" else size.epochs * (size.images // size.batch_size)
    log = pathlib.Path(args.out) / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    began, started, lines = time.monotonic(), time.time(), []  # lines say the time of day
    with log.open("w") as file:
        process = subprocess.Popen(
            argv, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() < began + args.limit:
                lines = metrics_of(shared / name)
                if lines and lines[-1]["step"] >= last:
                    break  # what follows, exports and pictures, is not measured
                time.sleep(0.2)
            status = process.poll()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text(errors="replace")
    found = of_metrics(lines, size.batch_size, started) if lines else {}
    for line in re.findall(r"^\{.*\}$", text, re.MULTILINE):
        found |= json.loads(line)
    if name == "tests_tensorflow":  # such as: 21 failed, 33 passed in 41.70s
        summary = re.findall(r"^.* in [\d.]+s.*$", text, re.MULTILINE)[-1:]
        found |= {what: int(n) for n, what in re.findall(r"(\d+) ([a-z]+)", "".join(summary))}
    if not (status == 0 or "failed" in found or (lines and lines[-1]["step"] >= last)):
        why = f"not done in {args.limit:g} s" if status is None else f"exit status {status}"
        told = "".join(text.strip().splitlines()[-1:])
        found["error"] = f"{why}; its last line: {told[:200]}"
    return found | {"seconds in all": time.monotonic() - began}


def readable(results):
    """Formats the results: a line for each part, then the busiest kernels of the profiles."""
    lines, kernels = [], []
    for name, found in results.items():
        figures = [
            f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in found.items()
            if not isinstance(value, dict)
        ]
        lines.append(f"{name:{max(map(len, PARTS))}}  {'; '.join(figures)}")
        for key, value in found.items():
            if isinstance(value, dict):
                kernels.append(f"\n{name}, {key}:")
                kernels += [f"{number:10.3f}  {kernel}" for kernel, number in value.items()]
    return "\n".join([*lines, *kernels, ""])


def measure_all(args):
    """Measures the parts that are missing, and writes all after each."""
    size, out = TINY if args.tiny else FULL, pathlib.Path(args.out)
    if args.alone:
        (name,) = args.parts
        kinds = {"step": print_step, "views": print_views, "tests": print_tests}
        kinds[name.partition("_")[0]](name, size, out)
        return
    began, path = time.monotonic(), out / "results.json"
    with command.mistakes, tempfile.TemporaryDirectory() as folder:
        shared = pathlib.Path(folder)
        results = json.loads(path.read_text()) if path.exists() else {}
        missing = [name for name in args.parts or PARTS if "error" in results.get(name, ["error"])]
        if "pretrain_jax_again" in missing:  # only after a first start
            missing = list(dict.fromkeys(["pretrain_jax", *missing]))
        if set(PRETRAIN).intersection(missing):
            (shared / "photographs").mkdir()
            write_jpegs(size.images, shared / "photographs")
        with command.quiet_start():  # after the processes that write
            from keras_bt.files import whole
        print(heading := machine(packages=(*PACKAGES, "jax")), flush=True)
        for name in missing:
            if time.monotonic() > began + 60 * args.minutes:
                print(f"{name} and what follows is left out: --minutes={args.minutes:g} are over")
                break
            results[name] = measured(name, args, size, shared)
            with whole(path) as partial:
                partial.write_text(json.dumps(results, indent=1))
            with whole(out / "results.txt") as partial:
                partial.write_text(f"{heading}\n\n{readable(results)}")
            print(readable({name: results[name]}), end="", flush=True)


def main():
    """Runs the command."""
    command.run(measure_all, GpuSettings)


if __name__ == "__main__":
    main()
