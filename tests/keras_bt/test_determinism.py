"""What `--deterministic` promises, where TensorFlow's own op determinism is not enough."""

import subprocess
import sys

import pytest
from places import ROOT

LATE_READERS = """
import time
import keras, numpy as np, tensorflow as tf
from keras_bt.optimizer import LARS
from trainers.runs import running

running.make_deterministic(True, "one")
random = np.random.default_rng(0)
parts = [tf.constant(random.normal(size=1000), tf.float32) for _ in range(2)]

def updated(late):
    # Two uses of a variable give two addends of its gradient, which others read as well: before
    # the optimizer adds them up, or (after half a second) when it has.
    def wait(x):
        time.sleep(0.5)
        return x

    @tf.function
    def step(x, y):
        x, y = tf.sin(x), tf.sin(y)
        begin = [tf.numpy_function(wait, [x[:1] * 2], tf.float32)] if late else []
        with tf.control_dependencies(begin):
            readers = tf.exp(x), tf.exp(y)
        with tf.control_dependencies([] if late else readers):
            optimizer.apply_gradients([(x + y, variable)])
        return readers

    variable = keras.Variable(np.zeros(1000, "float32"))
    optimizer = LARS(1.0)
    optimizer.build([variable])
    optimizer.momenta[0].assign(np.random.default_rng(1).normal(size=1000))
    step(*parts)
    return variable.numpy()

print("late readers:", int(np.sum(updated(late=False) != updated(late=True))))
"""

ORDER_LEFT_OPEN = """
import collections
import keras, tensorflow as tf
from keras_bt import model, optimizer
from keras_bt.resnet import STAGES, resnet
from tensorflow.python.eager import context
from trainers.runs import running

running.make_deterministic(True, "one")
keras.utils.set_random_seed(0)
STAGES[18] = (1, 1, 1, 1), False  # which are traced in half of the time
backbone = resnet(18, stem="small", width=4, input_shape=(16, 16, 3))
x = backbone.output  # three readers: their gradients make such a sum
x = keras.layers.Add()([keras.layers.Activation(f)(x) for f in ("relu", "tanh", "sigmoid")])
backbone = keras.Model(backbone.input, x)
remat = REMAT
twins = model.BarlowTwins(backbone, model.projector((8, 8), 32), remat=remat)
twins.compile(optimizer.LARS(0.1))
twins.optimizer.build(twins.trainable_variables)
views = tf.zeros((4, 16, 16, 3))
step = tf.function(lambda a, b: twins.train_step((a, b)))
context.context().enable_graph_collection()
step(views, views)
graphs = context.context().export_run_metadata().function_graphs

SAME_BUFFER = "Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient"

def is_free(name, producers, readers):
    # Whether nothing but the sum can hold this addend: then the sum begins with it every time.
    while readers[name] == 1:
        producer = producers[name.split(":")[0]]
        if producer.op not in SAME_BUFFER:
            return producer.op not in ("_Arg", "Const", "ReadVariableOp")
        name = producer.input[0]
    return False

found = sums = 0
for graph in graphs:
    nodes = graph.post_optimization_graph.node
    producers = {node.name: node for node in nodes}
    readers = collections.Counter(name for node in nodes for name in node.input)
    several = [node for node in nodes if node.op == "AddN" and node.attr["N"].i > 2]
    sums += len(several)
    found += sum(not is_free(node.input[0], producers, readers) for node in several)
assert sums, "no such sums: this test looks at the wrong graph"
print(f"sums with {remat=}:", found)
"""


@pytest.fixture(scope="module")
def found():
    """What a process prints, of its own because determinism cannot be switched off again."""
    both = [ORDER_LEFT_OPEN.replace("REMAT", str(remat)) for remat in (False, True)]
    command = [sys.executable, "-c", "\n".join([LATE_READERS, *both])]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_an_update_does_not_depend_on_who_else_reads_the_gradients(found):
    assert "late readers: 0" in found


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_the_training_step_has_no_sum_whose_order_is_left_open(remat, found):
    assert f"sums with {remat=}: 0" in found
