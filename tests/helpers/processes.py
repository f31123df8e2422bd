"""Starts programs as several workers on this machine; what killed ones leave."""

import json
import os
import socket
import subprocess
import sys

from places import ROOT

from keras_bt.files import partial_of


def abandoned(path):
    """The path that a process which is gone wrote to instead of `path`."""
    return str(partial_of(path)).replace(f"-{os.getpid()}-", "-999999999-")


def free_ports(count):
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def tf_configs(count):
    """For each worker the environment that makes it one of `count`."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
            )
        }
        for i in range(count)
    ]


def on_jax(devices=1):
    """The environment of a process with so many devices, which compiles in a third of the time."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_use_fusion_emitters=false"
    quick = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return {"KERAS_BACKEND": "jax", **quick}


def start(arguments, environment=None):
    """Starts Python with these arguments, from the folder of the project."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CONFIG", "SLURM"))}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, status=0, timeout=300):
    """Waits for a program, checks its exit status, and returns what it printed."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError("timed out:\n" + "\n".join(process.communicate())) from None
    assert process.returncode == status, f"status {process.returncode}\n{output}\n{errors}"
    return output if status == 0 else errors
