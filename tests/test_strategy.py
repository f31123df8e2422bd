import pytest
import tensorflow as tf

from keras_bt.objective import OneReplica
from keras_bt.strategy import choose_strategy, current_replicas


def test_chooses_by_name():
    assert choose_strategy("one") is tf.distribute.get_strategy()
    assert choose_strategy("auto") is tf.distribute.get_strategy()  # there are no GPUs here
    mirrored = choose_strategy("mirrored")
    assert mirrored.num_replicas_in_sync == 2  # the two logical CPU devices of the tests
    assert choose_strategy("mirrored") is mirrored  # a second one would confuse TensorFlow


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("horovod", "strategy must be one of auto, one, mirrored, multiworker, tpu. Received: .*horovod"),
        ("tpu", "strategy=tpu needs a TPU. Received: TPU_NAME=local"),
    ],
)
def test_what_there_is_not(name, message):
    with pytest.raises(ValueError, match=message):
        choose_strategy(name)


def test_collectives_sum_and_gather_over_replicas():
    assert isinstance(current_replicas(), OneReplica)
    strategy = choose_strategy("mirrored")

    @tf.function
    def on_each_replica():
        replicas = current_replicas()
        rank = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, "float32")
        rows = tf.fill([2, 3], rank)
        return replicas.sum(rows), replicas.gather(rows)

    sums, gathered = strategy.run(on_each_replica)
    for copy in strategy.experimental_local_results(sums):
        assert (copy.numpy() == 1).all()
    for copy in strategy.experimental_local_results(gathered):
        assert copy.numpy()[:, 0].tolist() == [0, 0, 1, 1]
