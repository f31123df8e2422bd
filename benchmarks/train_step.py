"""Whole training steps beside PyTorch: `python -m benchmarks.train_step`.

A step is two forward passes, the objective, the backward pass and the LARS update, on views in
memory. Here it is a step of `model.fit`, overhead included; in PyTorch it is a step of the
published code (`benchmarks.torch_barlow_twins`) on one device, with the same number of threads. On
JAX Keras compiles the step on CPUs as well. The
contestants, which have the same number of parameters, take turns, each turn in its own process, so
that only one is in memory. Nothing else should be running on the machine.

Memory is the peak of the process, Python and libraries included, as the system reports it
(`getrusage`); on a GPU it is the peak of the framework's allocator.
"""

import dataclasses
import functools
import importlib.util
import itertools
import os
import statistics
import sys
import time

import numpy as np

from benchmarks import tensorflow_device
from benchmarks.report import (
    MOST_THREADS,
    aligned,
    available_cores,
    machine,
    peak_gib,
    spread,
)
from benchmarks.turns import in_turns, own_process
from trainers.cli import command
from trainers.runs.fields import Settings, setting


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train: a ResNet, a projector of three layers this wide, and batch sizes."""

    depth: int
    stem: str
    image_size: int
    projector: int
    batch_sizes: tuple


NETWORKS = {
    "resnet50": Network(50, "imagenet", 224, 8192, (16, 32)),
    "resnet18": Network(18, "small", 32, 2048, (256,)),
}
PUBLISHED = "PyTorch, as published"
# Name: framework, precision, and options of `KerasStep`, `JaxStep` or `TorchStep`.
CONTESTANTS = {
    "keras_bt": ("keras", "float32", {}),
    "keras_bt, bfloat16": ("keras", "bfloat16", {}),
    "keras_bt, JAX": ("jax", "float32", {}),
    "keras_bt, JAX, bfloat16": ("jax", "bfloat16", {}),
    "keras_bt, BatchNormalization of Keras": ("keras", "float32", {"fused": False}),
    "keras_bt, XLA": ("keras", "float32", {"jit_compile": True}),
    PUBLISHED: ("torch", "float32", {}),
    "PyTorch, channels last": ("torch", "float32", {"channels_last": True}),
    "PyTorch, channels last, bfloat16": ("torch", "bfloat16", {"channels_last": True}),
}
RATE = 1e-3  # small, because random images teach nothing
_GIB = 2**30


def random_views(network, batch_size):
    """Draws two float32 arrays (n, h, w, 3)."""
    random = np.random.default_rng(0)
    shape = (batch_size, network.image_size, network.image_size, 3)
    return [random.standard_normal(shape, np.float32) for _ in range(2)]


class KerasStep:
    """Steps of `BarlowTwins.fit`."""

    def __init__(
        self, network, batch_size, width, precision, threads, jit_compile="auto", fused=True
    ):
        self.gpu = self.prepare(threads)
        import keras

        from keras_bt import LARS, BarlowTwins, projector, resnet

        if precision != "float32":
            keras.config.set_dtype_policy(f"mixed_{precision}")
        side = network.image_size
        backbone = resnet(network.depth, network.stem, width, (side, side, 3))
        head = projector([network.projector] * 3, input_dim=backbone.output_shape[-1])
        self.model = BarlowTwins(backbone, head)
        if not fused:  # Keras's own BatchNormalization
            for layer in self.model._flatten_layers():
                vars(layer).pop("call", None)
        self.parameters = sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)
        # Keras's "auto" compiles nothing on a CPU and everything it can on a GPU.
        self.model.compile(LARS(RATE), jit_compile=jit_compile)
        self._batches = self.batches(random_views(network, batch_size))

    def prepare(self, threads):
        """Prepares the backend; returns the GPU's name, or None."""
        return tensorflow_device.prepare(threads)

    def batches(self, views):
        """Returns the same batch for ever."""
        import tensorflow as tf

        # With nothing to tune, the end of a data set waits seconds for the tuner's next turn.
        options = tf.data.Options()
        options.autotune.enabled = False
        views = tuple(map(tf.constant, views))
        return tf.data.Dataset.from_tensors(views).repeat().with_options(options)

    def run(self, steps):
        """Takes this many steps."""
        self.model.fit(self._batches, steps_per_epoch=steps, shuffle=False, verbose=0)

    def peak_bytes(self):
        """Returns the peak memory of the GPU."""
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]


