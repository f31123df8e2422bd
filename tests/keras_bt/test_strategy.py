import importlib
from types import SimpleNamespace
from unittest import mock

import pytest
import tensorflow as tf

from keras_bt.objectives import OneReplica
from keras_bt.strategy import choose_strategy, current_replicas, processors, several_workers
from keras_bt.strategy import tensorflow as strategy


def test_chooses_by_name():
    assert choose_strategy("one") is tf.distribute.get_strategy()
    assert choose_strategy("auto") is tf.distribute.get_strategy()  # there are no GPUs here
    mirrored = choose_strategy("mirrored")
    assert mirrored.num_replicas_in_sync == 2  # the two logical CPU devices of the tests
    assert choose_strategy("mirrored") is mirrored  # a second one would confuse TensorFlow


def test_what_there_is_not():
    names = "auto, one, mirrored, multiworker, tpu"
    with pytest.raises(ValueError, match=f"must be one of {names}. Received: .*horovod"):
        choose_strategy("horovod")
    with pytest.raises(ValueError, match="strategy=tpu needs a TPU"):
        choose_strategy("tpu")


def test_collectives_sum_and_gather_over_replicas():
    assert isinstance(current_replicas(), OneReplica)
    mirrored = choose_strategy("mirrored")

    @tf.function
    def on_each_replica():
        replicas = current_replicas()
        rank = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, "float32")
        rows = tf.fill([2, 3], rank)
        return replicas.sum(rows), replicas.gather(rows)

    sums, gathered = mirrored.run(on_each_replica)
    for copy in mirrored.experimental_local_results(sums):
        assert (copy.numpy() == 1).all()
    for copy in mirrored.experimental_local_results(gathered):
        assert copy.numpy()[:, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ("fpu avx512f avx512_bf16 amx_tile", "x86_64", True),
        ("fpu amx_bf16", "x86_64", True),
        ("fpu avx512f avx512bw amx_tile", "x86_64", False),
        ("fpu avx512_bf16", "aarch64", False),  # on which nothing was measured
        (None, "x86_64", False),
    ],
)
def test_cpus_with_bfloat16(flags, machine, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(
            f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: {flags}\nbugs\t: none\n"
        )
    monkeypatch.setattr(processors.platform, "machine", lambda: machine)
    assert processors.cpu_has_bfloat16(file) == expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 0), True), ("12.0", True), ((7, 5), False), ("7.5", False), ("gfx942", False)],
)
def test_gpus_with_bfloat16(capability, expected, monkeypatch):
    assert processors.gpu_has_bfloat16(capability) == expected
    # The first has it. What the CPU can do does not matter then.
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    details = {
        "first": {"compute_capability": (9, 0)},
        "second": {"compute_capability": capability},
    }
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    for of_the_cpu in (True, False):
        with mock.patch.object(strategy, "cpu_has_bfloat16", return_value=of_the_cpu):
            assert strategy.has_bfloat16(choose_strategy("one")) == expected


@pytest.mark.parametrize("of_the_cpu", [True, False])
def test_without_a_gpu_the_cpu_decides(of_the_cpu, monkeypatch):
    monkeypatch.setattr(strategy, "cpu_has_bfloat16", lambda: of_the_cpu)
    assert strategy.has_bfloat16(choose_strategy("one")) == of_the_cpu


TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
ONE = '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'
CHIEF = '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}'


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"TF_CONFIG": ONE}, False),
        ({"TF_CONFIG": TWO}, True),
        ({"TF_CONFIG": CHIEF}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
    ],
)
def test_auto_looks_for_workers(environment, several, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert several_workers() == several
    if several:
        with pytest.raises(ValueError, match="This runs in one process"):
            choose_strategy("auto", one_process=True)
    else:
        assert choose_strategy("auto", one_process=True) is tf.distribute.get_strategy()
        with pytest.raises(ValueError, match="strategy=multiworker needs several workers"):
            choose_strategy("multiworker")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("2", "srun must set SLURM_STEP_NODELIST"), ("x", "must be a number. Received: x")],
)
def test_what_slurm_should_have_set(tasks, message, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    with pytest.raises(ValueError, match=message):
        choose_strategy("auto")


def test_slurms_nodes_keep_their_order(monkeypatch):
    # As srun sets them; sorted by name, node10 would come before node2.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "5")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[2,10]")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "3,2")
    monkeypatch.setenv("SLURM_PROCID", "3")
    resolver = strategy._slurm()
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["node2:8888", "node2:8889", "node2:8890", "node10:8888", "node10:8889"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", 3)


@pytest.fixture
def jax_devices():
    pytest.importorskip("jax", reason="JAX is not installed: pip install 'keras_bt[jax]'")
    return importlib.import_module("keras_bt.strategy.jax")


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ({}, ("mirrored",), "must be one of auto, one; others are TensorFlow's. Received: .*mirr"),
        ({"TF_CONFIG": TWO}, ("auto", True), "This runs in one process: use --strategy=one"),
        ({"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}, ("auto", True), "This runs in one process"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ("auto",), "srun must set SLURM_STEP_NODELIST"),
        ({"TF_CONFIG": "{}"}, ("auto",), "TF_CONFIG must be JSON such as"),
    ],
)
def test_wrong_devices_of_jax(environment, arguments, message, jax_devices, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        jax_devices.choose_strategy(*arguments)


@pytest.mark.parametrize(
    ("workers", "message", "reported"),
    [
        (2, "UNKNOWN: Gloo all-reduce failed: Connection reset by peer\nand more", True),
        (1, "UNKNOWN: Gloo all-reduce failed", False),
        (2, "RESOURCE_EXHAUSTED: Out of memory", False),
    ],
)
def test_a_lost_process_of_jax(workers, message, reported, jax_devices, monkeypatch):
    errors = jax_devices.jax.errors
    monkeypatch.setattr(jax_devices, "worker_count", lambda _: workers)
    monkeypatch.setattr(jax_devices.atexit, "register", registered := mock.Mock())
    expected = OSError if reported else errors.JaxRuntimeError
    with pytest.raises(expected) as raised, jax_devices.lost_workers_reported(None):
        raise errors.JaxRuntimeError(message)
    assert registered.called == reported  # JAX's own end would wait for the lost one
    if reported:
        line = "Another worker has left or cannot be reached (UNKNOWN: Gloo all-reduce failed: "
        assert str(raised.value).startswith(line)
        assert "and more" not in str(raised.value)


@pytest.mark.parametrize(
    ("backend", "capabilities", "expected"),
    [
        ("tpu", [None], True),
        ("cpu", [None], False),
        ("gpu", ["9.0", "8.0"], True),
        ("gpu", ["9.0", "7.0"], False),
        ("gpu", ["gfx942"], False),
    ],
)
def test_bfloat16_on_jax(backend, capabilities, expected, jax_devices, monkeypatch):
    devices = [SimpleNamespace(compute_capability=c) for c in capabilities]
    monkeypatch.setattr(jax_devices.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax_devices.jax, "local_devices", lambda: devices)
    assert jax_devices.has_bfloat16(jax_devices.one_device()) == expected


def test_devices_of_jax_must_divide_the_batch(jax_devices):
    three = mock.Mock(num_replicas_in_sync=3)
    message = "must divide evenly across devices. Received: batch_size=32, devices=3"
    with pytest.raises(ValueError, match=message):
        jax_devices.distribute_batches(three, None, 32)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TF_CONFIG": TWO.replace('"index": 0', '"index": 1')}, ("a:1", 2, 1)),
        ({"TF_CONFIG": CHIEF.replace('"type": "chief"', '"type": "worker"')}, ("a:1", 2, 1)),
        (
            {
                "SLURM_STEP_NUM_TASKS": "5",
                "SLURM_STEP_NODELIST": "node[02,10-12],other",
                "SLURM_PROCID": "3",
            },
            ("node02:8888", 5, 3),
        ),
        (
            {
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_NODELIST": "one,two[3]",
                "SLURM_PROCID": "0",
            },
            ("one:8888", 2, 0),
        ),
    ],
)
def test_processes_of_jax_find_the_first(environment, expected, jax_devices, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax_devices, "_initialize", found := mock.Mock())
    jax_devices._join()
    assert found.call_args.args == expected
