"""Two processes that call fit train one model, or both say what is different.

Each pair serves several checks, since a process takes seconds to start.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.xla_flags import XLA_FLAGS

ROOT = Path(__file__).parents[2]

HEAD = """
import sys
import jax
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_enable_preemption_service", False)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import warnings
import jax.numpy as jnp, numpy as np
from flax import nnx
from jaxrnn import RNNForecaster, data, training

mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
optimizer = training.make_optimizer("adam", 1e-2)
make = lambda seed=0: RNNForecaster(hidden_features=3, rngs=nnx.Rngs(seed))
apply = training.pure_apply(make)[0]

def new_run(seed=0):
    return training.Run.create(training.TrainState.create(training.pure_apply(lambda: make(seed))[1], optimizer))

def epoch_of(n=60, shift=0.0, mesh=mesh):
    series = jnp.sin(jnp.arange(float(n)) / 3 + shift)[:, None]
    return training.make_windowed_epoch(apply, optimizer, training.huber, series, series[1:], jnp.arange(n - 11),
                                        window=10, batch_size=8, every_step=False, mesh=mesh)

def total(tree):
    return float(sum(np.abs(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(tree)))

def refused(*arguments, **options):
    try:
        training.fit(*arguments, **options)
    except ValueError as error:
        print(error)
    else:
        print("not refused")
"""


def outputs(code: str, folder: Path) -> list[list[str]]:
    """The lines that each of two processes prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": XLA_FLAGS}
    command = [sys.executable, "-W", "error", "-c", HEAD + code]
    pair = [
        subprocess.Popen(
            [*command, str(rank), port, str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=200) for process in pair]
    finally:
        for process in pair:
            process.kill()
            process.wait()
    assert [process.returncode for process in pair] == [0, 0], printed
    return [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in printed]


def test_two_processes_train_the_model_of_the_first_and_resume_it(tmp_path: Path):
    # Each process begins with a model of its own, and only the first one has a store.
    code = """
store = training.CheckpointStore(folder)
run = training.fit(new_run(rank), epoch_of(), epochs=2, mesh=mesh, checkpoints=store if rank == 0 else None)
trained = total(run.best_params), total(training.pure_apply(run.best_model(make))[1])
assert trained[0] == trained[1]
print(trained, run.history[-1]["loss"])
resumed = run.resumed(store)
assert [row["epoch"] for row in resumed.history] == [1, 2]
assert total(resumed.best_model(make)) == trained[0]
run = training.fit(resumed, epoch_of(), epochs=3, mesh=mesh, checkpoints=store if rank == 0 else None)
print(total(run.state.params), run.history[-1]["loss"])
run = training.fit(run, epoch_of(), epochs=4, mesh=mesh)
print(total(run.state.params), run.stopped)

from jaxrnn.training.distributed import processes
other = training.CheckpointStore(folder + "/model")
if rank == 0:
    other.claim()
processes.wait_for_all("claimed")
try:
    if rank == 1:
        training.save_model(run.best_model(make), folder + "/model")
except training.CheckpointError as error:
    assert "another process writes" in str(error) and "let only one of them do it" in str(error)
else:
    assert rank == 0
processes.wait_for_all("saved")
"""
    first, second = outputs(code, tmp_path / "checkpoints")
    assert first == second
    assert len(first) == 3


def test_processes_that_would_train_other_models_say_what_differs(tmp_path: Path):
    code = """
refused(new_run(), epoch_of(n=60 + rank), epochs=2, mesh=mesh)
refused(new_run(), epoch_of(shift=rank), epochs=2, mesh=mesh)
refused(new_run(), epoch_of(shift=rank, mesh=None), epochs=2)
refused(new_run(rank), epoch_of(mesh=None), epochs=2)
refused(new_run(), epoch_of(), epochs=2 + rank, mesh=mesh)
store = training.CheckpointStore(folder) if rank else None
refused(new_run(), epoch_of(), epochs=2, mesh=mesh, checkpoints=store)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run = training.fit(new_run(), epoch_of(mesh=None, shift=1e-6 * rank), epochs=1)  # the last bits may differ
print(run.stopped)
assert len(caught) == (rank == 0), caught
if rank == 0:
    assert "each of the 2 processes trains the same model" in str(caught[0].message)
"""
    wanted = [
        "features is 'float32[60, 1]' in process 0 and 'float32[61, 1]' in process 1",
        "the numbers in features and targets of process 1 are not those of process 0",
        "the numbers in features and targets of process 1 are not those of process 0",
        "the numbers in the state of process 1 are not those of process 0",
        "epochs is 2 in process 0 and 3 in process 1",
        "process 1 has checkpoints=, but process 0, which saves, has none",
        "epochs",
    ]
    for lines in outputs(code, tmp_path / "checkpoints"):
        assert len(lines) == len(wanted)
        for line, message in zip(lines, wanted):
            assert message in line
        assert 'mesh=jax.sharding.Mesh(jax.devices(), ("batch",))' in lines[0]
