"""Time one epoch of the forecast experiment, in this library and in Keras on JAX.

    python -m benchmarks.epoch                       # about a minute
    python -m benchmarks.epoch --repetitions 5

The lesson's sequence-to-vector training: two SimpleRNN layers of 100 tanh units, Dense(1), times 200, Huber loss,
SGD with momentum 0.9 and a learning rate of 1.5e-6; 970 windows of 30 steps in a new random order every epoch, in
batches of 128, the last one smaller. No validation. Four contestants, interleaved in one process:

    jaxrnn               the whole epoch in one jit, hand-written backpropagation through time, each batch spread
                         over one JAX device per core, as experiments.forecast does it
    jaxrnn, one device   the same on one device
    jaxrnn, reference    the whole epoch in one jit on one device, plain autodiff of lax.scan
    Keras on JAX         model.fit on arrays, jit_compile=True

Every call runs five epochs, so that what fit does once per call weighs little. Before that, ours and Keras start
from the same weights and train three epochs without shuffling, and their losses must agree. How time is taken:
benchmarks/timing.py. Ratios are a contestant's time divided by ours: above 1, ours is faster.

The table goes to benchmarks/results/ as Markdown and JSON.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax.sharding import Mesh

import jaxrnn
from benchmarks.machine import describe, machine
from benchmarks.peers import import_keras
from benchmarks.report import Table, check_writable, console, fail, milliseconds, progress, times, write_results
from benchmarks.shapes import LESSON, Shape
from benchmarks.timing import Timing, interleave, ratio, seconds_of
from jaxrnn.data import course_series, take_windows, window_starts
from jaxrnn.data.series import COURSE_SPLIT
from jaxrnn.training import TrainState, huber, make_optimizer, make_windowed_epoch, pure_apply

WINDOW = LESSON.time
BATCH = LESSON.batch
HIDDEN = LESSON.hidden
OUTPUT_SCALE = 200.0
LEARNING_RATE = 1.5e-6
EPOCHS_PER_CALL = 5
CHECKED_EPOCHS = 3
LOSS_TOLERANCE = 1e-3

OURS, ONE_DEVICE, REFERENCE, KERAS = "jaxrnn", "jaxrnn, one device", "jaxrnn, reference", "Keras on JAX"

Train = Callable[[int], list[float]]
"""Train on for so many epochs; the losses of each."""


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    repetitions: int = 20
    """Rounds, in each of which every contestant is timed twice, five epochs each time."""

    out: Path | None = None
    """Folder for the results (default: benchmarks/results)."""


def main(arguments: list[str] | None = None) -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.epoch", args=arguments, description=__doc__)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return fail(str(error))
    except ModuleNotFoundError as error:
        return fail(f'{error}: this benchmark needs Keras: pip install "jaxrnn[bench]"')


def run(options: Options) -> int:
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    series = course_series().values[:COURSE_SPLIT].astype(np.float32)
    check_writable(options.out)
    on = machine()
    console.print(describe(on), soft_wrap=True)
    losses = check(series)

    model = keras_model()
    weights = model.get_weights()
    trained: dict[str, Train] = {
        OURS: our_training(series, weights, mesh=jax.make_mesh((jax.device_count(),), ("batch",))),
        ONE_DEVICE: our_training(series, weights),
        REFERENCE: our_training(series, weights, implementation="reference"),
        KERAS: keras_training(series, model),
    }
    with progress(options.repetitions) as update:
        update(description="compiling")
        first = {name: seconds_of(partial(train, 1)) for name, train in trained.items()}
        update(description="timing")
        calls = {name: partial(train, EPOCHS_PER_CALL) for name, train in trained.items()}
        found = interleave(calls, options.repetitions, first_calls=first, advance=lambda: update(advance=1))
    timings = {
        name: Timing(first[name], timing.divided_by(EPOCHS_PER_CALL).calls) for name, timing in found.items()
    }
    report(timings, losses, on, options)
    return 0


def windows_and_targets(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every window ``[windows, window, 1]`` that has a value after it, and that value ``[windows, 1]``."""
    starts = window_starts(len(series) - 1, WINDOW)
    return np.asarray(take_windows(jnp.asarray(series), starts, WINDOW)), series[starts + WINDOW]


def our_training(
    series: np.ndarray,
    weights: list[np.ndarray],
    *,
    implementation: str | None = None,
    shuffle: bool = True,
    mesh: Mesh | None = None,
) -> Train:
    """Training from Keras's weights, as one compiled program an epoch."""
    model = jaxrnn.RNNForecaster(hidden_features=(HIDDEN, HIDDEN), output_scale=OUTPUT_SCALE, rngs=nnx.Rngs(0))
    model.layers.implementation = implementation
    cells: Any = model.layers.cells
    ours: list[Any] = [param for cell in cells for param in (cell.kernel, cell.recurrent_kernel, cell.bias)]
    ours += [model.head.kernel, model.head.bias]
    for param, value in zip(ours, weights, strict=True):
        param[...] = jnp.asarray(value)
    apply, params = pure_apply(model)
    optimizer = make_optimizer("sgd", LEARNING_RATE)
    epoch = make_windowed_epoch(
        apply,
        optimizer,
        huber,
        jnp.asarray(series[:-1]),
        jnp.asarray(series[1:]),
        jnp.asarray(window_starts(len(series) - 1, WINDOW)),
        window=WINDOW,
        batch_size=BATCH,
        every_step=False,
        shuffle=shuffle,
        mesh=mesh,
    )
    state = TrainState.create(params, optimizer)

    def train(epochs: int) -> list[float]:
        nonlocal state
        losses = []
        for _ in range(epochs):
            state, metrics = epoch(state)
            losses.append(float(metrics.loss))  # waits, as a training loop that looks at its losses does
        return losses

    return train


