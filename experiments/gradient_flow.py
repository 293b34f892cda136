"""See gradients vanish and explode: the norm of dL/dh_t along time, for tanh and ReLU at several recurrent gains.

    python -m experiments.gradient_flow

A layer of 64 units reads 100 steps of noise; the loss looks at the last hidden state only. Its gradient with
respect to the hidden state at step t is what backpropagation through time has left after T - t products with the
recurrent kernel, an orthogonal matrix times the gain, and with the activation's slope. Below a gain of one it
vanishes. ReLU switches half of the units off, so it stands still near a gain of 1.4, and above that hidden state
and gradient both grow without bound; tanh keeps at least the hidden state within (-1, 1), though its gradient can
explode too. Clipping (dashed) scales a whole gradient down to norm 1: it tames an explosion, but does not bring
back what has vanished.

Source: Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks, arXiv:1211.5063.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array
from tyro.conf import arg

from experiments.common import runs
from experiments.common.report import console, fail
from jaxrnn import ops


@dataclass(frozen=True)
class Settings:
    """What to draw."""

    gains: Annotated[tuple[float, ...], arg(help="Factors on the orthogonal recurrent kernel.")] = (
        0.5,
        0.9,
        1.0,
        1.1,
        1.5,
        2.0,
    )
    activations: Annotated[tuple[str, ...], arg(metavar="NAME", help=f"Of {', '.join(ops.ACTIVATIONS)}.")] = (
        "tanh",
        "relu",
    )
    steps: Annotated[int, arg(metavar="T", help="Length of the sequence.")] = 100
    hidden: Annotated[int, arg(metavar="UNITS", help="Hidden units.")] = 64
    batch: Annotated[int, arg(metavar="N", help="Sequences.")] = 16
    clip_norm: Annotated[float, arg(metavar="NORM", help="Global norm to clip to.")] = 1.0
    seed: Annotated[int, arg(metavar="N", help="Of noise and kernel.")] = 0
    out: Annotated[Path, arg(metavar="DIR", help="Where gradient_flow.png and .json go.")] = Path(
        "runs/gradient_flow"
    )


@dataclass(frozen=True)
class Flow:
    """Norms of dL/dh_t, step by step, and of the recurrent kernel's gradient before and after clipping."""

    hidden_norms: list[float]
    kernel_norm: float
    clipped_norm: float


def gradient_flow(activation: ops.Activation, kernel: Array, xw: Array, target: Array, clip_norm: float) -> Flow:
    """Gradients of the distance between the last hidden state and a target.

    Args:
      activation: elementwise.
      kernel: the recurrent kernel, ``[hidden, hidden]``.
      xw: what the input contributes, ``[time, batch, hidden]``.
      target: ``[batch, hidden]``.
      clip_norm: global norm that the kernel's gradient is clipped to.
    """

    def nudged(params, carry, xw, rh):
        # A second block of xw is added to h itself, so that the gradient with respect to it is dL/dh_t.
        h = activation(xw[0] + rh[0]) + xw[1]
        return h, h

    hidden = kernel.shape[0]

    def loss(kernel: Array, nudge: Array) -> Array:
        both = jnp.concatenate([xw, nudge], axis=-1)
        h, _ = ops.recurrence(nudged, kernel, both, jnp.zeros((xw.shape[1], hidden), xw.dtype))
        return ((h - target) ** 2).sum(axis=-1).mean() / 2

    dkernel, dh = jax.jit(jax.grad(loss, argnums=(0, 1)))(kernel, jnp.zeros_like(xw))
    # Squares of an exploded gradient overflow float32 long before the gradient itself does.
    dkernel, dh = np.asarray(dkernel, np.float64), np.asarray(dh, np.float64)
    kernel_norm = float(np.linalg.norm(dkernel))
    hidden_norms = np.linalg.norm(dh, axis=-1).sum(axis=1)  # the mean over the batch is in the loss
    return Flow(hidden_norms.tolist(), kernel_norm, min(kernel_norm, clip_norm))


def main(arguments: list[str] | None = None) -> int:
    settings = tyro.cli(Settings, prog="python -m experiments.gradient_flow", args=arguments, description=__doc__)
    try:
        draw(settings)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0


def draw(settings: Settings) -> None:
    for name in ("steps", "hidden", "batch", "clip_norm"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(settings, name)}")
    if not settings.gains or not settings.activations:
        raise ValueError("at least one gain and one activation are needed")
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
    settings.out.mkdir(parents=True, exist_ok=True)
    record = {name: {str(gain): vars(flow) for gain, flow in rows.items()} for name, rows in flows.items()}
    runs.write_json(settings.out / "gradient_flow.json", record)

    from experiments.common import plots

    plots.plot_gradient_flow(settings.out / "gradient_flow.png", flows, settings.clip_norm)
    for name, rows in flows.items():
        for gain, flow in rows.items():
            share = np.divide(flow.hidden_norms[0], flow.hidden_norms[-1])
            console.print(
                f"{name} at a gain of {gain}: dL/dh at the first step is {share:.1e} of that at the last"
            )
    console.print(f"picture and numbers are in {settings.out}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
