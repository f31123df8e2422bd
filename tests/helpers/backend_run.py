"""What the models compute on the backend of KERAS_BACKEND: a program, for `test_backends.py`.

    KERAS_BACKEND=jax python tests/helpers/backend_run.py OUT.npz TASK …

The tests call the same functions on TensorFlow, and compare. Without TensorFlow in `sys.modules`
nothing may need it, so that on JAX the models work where it is not installed.
"""

import functools
import os
import sys
import tempfile

if __name__ == "__main__":
    sys.modules["tensorflow"] = None  # to import it is an error

import keras
import numpy as np
from keras import ops
from oracles import load_formula_weights, weights_formula
from places import FIXTURES

import keras_bt
from keras_bt import LARS, BarlowTwins, Siamese, projector, resnet, warmup_cosine
from keras_bt import objectives as family

BATCH, STEPS, SIDE = 32, 5, 16
FORMS = ("correlation", "gram")


def pairs():
    """Views of related images for all steps, float32 (2, STEPS, BATCH, SIDE, SIDE, 3)."""
    rng = np.random.default_rng(0)
    shape = (STEPS, BATCH, SIDE, SIDE, 3)
    same = rng.normal(size=(STEPS, BATCH, 1, 1, 3)) + rng.normal(size=shape)
    return (same + 0.3 * rng.normal(size=(2, *shape))).astype("float32")


def same_start(*networks):
    """Gives networks weights that are the same on both backends, whose initializers differ."""
    rng = np.random.default_rng(0)
    for network in networks:
        for v in network.weights:
            noise = rng.normal(size=v.shape)
            if v.name == "kernel":
                v.assign(noise * np.sqrt(2 / np.prod(v.shape[:-1])))
            elif v.name in ("gamma", "beta"):
                v.assign((v.name == "gamma") + 0.1 * noise)
    return networks