def keras_model() -> Any:
    """The lesson's model, compiled."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((WINDOW, 1)),
            keras.layers.SimpleRNN(HIDDEN, return_sequences=True),
            keras.layers.SimpleRNN(HIDDEN),
            keras.layers.Dense(1),
            keras.layers.Rescaling(OUTPUT_SCALE),
        ]
    )
    sgd = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
    model.compile(optimizer=sgd, loss=keras.losses.Huber(), jit_compile=True)
    return model


def keras_training(series: np.ndarray, model: Any, *, shuffle: bool = True) -> Train:
    inputs, targets = windows_and_targets(series)

    def train(epochs: int) -> list[float]:
        fitted = model.fit(inputs, targets, batch_size=BATCH, epochs=epochs, shuffle=shuffle, verbose=0)
        return fitted.history["loss"]

    return train


def check(series: np.ndarray) -> dict[str, list[float]]:
    """Losses of the first epochs from the same weights; a ValueError if they differ."""
    model = keras_model()
    weights = model.get_weights()
    losses = {
        OURS: our_training(series, weights, shuffle=False, mesh=jax.make_mesh((jax.device_count(),), ("batch",)))(
            CHECKED_EPOCHS
        ),
        ONE_DEVICE: our_training(series, weights, shuffle=False)(CHECKED_EPOCHS),
        REFERENCE: our_training(series, weights, implementation="reference", shuffle=False)(CHECKED_EPOCHS),
        KERAS: keras_training(series, model, shuffle=False)(CHECKED_EPOCHS),
    }
    for name in (OURS, ONE_DEVICE, REFERENCE):
        if not np.allclose(losses[name], losses[KERAS], rtol=LOSS_TOLERANCE, atol=0):
            raise ValueError(
                f"{name} and {KERAS} do not train alike, so their times cannot be compared: from the same weights "
                f"and without shuffling their losses are {losses[name]} and {losses[KERAS]}"
            )
    return losses


def epoch_flops() -> int:
    """Of the matrix products: the upper layer's inputs get a gradient, the lower one's do not."""
    windows = COURSE_SPLIT - WINDOW
    lower, upper = Shape(windows, WINDOW, 1, HIDDEN), Shape(windows, WINDOW, HIDDEN, HIDDEN)
    return lower.training_flops(1) + 3 * upper.forward_flops(1)


def report(
    timings: dict[str, Timing], losses: dict[str, list[float]], on: dict[str, Any], options: Options
) -> None:
    ratios = {name: ratio(timing, timings[OURS]) for name, timing in timings.items()}
    floor = epoch_flops() / on["matmul_gflops"] / 1e9
    table = Table(
        ["contestant", "ms an epoch", "divided by ours", "first epoch, s"],
        [
            [name, milliseconds(t.spread), "1" if name == OURS else times(ratios[name]), f"{t.first_call:.2f}"]
            for name, t in timings.items()
        ],
    )
    text = (
        "# One epoch of the forecast experiment\n\n"
        "Sequence-to-vector: 970 windows of 30 steps, batches of 128, two SimpleRNN layers of 100 units, Huber "
        "loss, SGD with momentum, shuffled, no validation. Median, and quartiles in parentheses, of "
        f"{options.repetitions} repetitions of 2 calls of {EPOCHS_PER_CALL} epochs, interleaved in one process; "
        "ratios pair by pair within the repetitions. The first epoch includes tracing and compiling.\n\n"
        f"{table.markdown()}\n"
        f"The matrix products alone, at this machine's best rate, would take {floor * 1e3:.1f} ms an epoch. "
        f"From the same weights and without shuffling, the losses of the first {CHECKED_EPOCHS} epochs are "
        + "; ".join(f"{', '.join(f'{v:.5f}' for v in values)} ({name})" for name, values in losses.items())
        + ".\n"
    )
    results = {
        "repetitions": options.repetitions,
        "epochs_per_call": EPOCHS_PER_CALL,
        "matmul_limit_s": floor,
        "losses_without_shuffle": losses,
        "timings": {name: timing.as_json() for name, timing in timings.items()},
        "ratios_to_ours": {name: spread._asdict() for name, spread in ratios.items()},
    }
    path = write_results("epoch", text, results, on, options.out)
    table.show("one epoch of the forecast experiment")
    console.print(f"The machine's matmul rate would allow {floor * 1e3:.1f} ms.")
    console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
