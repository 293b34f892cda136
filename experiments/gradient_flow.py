"""Show how gradients vanish and explode: the norm of dL/dh_t by step, for tanh and ReLU with several gains.

    python -m experiments.gradient_flow

A layer of 64 units reads 100 steps of noise, and the loss depends only on the last hidden state. Backpropagation
through time multiplies its gradient T - t times by the recurrent kernel (an orthogonal matrix times the gain) and
by the slope of the activation, until it reaches the hidden state at step t. With a gain below one, the gradient
vanishes. ReLU turns half of the units off, so its gradient keeps its size near a gain of 1.4. Above that, hidden
state and gradient both grow without bound: at a gain of 2, by a factor of 1.4 per step. tanh keeps the hidden
state within (-1, 1), but its gradient can explode too. Clipping (dashed) scales the whole gradient down to norm 1.
This limits an exploding gradient, but does not restore a vanished one.

So ReLU can be used if the initial recurrent kernel is orthogonal (a gain of 1) and windows are short: on the
course recipe of experiments.forecast (30 steps) it is better than tanh. This shows the effect of larger gains and
longer sequences:

    python -m experiments.gradient_flow --activations relu --gains 1 1.4 1.6 2 --steps 300

Source: Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks, arXiv:1211.5063.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.table import Table
from tyro.conf import arg

from experiments.common import runs
from experiments.common.command import error_message
from experiments.common.config import read_command_line
from experiments.common.report import console, fail, say
from jaxrnn import ops


@dataclass(frozen=True)
class Settings:
    """The activations, gains and sizes to compare."""

    gains: Annotated[tuple[float, ...], arg(help="Factors on the orthogonal recurrent kernel.")] = (
        0.5,
        0.9,
        1.0,
        1.1,
        1.5,
        2.0,
    )
    activations: Annotated[tuple[str, ...], arg(metavar="NAME", help=f"Any of {', '.join(ops.ACTIVATIONS)}.")] = (
        "tanh",
        "relu",
    )
    steps: Annotated[int, arg(metavar="T", help="Length of the sequence.")] = 100
    hidden: Annotated[int, arg(metavar="UNITS", help="Hidden units.")] = 64
    batch: Annotated[int, arg(metavar="N", help="Number of sequences.")] = 16
    clip_norm: Annotated[float, arg(metavar="NORM", help="Global norm to clip to.")] = 1.0
    seed: Annotated[int, arg(metavar="N", help="Seed of the noise and of the kernel.")] = 0
    out: Annotated[Path, arg(metavar="DIR", help="The folder for gradient_flow.png and .json.")] = Path(
        "runs/gradient_flow"
    )


@dataclass(frozen=True)
class Flow:
    """The gradients of one activation and gain.

    Attributes:
      hidden_norms: the norm of dL/dh_t for every step.
      kernel_norm, clipped_norm: the norm of the recurrent kernel's gradient before and after clipping.
      largest_hidden: the largest absolute value of the last hidden state.
    """

    hidden_norms: list[float]
    kernel_norm: float
    clipped_norm: float
    largest_hidden: float


def gradient_flow(activation: ops.Activation, kernel: Array, xw: Array, target: Array, clip_norm: float) -> Flow:
    """Gradients of the distance between the last hidden state and a target.

    Args:
      activation: an elementwise function.
      kernel: the recurrent kernel, ``[hidden, hidden]``.
      xw: the contribution of the input, ``[time, batch, hidden]``.
      target: ``[batch, hidden]``.
      clip_norm: the global norm that the kernel's gradient is clipped to.
    """

    def perturbed(params, carry, xw, rh):
        # A second block of xw is added to h itself, so that the gradient with respect to it is dL/dh_t.
        h = activation(xw[0] + rh[0]) + xw[1]
        return h, h

    hidden = kernel.shape[0]

    def loss(kernel: Array, perturbation: Array) -> tuple[Array, Array]:
        both = jnp.concatenate([xw, perturbation], axis=-1)
        h, _ = ops.recurrence(perturbed, kernel, both, jnp.zeros((xw.shape[1], hidden), xw.dtype))
        return ((h - target) ** 2).sum(axis=-1).mean() / 2, jnp.abs(h).max()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (dkernel, dh), largest = gradients(kernel, jnp.zeros_like(xw))
    # In float64, because the squares of an exploded gradient overflow float32 before the gradient itself does.
    dkernel, dh = np.asarray(dkernel, np.float64), np.asarray(dh, np.float64)
    kernel_norm = float(np.linalg.norm(dkernel))
    hidden_norms = np.linalg.norm(dh, axis=-1).sum(axis=1)  # the mean over the batch is in the loss
    return Flow(hidden_norms.tolist(), kernel_norm, min(kernel_norm, clip_norm), float(largest))


def main(arguments: list[str] | None = None) -> int:
    try:
        settings = read_command_line(Settings, "gradient_flow", __doc__, arguments)
        draw(settings)
    except (ValueError, OSError) as error:
        return fail(error_message(error))
    return 0


def draw(settings: Settings) -> None:
    for name in ("steps", "hidden", "batch", "clip_norm"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(settings, name)}")
    if not settings.gains or not settings.activations:
        raise ValueError("at least one gain and one activation are needed")
    runs.make_folder(settings.out)
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    shape = (settings.steps, settings.batch, settings.hidden)
    orthogonal = jax.nn.initializers.orthogonal()(keys[0], (settings.hidden, settings.hidden))
    noise = 0.1 * jax.random.normal(keys[1], shape)
    target = jax.random.normal(keys[2], shape[1:])
    flows = {
        name: {
            gain: gradient_flow(ops.named_activation(name), gain * orthogonal, noise, target, settings.clip_norm)
            for gain in settings.gains
        }
        for name in settings.activations
    }
    record = {name: {str(gain): vars(flow) for gain, flow in rows.items()} for name, rows in flows.items()}
    runs.write_json(settings.out / "gradient_flow.json", record)

    from experiments.common import plots

    plots.plot_gradient_flow(settings.out / "gradient_flow.png", flows, settings.clip_norm)
    console.print(growth_table(flows, settings.steps))
    say(f"the plot and the numbers are in {settings.out}")


def _shown(share: float) -> str:
    return f"{share:.1e}" if np.isfinite(share) else "overflow"


def growth_table(flows: dict[str, dict[float, Flow]], steps: int) -> Table:
    """A table of the gradient some steps before the last one, relative to the last one, and of the largest h."""
    lengths = sorted({min(length, steps - 1) for length in (10, 30, 100, steps - 1)})
    table = Table(title="dL/dh some steps before the last one, relative to the last one")
    table.add_column("activation, gain")
    for length in lengths:
        table.add_column(f"{length} before", justify="right")
    table.add_column("largest |h|", justify="right")
    for name, rows in flows.items():
        for gain, flow in rows.items():
            with np.errstate(all="ignore"):
                shares = [np.divide(flow.hidden_norms[-1 - n], flow.hidden_norms[-1]) for n in lengths]
            table.add_row(f"{name}, {gain:g}", *map(_shown, shares), f"{flow.largest_hidden:.2g}")
    return table


if __name__ == "__main__":
    sys.exit(main())
