"""The processes that run a program together, as TF_CONFIG or SLURM names them."""

import json
import os
from typing import Any

SLURM_PORT = 8888  # of a node's first task; the others count up from it


def several_workers() -> bool:
    """Returns whether TF_CONFIG or SLURM makes this process one of several workers.

    Raises:
        ValueError: if TF_CONFIG or SLURM's number of tasks cannot be understood.
    """
    if "TF_CONFIG" in os.environ:
        return len(addresses(tf_config())) > 1
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdecimal():
        raise ValueError(f"SLURM_STEP_NUM_TASKS must be a number. Received: {tasks}")
    return int(tasks) > 1


def tf_config() -> dict[str, Any]:
    """Returns TF_CONFIG as a dict, checked: TensorFlow's own errors about it are hard to read.

    Raises:
        ValueError: if it is not as TensorFlow wants it.
    """
    text = os.environ["TF_CONFIG"]
    rule = (
        'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}. '
    )
    try:
        config = json.loads(text)
        task = config["task"]
        config["cluster"][task["type"]][int(task["index"])]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{rule}Received: {text} ({error!r}).") from error
    return config


def addresses(config: dict[str, Any]) -> list[str]:
    """Returns HOST:PORT of each worker in TF_CONFIG, the chief first."""
    return [address for job in ("chief", "worker") for address in config["cluster"].get(job, [])]


def description(replicas: int, workers: int, kind: str) -> str:
    """Describes what a training runs on.

    >>> description(8, 2, "GPU")
    '8 replicas (2 workers with 4 GPUs each)'

    Args:
        replicas: devices that share each batch.
        workers: processes.
        kind: of the devices: "CPU", "GPU" or "TPU".
    """
    if replicas == 1:
        return f"one device ({kind})"
    if workers == 1:
        return f"{replicas} replicas ({kind}s of this machine)"
    each = replicas // workers
    return f"{replicas} replicas ({workers} workers with {each} {kind}{'s'[: each > 1]} each)"


def lost_worker(reason: str) -> OSError:
    """Returns the error of a process that has lost another.

    Args:
        reason: what the library that noticed says of it, or "".
    """
    return OSError(
        "Another worker has left or cannot be reached"
        + (f" ({reason})" if reason else "")
        + ". Start all workers again with the same commands: they go on from the newest checkpoint."
    )