class JaxStep(KerasStep):
    """The same on JAX, in a process that has not imported Keras."""

    def prepare(self, threads):
        """Prepares the backend; returns the GPU's name, or None."""
        os.environ |= {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if hasattr(os, "sched_setaffinity"):  # JAX has a thread for every core it may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        import jax

        self._device = jax.devices()[0]
        return None if self._device.platform == "cpu" else self._device.device_kind

    def batches(self, views):
        """Returns the same batch for ever."""
        return (tuple(views) for _ in itertools.count())

    def peak_bytes(self):
        """Returns the peak memory of the GPU."""
        return self._device.memory_stats()["peak_bytes_in_use"]


class TorchStep:
    """Steps of the published training loop."""

    def __init__(self, network, batch_size, width, precision, threads, channels_last=False):
        import torch

        from benchmarks import torch_barlow_twins as published

        torch.set_num_threads(threads)
        self._torch, self._precision = torch, precision
        self.gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self._device = "cuda" if self.gpu else "cpu"
        backbone = published.resnet(*published.DEPTHS[network.depth], network.stem, width)
        self.model = published.BarlowTwins(backbone, [network.projector] * 3).to(self._device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model.backbone.to(memory_format=layout)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._optimizer = published.LARS(self.model.parameters(), lr=RATE)
        self._views = [
            torch.from_numpy(view).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            for view in random_views(network, batch_size)
        ]

    def run(self, steps):
        """Takes this many steps."""
        torch = self._torch
        for _ in range(steps):
            views = [view.to(self._device, non_blocking=True) for view in self._views]
            self._optimizer.zero_grad()
            half = self._precision == "bfloat16"
            with torch.autocast(self._device, torch.bfloat16, enabled=half):
                loss = self.model(*views)
            loss.backward()
            self._optimizer.step()
        if self.gpu:
            torch.cuda.synchronize()

    def peak_bytes(self):
        """Returns the peak memory of the GPU."""
        return self._torch.cuda.max_memory_allocated()


def new_step(contestant, network, batch_size, width, threads):
    """Builds a contestant, in a process of its own."""
    framework, precision, options = CONTESTANTS[contestant]
    kind = {"keras": KerasStep, "jax": JaxStep, "torch": TorchStep}[framework]
    return kind(network, batch_size, width, precision, threads, **options)


def timed(step, batch_size, steps):
    """Trains; returns images per second, peak GiB, number of parameters and the device."""
    step.run(1)  # traces, tunes, allocates
    started = time.perf_counter()
    step.run(steps)
    seconds = time.perf_counter() - started
    return {
        "images/s": steps * batch_size / seconds,
        "GiB": step.peak_bytes() / _GIB if step.gpu else peak_gib(),
        "parameters": step.parameters,
        "device": step.gpu or "CPU",
    }


def measure(contestant, network, batch_size, width, threads, steps):
    """Builds a contestant and trains; returns what `timed` does."""
    return timed(new_step(contestant, network, batch_size, width, threads), batch_size, steps)


def network_of(args, name):
    """Returns the network of that name, changed as the flags say."""
    changes = {
        "image_size": args.image_size,
        "projector": args.projector,
        "batch_sizes": args.batch_sizes or None,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(NETWORKS[name], **changes)


def measured(args, network, batch_size, contestants):
    """Measures in turns; returns, by contestant, a list of what each round measured."""

    def turn(name):
        print(f"ResNet-{network.depth}, batch {batch_size}: {name}", file=sys.stderr, flush=True)
        with own_process() as call:  # a new one, so that only one contestant is in memory
            return call(measure, name, network, batch_size, args.width, args.threads, args.steps)

    turns = {name: functools.partial(turn, name) for name in contestants}
    results = in_turns(turns, args.rounds)
    counts = {result["parameters"] for answers in results.values() for result in answers}
    if len(counts) > 1:
        raise RuntimeError(f"The contestants train different numbers of parameters: {counts}.")
    return results


def rows(batch_size, results):
    """Formats the table's rows, one per contestant."""
    speeds = {name: [turn["images/s"] for turn in turns] for name, turns in results.items()}
    published = statistics.median(speeds[PUBLISHED]) if PUBLISHED in speeds else None
    return [
        [
            str(batch_size),
            name,
            spread(values, digits=2),
            f"{statistics.median(values) / published:.2f}" if published else "–",
            f"{max(turn['GiB'] for turn in results[name]):.1f}",
        ]
        for name, values in speeds.items()
    ]


def chosen(args):
    """Returns the requested contestants that are available."""
    names = list(CONTESTANTS)
    if not args.variants:
        names = [name for name in names if not {"jit_compile", "fused"} & set(CONTESTANTS[name][2])]
    if args.float32_only:
        names = [name for name in names if CONTESTANTS[name][1] == "float32"]
    for package, called in {"torch": "PyTorch", "jax": "JAX"}.items():
        if importlib.util.find_spec(package) is None:
            missing = f"{called} is left out, as it is not installed: pip install {package}."
            print(missing, file=sys.stderr)
            names = [name for name in names if CONTESTANTS[name][0] != package]
    return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStepSettings(Settings):
    """The flags."""

    networks: tuple[str, ...] = setting(
        tuple(NETWORKS), "Networks to train.", choices=tuple(NETWORKS)
    )
    batch_sizes: tuple[int, ...] = setting(
        (), "Images per batch. Default: the network's own.", least=2, most=2**20
    )
    image_size: int | None = setting(
        None, "Image side in pixels. Default: the network's own.", least=1, most=4096
    )
    projector: int | None = setting(
        None, "Width of the projector's layers. Default: the network's own.", least=1, most=2**20
    )
    width: int = setting(64, "Width of the ResNet.", least=1, most=4096)
    threads: int = setting(
        available_cores(), "Threads of each contestant.", least=1, most=MOST_THREADS
    )
    rounds: int = setting(3, "Measurements of each contestant.", least=1)
    steps: int = setting(3, "Steps per measurement.", least=1)
    variants: bool = setting(False, "Also measure variants that are not the default here.")
    float32_only: bool = setting(False, "Leave out bfloat16.")


def print_measured(args):
    """Measures and prints."""
    contestants = chosen(args)
    print(machine(args.threads))
    for network in (network_of(args, name) for name in args.networks):
        lines = []
        for batch_size in network.batch_sizes:
            results = measured(args, network, batch_size, contestants)
            lines += rows(batch_size, results)
        devices = {turns[0]["device"] for turns in results.values()}
        count = next(iter(results.values()))[0]["parameters"]
        print(
            f"\nResNet-{network.depth}, {network.stem} stem, {network.image_size} pixels, "
            f"projector {'-'.join([str(network.projector)] * 3)}, {count / 1e6:.1f} million "
            f"parameters, on: {', '.join(sorted(devices))}; float32 unless said otherwise\n"
        )
        header = ["batch", "step", "images/s", "× published", "GiB at the peak"]
        print(aligned(header, lines), flush=True)


def main():
    """Runs the command."""
    command.run(print_measured, TrainStepSettings)


if __name__ == "__main__":
    main()
