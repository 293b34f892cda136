"""A worked example of long memory: a few cards among hundreds of steps of noise, to be named at the end.

    python -m experiments.selective_copy                                   # ten minutes of processor time
    python -m experiments.selective_copy --cells simple_rnn lstm slstm min_gru --steps 256

The task (after selective copying, Gu and Dao 2023, arXiv:2312.00752): at most of its ``steps`` the network sees
one of four patterns of noise. At ``cards`` steps, at random places, it sees a card instead: each card has a colour
of its own and one of four values. After the last step the network must name the value of every card. So it must
store what is a card, ignore what is noise, and keep what it stored for hundreds of steps. Guessing is right once
in four times.

The network is one layer of the cell, and a linear layer on its last output. Every cell is trained with every
learning rate and seed, on new sequences in every update, so the share of right answers is that on sequences which
it has never seen. The picture shows for each cell the rate with the best share at the end (all seeds), and the
others pale.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from rich.progress import track
from tyro.conf import arg

import jaxrnn
from experiments.common import runs
from experiments.common.command import error_message
from experiments.common.config import read_command_line
from experiments.common.options import check_known, option
from experiments.common.report import console, fail, say
from jaxrnn.cells import CELLS

VALUES = 4
"""Of a card; also the number of patterns of noise."""
POINTS = 20
"""Of a curve: the mean share of right answers over a part of the training."""


@dataclass(frozen=True)
class Settings:
    """What to remember, who tries it, and how long each may learn."""

    cells: Annotated[tuple[str, ...], arg(metavar="CELL", help=f"Any of {', '.join(CELLS)}.")] = (
        "simple_rnn",
        "slstm",
        "rg_lru",
    )
    rates: Annotated[
        tuple[float, ...], arg(metavar="RATE", help="Learning rates (Adam), the peaks of a cosine.")
    ] = (
        1e-3,
        3e-3,
        1e-2,
    )
    seeds: Annotated[int, arg(metavar="N", help="Trainings of every cell and rate.")] = 2
    steps: Annotated[int, arg(metavar="T", help="Length of the sequences.")] = 512
    cards: Annotated[int, arg(metavar="N", help="Cards in a sequence.")] = 4
    updates: Annotated[int, arg(metavar="N", help="Updates of a training.")] = 600
    batch: Annotated[int, arg(metavar="N", help="Sequences of an update.")] = 32
    units: Annotated[int, arg(metavar="N", help="Units of the layer.")] = 64
    out: Annotated[Path, arg(metavar="DIR", help="The folder for selective_copy.png and .json.")] = Path(
        "runs/selective_copy"
    )


def sequences(key: Array, settings: Settings) -> tuple[Array, Array]:
    """What is seen, ``[batch, steps]``, and the values of the cards, ``[batch, cards]``.

    What is seen is a number: card c with value v is ``VALUES * c + v``, and the noise comes after all cards.
    """
    of_values, of_places, of_noise = jax.random.split(key, 3)
    shape = (settings.batch, settings.steps)
    values = jax.random.randint(of_values, (settings.batch, settings.cards), 0, VALUES)
    places = jnp.argsort(jax.random.uniform(of_places, shape), axis=1)[:, : settings.cards]
    seen = VALUES * settings.cards + jax.random.randint(of_noise, shape, 0, VALUES)
    shown = VALUES * jnp.arange(settings.cards) + values
    return seen.at[jnp.arange(settings.batch)[:, None], places].set(shown), values


class Rememberer(nnx.Module):
    """Logits ``[batch, cards, values]`` of the cards that were seen."""

    def __init__(self, cell: str, settings: Settings, rngs: nnx.Rngs):
        symbols = VALUES * (settings.cards + 1)
        self.symbols, self.cards = symbols, settings.cards
        self.layer = jaxrnn.RNN(CELLS[cell](symbols, settings.units, rngs=rngs))
        self.head = nnx.Linear(settings.units, VALUES * settings.cards, rngs=rngs)

    def __call__(self, seen: Array) -> Array:
        last = self.layer(jax.nn.one_hot(seen, self.symbols))[:, -1]
        return self.head(last).reshape(-1, self.cards, VALUES)


def train(cell: str, settings: Settings) -> Any:
    """A function of seed and learning rate: the share of right answers in parts of a training, ``[POINTS]``."""

    @jax.jit
    def run(seed: Array, rate: Array) -> Array:
        of_model, of_sequences = jax.random.split(jax.random.key(seed))
        graphdef, params = nnx.split(Rememberer(cell, settings, nnx.Rngs(of_model)))
        # From zero to one and back, times the rate.
        course = optax.warmup_cosine_decay_schedule(0.0, 1.0, settings.updates // 10, settings.updates)
        parts = (optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale_by_schedule(course))
        optimizer = optax.chain(*parts)

        def loss(params: Any, seen: Array, values: Array) -> tuple[Array, Array]:
            logits = nnx.merge(graphdef, params)(seen)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, values)
            return losses.mean(), (logits.argmax(axis=-1) == values).mean()

        def update(state: Any, key: Array) -> tuple[Any, Array]:
            params, opt_state = state
            gradients, right = jax.grad(loss, has_aux=True)(params, *sequences(key, settings))
            updates, opt_state = optimizer.update(gradients, opt_state)
            params = jax.tree.map(lambda param, step: param - rate * step, params, updates)
            return (params, opt_state), right

        keys = jax.random.split(of_sequences, settings.updates)
        _, right = jax.lax.scan(update, (params, optimizer.init(params)), keys)
        return right.reshape(POINTS, -1).mean(axis=1)

    return run


def curves(cell: str, settings: Settings) -> dict[float, list[list[float]]]:
    """For every learning rate the curves of its seeds."""
    run = train(cell, settings)
    trainings = [(rate, seed) for rate in settings.rates for seed in range(settings.seeds)]
    found: dict[float, list[list[float]]] = {rate: [] for rate in settings.rates}
    for rate, seed in track(trainings, cell, console=console, transient=True):
        found[rate].append(np.asarray(run(jnp.int32(seed), jnp.float32(rate))).tolist())
    return found


def best_rate(of_rates: dict[float, list[list[float]]]) -> float:
    """The learning rate with the highest share of right answers at the end, averaged over the seeds."""
    return max(of_rates, key=lambda rate: np.mean([curve[-1] for curve in of_rates[rate]]))


def main(arguments: list[str] | None = None) -> int:
    try:
        settings = read_command_line(Settings, "selective_copy", __doc__, arguments)
        check(settings)
        show(settings)
    except (ValueError, OSError) as error:
        return fail(error_message(error))
    return 0


def check(settings: Settings) -> None:
    for cell in settings.cells:
        check_known("cell", cell, CELLS)
    for name in ("seeds", "steps", "cards", "updates", "batch", "units"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{option(name)} must be at least 1, not {getattr(settings, name)}")
    for name in ("cells", "rates"):
        if not getattr(settings, name):
            raise ValueError(f"{option(name)} must name at least one")
    if min(settings.rates) <= 0:
        raise ValueError(f"{option('rates')} must be above 0, not {min(settings.rates)}")
    if settings.cards > settings.steps:
        raise ValueError(f"--cards must be at most --steps ({settings.steps}), not {settings.cards}")
    if settings.updates % POINTS:
        raise ValueError(f"--updates must be a multiple of {POINTS}, not {settings.updates}")


def show(settings: Settings) -> None:
    runs.make_folder(settings.out)
    found = {}
    for cell in settings.cells:
        found[cell] = curves(cell, settings)
        best = best_rate(found[cell])
        shares = ", ".join(f"{100 * curve[-1]:.1f} %" for curve in found[cell][best])
        say(f"{cell}: right answers at the end {shares} (the best rate, {best:g}; one number for every seed)")
    record = {"settings": vars(settings) | {"out": str(settings.out)}, "right": found}
    runs.write_json(settings.out / "selective_copy.json", record)

    from experiments.common import plots

    points = settings.updates / POINTS * np.arange(1, POINTS + 1)
    best_rates = {cell: best_rate(of_rates) for cell, of_rates in found.items()}
    plots.plot_shares(settings.out / "selective_copy.png", points, found, best_rates, 1 / VALUES)
    say(f"the plot and the numbers are in {settings.out}")


if __name__ == "__main__":
    sys.exit(main())