def smooth_network(filters=(16,), regularizer=None):
    """Small, and without the kinks of a ReLU, whose flips are noise on top of what is compared."""
    x = images = keras.layers.Input((SIDE, SIDE, 3))
    for count in filters:
        x = keras.layers.Conv2D(
            count, 3, strides=2, use_bias=False, kernel_regularizer=regularizer
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.Activation("softplus")(x)
    x = keras.layers.Add()([x, keras.layers.Activation("tanh")(x)])  # a block, for `remat`
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def twins(backbone=smooth_network, policy="float32", optimizer=None, compiling=(), **arguments):
    """A compiled model with the same start on both backends."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    backbone = backbone()
    head = projector((32, 48), input_dim=backbone.output_shape[-1])
    model = BarlowTwins(*same_start(backbone, head), **arguments)
    rate = warmup_cosine(0.5, 20, 2)
    model.compile(optimizer or LARS(rate, weight_decay=1e-4), **dict(compiling))
    keras.config.set_dtype_policy(before)
    return model


def take_steps(model, batches):
    """Trains a step on each batch, and returns what `fit` reports of each."""
    logs = []
    for a, b in batches:
        history = model.fit(a, b, batch_size=len(a), shuffle=False, verbose=0).history
        logs.append({name: value[0] for name, value in history.items()})
    return {name: np.array([one[name] for one in logs]) for name in logs[0]}


def state(model):
    """All weights, statistics and variables of the optimizer, in order."""
    variables = [*model.weights, *model.optimizer.variables]
    return {f"{i:03}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}


def trained(name, model, measured=False):
    """Trains five steps; the losses, the weights, and what they give in inference mode."""
    batches = list(zip(*pairs(), strict=True))
    for metric, values in take_steps(model, batches).items():
        yield f"{name}/logs/{metric}", values
    for variable, value in state(model).items():
        yield f"{name}/state/{variable}", value
    if not measured:  # which compiles two more programs
        return
    evaluated = model.evaluate(*batches[0], batch_size=BATCH, verbose=0, return_dict=True)
    for metric, value in evaluated.items():
        yield f"{name}/evaluated/{metric}", value
    yield f"{name}/features", model.predict(batches[0][0], verbose=0)


def smallest():
    """The loss of a few embeddings."""
    import jax

    za, zb = pairs()[:, 0, :, 0, 0]
    yield "loss", np.asarray(jax.jit(keras_bt.barlow_twins_loss)(za, zb))
    for form in FORMS:
        loss = functools.partial(keras_bt.barlow_twins_loss, form=form)
        lines = jax.jit(jax.grad(loss, (0, 1))).lower(za, zb).as_text().splitlines()
        yield f"products/{form}", [line for line in lines if "dot_general" in line]


def kinds():
    """Objectives and models, on a network that compiles soon."""
    network = functools.partial(smooth_network, (8, 16), "l2")
    deeper = twins(network, objective=family.VICReg(), remat=True)
    yield from trained("vicreg, remat", deeper, measured=True)
    mixed = family.MixedBarlowTwins()
    yield from trained("mixed", twins(objective=mixed, optimizer=keras.optimizers.Adam(1e-3)))
    yield from trained("infonce", twins(objective=family.InfoNCE()))
    backbone, head = same_start(smooth_network(), projector((32, 16), input_dim=16))
    model = Siamese(backbone, head)
    model.compile(LARS(0.2))
    batches = [(a, b, np.arange(BATCH) % 2) for a, b in zip(*pairs(), strict=True)]
    logs = [model.train_on_batch(*batch, return_dict=True) for batch in batches]
    for metric in logs[0]:
        yield f"siamese/logs/{metric}", np.array([one[metric] for one in logs])
    model.calibrate(0.5)
    for variable, value in state(model).items():
        yield f"siamese/state/{variable}", value
    yield "siamese/distances", ops.convert_to_numpy(model.distance(*batches[0][:2]))


def fixtures():
    """What PyTorch computed of the loss, LARS and the schedule."""
    import jax

    yield from loss_of_fixture()
    yield from lars_of_fixture()
    reference = np.load(FIXTURES / "schedule.npz")
    for setting in "012":
        size, warmup, epochs, batch, steps = (
            reference[f"{setting}/{name}"]
            for name in ("steps_per_epoch", "warmup_epochs", "epochs", "batch_size", "step")
        )
        rate = warmup_cosine(int(batch) / 256, int(epochs * size), int(warmup * size))
        yield f"schedule/{setting}", np.asarray(jax.jit(jax.vmap(rate))(steps))


def loss_of_fixture():
    import jax

    exact = {"xla_cpu_use_fusion_emitters": True}  # without it, more digits are lost
    with np.load(FIXTURES / "loss.npz") as reference:
        for case in sorted({name.split("/")[0] for name in reference}):
            za, zb, weight = (reference[f"{case}/{name}"] for name in ("za", "zb", "lambda"))
            za, zb = za.astype("float32"), zb.astype("float32")
            for form in FORMS:
                loss = keras_bt.objectives.BarlowTwinsObjective(float(weight), form)

                def of(za, zb, loss=loss):
                    return loss.loss(loss.terms(za, zb, family.OneReplica()))

                step = jax.value_and_grad(of, (0, 1))
                value, gradients = jax.jit(step, compiler_options=exact)(za, zb)
                for name, found in zip(
                    ("loss", "grad_za", "grad_zb"), (value, *gradients), strict=True
                ):
                    yield f"loss/{case}/{form}/{name}", np.asarray(found)


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """A rate per step from a list."""

    def __init__(self, rates):
        self.rates = np.asarray(rates, "float32")

    def __call__(self, step):
        return ops.take(ops.convert_to_tensor(self.rates), ops.cast(step, "int32"))


def lars_of_fixture():
    with np.load(FIXTURES / "lars.npz") as reference:
        names = [name[len("initial/") :] for name in reference if name.startswith("initial/")]
        variables = [keras.Variable(reference[f"initial/{name}"], name=name) for name in names]
        kernels, biases = (reference[f"lr_{x}_multiplier"] for x in ("weights", "biases"))
        optimizer = LARS(
            Rates([reference[f"rate/{t}"] * kernels for t in range(int(reference["steps"]))]),
            bias_rate_ratio=float(biases / kernels),
            weight_decay=float(reference["weight_decay"]),
            momentum=float(reference["momentum"]),
            trust_coefficient=float(reference["trust_coefficient"]),
        )
        for t in range(int(reference["steps"])):
            gradients = [reference[f"grad/{t}/{name}"].astype("float32") for name in names]
            optimizer.apply(gradients, variables if t == 0 else None)
            for name, variable in zip(names, variables, strict=True):
                yield f"lars/after/{t}/{name}", ops.convert_to_numpy(variable)


def large_fixtures():
    """A ResNet's features, and two published steps of one: half a minute, most of it compiling."""
    import jax

    backbone = resnet(18, input_shape=(64, 64, 3))
    load_formula_weights(backbone)
    images = weights_formula("images64", (2, 64, 64, 3)).astype("float32")
    yield "resnet/features_eval", backbone.predict(images, verbose=0)
    head = projector((64, 64, 64), input_dim=512)
    positions = {f"linear{i + 1}": 3 * i for i in range(3)} | {"bn1": 1, "bn2": 4}
    load_formula_weights(backbone, "backbone.")
    load_formula_weights(head, "projector.", lambda name: str(positions[name]))
    model = BarlowTwins(backbone, head, redundancy_weight=0.0051)
    rates = Rates([0.2 * (t + 1) / 40 for t in range(2)])
    model.compile(LARS(rates, bias_rate_ratio=0.024, weight_decay=1e-6))
    batches = []
    for t in range(2):
        a = weights_formula(f"view_a{t}", (16, 64, 64, 3))
        b = 0.9 * a + 0.4 * weights_formula(f"view_b{t}", (16, 64, 64, 3))
        batches.append((a.astype("float32"), b.astype("float32")))
    jax.config.update("jax_disable_most_optimizations", False)  # these steps take longer to run
    for metric, values in take_steps(model, batches).items():
        yield f"trajectory/{metric}", values
    jax.config.update("jax_disable_most_optimizations", True)


def fitting():
    """What Keras promises of a model: precisions, skipped steps, files, several steps at once."""
    (a, b), *others = list(zip(*pairs(), strict=True))
    bad = b.copy()
    bad[3] = np.nan
    for name, model in {
        "bfloat16": twins(policy="mixed_bfloat16"),
        "float16": twins(policy="mixed_float16"),
        "1 devices, correlation": of_form("correlation"),
    }.items():
        yield from trained(name, model)
        before = state(model)
        logs = take_steps(model, [(a, bad)])
        yield f"{name}/bad loss", logs["loss"]
        yield f"{name}/skipped", logs.get("skipped_steps", 0)
        after = state(model)
        yield f"{name}/changed", sum((after[i] != before[i]).any() for i in before)
    with tempfile.TemporaryDirectory() as folder:
        model.save(os.path.join(folder, "model.keras"))
        loaded = keras.models.load_model(os.path.join(folder, "model.keras"))
    for name, each in (("saved", model), ("loaded", loaded)):
        yield f"{name}/loss", take_steps(each, others)["loss"]
        for variable, value in state(each).items():
            yield f"{name}/{variable}", value
    yield from watching(2)


def watching(at_once):
    """One epoch under callbacks, with a number of steps at once."""
    from keras_bt.callbacks.diagnostics import Diagnostics
    from keras_bt.callbacks.metrics_log import MetricsLog, read_metrics

    a, b = (view.reshape(-1, SIDE, SIDE, 3) for view in pairs())
    model = twins(compiling={"steps_per_execution": at_once})
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsLog(os.path.join(folder, "metrics.jsonl"), every=2)
        callbacks = [Diagnostics((a[:BATCH], b[:BATCH])), log]
        model.fit(a, b, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
        lines = read_metrics(log.path)
    for name in ("step", "loss", "learning_rate"):
        yield f"watched/{name}", np.array([line[name] for line in lines])
    for name in ("fixed_excess", "embedding_rankme", "dead_features"):
        yield f"watched/{name}", np.array([lines[-1][name]])
    yield "watched/weights", np.concatenate([w.ravel() for w in model.get_weights()])


def of_form(form):
    """One of the forms also has the optimizer that skips steps."""
    return twins(form=form, on_nonfinite="skip" if form == "correlation" else "stop")


def devices():
    """The same training on one device and on several; `fitting` has one of one device."""
    for count, form in ((1, "gram"), (2, "correlation"), (4, "gram")):
        several = keras.distribution.DataParallel(
            devices=[f"cpu:{i}" for i in range(count)], auto_shard_dataset=False
        )
        keras.distribution.set_distribution(several if count > 1 else None)
        yield from trained(f"{count} devices, {form}", of_form(form), measured=form == "gram")
    keras.distribution.set_distribution(None)


def processes():
    """The same training in several processes, each of which gives its part of every batch."""
    from keras_bt import strategy

    keras.utils.set_random_seed(0)
    where = strategy.choose_strategy("auto")
    print(strategy.describe(where))
    assert strategy.sum_over_workers(where, 1) == strategy.worker_count(where)

    def part(number, count):
        rows = BATCH // count
        return list(zip(*pairs()[:, :, number * rows : (number + 1) * rows], strict=True))

    own = strategy.distribute_batches(where, part, BATCH)
    form = "correlation"  # both on several devices; between processes XLA sends the same
    model = of_form(form)
    for metric, values in take_steps(model, own).items():
        yield f"{form}/logs/{metric}", values
    for variable, value in state(model).items():
        yield f"{form}/state/{variable}", value


def main():
    out, *tasks = sys.argv[1:]
    found = {}
    for task in tasks:
        found |= dict(globals()[task]())
    np.savez(out, **found)


if __name__ == "__main__":
    main()
