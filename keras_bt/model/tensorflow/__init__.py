"""What the models need of TensorFlow: steps on the replicas of `tf.distribute`, fused layers."""
