"""A worked example of memory with resets: repeat what was shown some steps ago, in episodes of many lengths.

    python -m experiments.recall                          # some seconds on two cores
    python -m experiments.recall --delay 4 --steps 600

The task (after repeat-previous in POPGym, Morad et al. 2023, arXiv:2303.01859): at every step the agent sees one
of four cards, and must name the card of ``delay`` steps before. Episodes end at random, so they end at different
steps in every row of a batch, and a new one begins at once. In the first ``delay`` steps of an episode there is no
such card, and the right answer is "none": what the episode before has shown must be forgotten. Nothing in the
inputs says where an episode begins.

The network learns from rollouts, as in recurrent reinforcement learning. A rollout has a fixed number of steps,
and begins where the one before has ended, in the middle of an episode. So it starts with the carry at that place,
and inside it the carry returns to zeros where an episode begins::

    carry, outputs = layer(cards, initial_carry=carry, resets=first_of_episode, reset_carry="zeros")

All seeds train at once, under ``jax.vmap``, as one program. The script prints the share of right answers of every
seed in new episodes: with resets to zeros, and with resets to the carry at the start of the rollout, which are the
library's default and wrong here. These bring the cards of an earlier episode back, although nothing fails.
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from tyro.conf import arg

import jaxrnn
from experiments.common.config import read_command_line
from experiments.common.report import fail, say

CARDS = 4
NONE = CARDS
"""The answer where there is no card to name."""
LENGTH = 20
"""The mean length of an episode."""


@dataclass(frozen=True)
class Settings:
    """What to remember, and how long to learn."""

    delay: Annotated[int, arg(metavar="N", help="How many steps ago the card was shown.")] = 2
    steps: Annotated[int, arg(metavar="N", help="Updates, one for each rollout.")] = 300
    rollout: Annotated[int, arg(metavar="N", help="Steps of a rollout.")] = 16
    batch: Annotated[int, arg(metavar="N", help="Episodes that are played side by side.")] = 16
    units: Annotated[int, arg(metavar="N", help="Units of the GRU.")] = 32
    seeds: Annotated[int, arg(metavar="N", help="Trainings, all at once.")] = 3


class Rollout(NamedTuple):
    """Some steps of all rows.

    Attributes:
      cards: int ``[batch, time]``, what is shown.
      first: bool ``[batch, time]``, whether the step is the first of an episode.
      wanted: int ``[batch, time]``, the card of ``delay`` steps before in the same episode, or :data:`NONE`.
    """

    cards: Array
    first: Array
    wanted: Array


def play(key: Array, steps: int, settings: Settings) -> Rollout:
    """Steps of all rows, one episode after the other."""
    shown, ended = jax.random.split(key)
    cards = jax.random.randint(shown, (settings.batch, steps), 0, CARDS)
    first = jax.random.bernoulli(ended, 1 / LENGTH, (settings.batch, steps)).at[:, 0].set(True)
    began = jax.lax.cummax(jnp.where(first, jnp.arange(steps), 0), axis=1)  # where each step's episode began
    before = jnp.arange(steps) - settings.delay
    wanted = jnp.where(before >= began, jnp.roll(cards, settings.delay, axis=1), NONE)
    return Rollout(cards, first, wanted)


def train(seed: Array, settings: Settings, reset_carry: str | None = "zeros") -> Array:
    """Learn from rollouts, and return the share of right answers in new episodes."""
    model_key, play_key, test_key = jax.random.split(jax.random.key(seed), 3)

    class Agent(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layer = jaxrnn.GRU(CARDS, settings.units, return_carry=True, rngs=rngs)
            self.head = nnx.Linear(settings.units, CARDS + 1, rngs=rngs)

        def __call__(self, rollout: Rollout, carry: Any) -> tuple[Any, Array]:
            seen = jax.nn.one_hot(rollout.cards, CARDS)
            carry, outputs = self.layer(seen, initial_carry=carry, resets=rollout.first, reset_carry=reset_carry)
            return carry, self.head(outputs)

    graphdef, params = nnx.split(Agent(nnx.Rngs(model_key)))
    optimizer = optax.adam(1e-2)

    def loss(params: Any, rollout: Rollout, carry: Any) -> tuple[Array, Any]:
        carry, logits = nnx.merge(graphdef, params)(rollout, carry)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, rollout.wanted)
        return losses.mean(), carry

    def update(state: Any, rollout: Rollout) -> tuple[Any, Array]:
        params, opt_state, carry = state
        (value, carry), gradients = jax.value_and_grad(loss, has_aux=True)(params, rollout, carry)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state, carry), value

    def rollouts(key: Array, number: int) -> Rollout:
        """A long game, cut into rollouts: ``[number, batch, time]``."""
        game = play(key, number * settings.rollout, settings)
        return jax.tree.map(lambda a: a.reshape(settings.batch, number, -1).swapaxes(0, 1), game)

    carry = (jnp.zeros((settings.batch, settings.units)),)
    state = (params, optimizer.init(params), carry)
    (params, _, _), _ = jax.lax.scan(update, state, rollouts(play_key, settings.steps))

    def test(carry: Any, rollout: Rollout) -> tuple[Any, Array]:
        carry, logits = nnx.merge(graphdef, params)(rollout, carry)
        return carry, (logits.argmax(axis=-1) == rollout.wanted).mean()

    return jax.lax.scan(test, carry, rollouts(test_key, 30))[1].mean()


def scores(settings: Settings, reset_carry: str | None) -> np.ndarray:
    """The share of right answers of every seed."""
    over_seeds = jax.vmap(lambda seed: train(seed, settings, reset_carry))
    return np.asarray(jax.jit(over_seeds)(jnp.arange(settings.seeds)))


def main(arguments: list[str] | None = None) -> int:
    try:
        settings = read_command_line(Settings, "recall", __doc__, arguments)
        for name, value in vars(settings).items():
            if value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")
    except ValueError as error:
        return fail(str(error))
    for reset_carry, name in (("zeros", 'reset_carry="zeros"'), (None, "the default")):
        shares = ", ".join(f"{100 * share:.1f} %" for share in scores(settings, reset_carry))
        say(f"right answers after {settings.steps} rollouts, resets with {name}: {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
