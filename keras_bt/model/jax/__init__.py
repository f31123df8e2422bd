"""What the models need of JAX: steps on a state, compiled for all devices at once."""
