"""Over eight devices a stack of all cells trains as over one, with and without state, from memory and from a file.
In a process of its own, since the number of devices is fixed once JAX runs."""

import os
import subprocess
import sys
from pathlib import Path

from tests.xla_flags import XLA_FLAGS

ROOT = Path(__file__).parents[2]

CODE = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np, optax
from flax import nnx
import jaxrnn
from jaxrnn import data, training
from jaxrnn.cells import CELLS

class Model(nnx.Module):
    def __init__(self, return_sequences):
        rngs, sizes = nnx.Rngs(0), range(4, 4 + len(CELLS))  # every layer has a size of its own
        cells = [cell(below, size, rngs=rngs) for cell, below, size in zip(CELLS.values(), (1, *sizes), sizes)]
        self.layers = jaxrnn.StackedRNN(cells, return_sequences=return_sequences)
        self.head = nnx.Linear(sizes[-1], 1, rngs=rngs)

    def initialize_carry(self, batch):
        return self.layers.initialize_carry((batch, 1))

    def __call__(self, inputs, *, initial_carry=None, return_carry=False):
        carry, hidden = self.layers(inputs, initial_carry=initial_carry, return_carry=True)
        return (carry, self.head(hidden)) if return_carry else self.head(hidden)

window, batch = 4, 10  # 10 rows do not divide by 8
np.save(sys.argv[1], np.sin(np.arange(205) / 3).astype(np.float32))
file = data.SeriesFile(sys.argv[1])
series = jnp.asarray(file.take_windows(np.array([0]), 205)[0])
targets = jnp.roll(series, -1, axis=0)
mesh = jax.make_mesh((8,), ("batch",))
shapes = {every: nnx.eval_shape(lambda every=every: Model(return_sequences=every)) for every in (False, True)}
# The weights are drawn here, because the initialisers of so many layers take longer to compile than the training.
random = np.random.default_rng(0)
params = jax.tree.map(
    lambda leaf: (random.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])).astype(leaf.dtype),
    nnx.state(shapes[False], nnx.Param),
)

def train(kind, mesh):
    stateful = kind == "stateful"
    apply = training.pure_apply(shapes[stateful])[0]
    optimizer = training.make_optimizer("sgd", 0.05)
    carry = shapes[True].initialize_carry(batch) if stateful else None
    common = dict(window=window)
    if stateful:
        starts = jnp.asarray(data.sequential_starts(200, window, batch))            # 5 steps an epoch
        epoch = training.make_sequential_epoch(apply, optimizer, training.huber, series, targets, starts,
                                               initial_carry=carry, **common)
    elif kind == "streamed":
        epoch = training.make_streamed_epoch(apply, optimizer, training.huber, file, file[1:], range(45),
                                             batch_size=batch, every_step=False, **common)
    else:
        starts = jnp.asarray(data.window_starts(48, window))                        # 45: 5 steps, the last of 5
        epoch = training.make_windowed_epoch(apply, optimizer, training.huber, series, targets, starts,
                                             batch_size=batch, every_step=False, **common)
    state = training.TrainState.create(params, optimizer, carry=carry)
    run = training.fit(training.Run.create(state), epoch, lambda s: {"valid_loss": s.totals.loss}, epochs=4,
                       mesh=mesh)
    state = run.state
    assert int(state.step) == 20
    devices = len(jax.tree.leaves(state.params)[0].sharding.device_set)
    assert devices == (1 if mesh is None else 8), devices
    return jax.device_get((state.params, state.carry, [row["loss"] for row in run.history]))

# The optimiser's state is where the parameters are, also if they are on another device than the first.
second = training.TrainState.create(jax.device_put(params, jax.devices()[1]), optax.adam(1e-2))
assert {leaf.devices().pop().id for leaf in jax.tree.leaves(second.opt_state) if leaf.ndim} == {1}
apart = {number: jax.device_put(np.ones(3), jax.devices()[number]) for number in range(2)}
state = training.TrainState.create(apart, optax.contrib.schedule_free_adamw(1e-2))
assert {leaf.devices().pop().id for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim} == {0, 1}

for kind in ("windowed", "stateful", "streamed"):
    one, eight = train(kind, None), train(kind, mesh)
    # m and n of an sLSTM's carry grow with time, and so does the rounding error of numbers above 1.
    worst = max(float((np.abs(np.asarray(a) - np.asarray(b)) / np.maximum(1, np.abs(np.asarray(b)))).max())
                for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True))
    assert worst < 1e-5, (kind, worst)  # rounding, through as many layers as there are cells
    print(kind, "agree")
"""


def test_eight_devices_equal_one_after_twenty_steps(tmp_path):
    command = [sys.executable, "-W", "error", "-c", CODE, str(tmp_path / "series.npy")]
    flags = f"--xla_cpu_multi_thread_eigen=false {XLA_FLAGS}"
    on_the_cpu = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    run = subprocess.run(command, cwd=ROOT, env=on_the_cpu, capture_output=True, text=True, check=False)
    assert run.stdout == "windowed agree\nstateful agree\nstreamed agree\n", run.stdout + run.stderr
