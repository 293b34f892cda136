"""What several processes check before they train together (``jax.distributed``). One process skips all of it.

Without these checks, processes with different data would train a model that fits none of them, and processes with
different numbers of steps would wait for each other for ever.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.training.distributed import local, processes
from jaxrnn.training.run import Run
from jaxrnn.training.stepped import SteppedEpoch

_WAY_OUT = (
    "To train one model together, every process passes the same arguments, all of the data and "
    'mesh=jax.sharding.Mesh(jax.devices(), ("batch",)), and trains on its own rows of each batch; an epoch over '
    "buckets takes no mesh. For a model in each process, start programs without jax.distributed.initialize"
)

_CLOSE = 1e-4
"""How far projections of equal arrays may be apart: processors of different kinds differ in the last bits."""

_PART = 2**18
"""How many numbers are projected at once, which bounds the memory."""


def join(run: Run, epoch: SteppedEpoch | None, settings: Mapping[str, Any], *, saves: bool) -> None:
    """Check that all processes train one model. Over a mesh they all begin with the main process's state.

    Args:
      run: it gets the main process's arrays, unless its state is spread over the processes already.
      epoch: None for a function of the user's own, which may spread its state and data in any way.
      settings: what must be equal in all processes, by name (plain JSON).
      saves: whether this process was given a place for checkpoints.

    Raises:
      ProcessesDiffer: in every process, with the same message, which names what differs.
    """
    everyone = set(range(jax.process_count()))
    if len(everyone) == 1:
        return
    mesh = None if epoch is None else epoch.mesh
    taking_part = set() if mesh is None else {device.process_index for device in mesh.devices.flat}
    together = taking_part == everyone
    contents: dict[str, Any] = {}

    def describe() -> dict[str, Any]:
        if len(taking_part) > 1 and not together:
            raise ValueError(
                f"the mesh has devices of the processes {sorted(taking_part)} only, but there are {len(everyone)}"
            )
        leaves = jax.tree.leaves(run.arrays)
        shapes = " ".join(f"{getattr(leaf, 'dtype', '')}{jnp.shape(leaf)}" for leaf in leaves)
        facts: dict[str, Any] = {**settings, "the number of epochs done": run.epochs_run}
        facts["the patience"] = run.stopping.patience
        facts["the SHA-256 of the shapes in the run"] = hashlib.sha256(shapes.encode()).hexdigest()[:12]
        facts["whether the state is spread over the processes"] = _is_spread(run)
        if epoch is None:
            return facts
        facts["the number of steps in an epoch"] = epoch.steps
        facts["the mesh"] = [device.id for device in mesh.devices.flat] if together and mesh is not None else None
        for name, value in ({} if epoch.data is None else epoch.data()).items():
            is_array = hasattr(value, "dtype")
            facts[name] = f"{value.dtype}{list(value.shape)}" if is_array else value
            if is_array:
                contents[name] = _content([value])
        if not together:
            contents["the state"] = _content(jax.tree.leaves(local(run.state)))
        return facts

    try:
        processes.require_same(describe)
    except processes.ProcessesDiffer as error:
        raise processes.ProcessesDiffer(f"the processes cannot train together: {error}. {_WAY_OUT}") from error
    answers = processes.gather_json([contents, saves])
    first, main_saves = answers[0]
    for process, (others, other_saves) in enumerate(answers):
        differ = [name for name in contents if not _agree(first[name], others[name])]
        if differ:
            raise processes.ProcessesDiffer(
                f"the processes cannot train together: the numbers in {' and '.join(differ)} of process {process} "
                f"are not those of process 0. {_WAY_OUT}"
            )
        if other_saves and not main_saves:
            raise processes.ProcessesDiffer(
                f"process {process} has checkpoints=, but process 0, which saves, has none: give them to process 0"
            )
    if together and not _is_spread(run):
        shared = processes.share_arrays(local(run.arrays))
        run.state, run.best_params = shared["state"], shared["best_params"]
    elif epoch is not None and not together and processes.is_main():
        warnings.warn(
            f"each of the {len(everyone)} processes trains the same model on the same data. {_WAY_OUT}",
            stacklevel=3,
        )


def _is_spread(run: Run) -> bool:
    """Whether the state is on devices of several processes, as after :func:`jaxrnn.training.fit`."""
    return all(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(run.state))


def _content(leaves: Sequence[Any]) -> dict[str, Any]:
    """The SHA-256 of all that is exact, and projections of all floating numbers, with their norm and tolerance."""
    exact, close, square, tolerance = hashlib.sha256(), np.zeros(4), 0.0, _CLOSE
    random = np.random.default_rng(0)
    for leaf in leaves:
        is_key = jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)
        array: Any = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            exact.update(array.tobytes())
            continue
        tolerance = max(tolerance, 8 * float(jnp.finfo(array.dtype).eps))
        flat = array.ravel()
        for start in range(0, flat.size, _PART):
            part = flat[start : start + _PART]
            part = np.concatenate([part.real, part.imag]) if np.iscomplexobj(part) else part
            values = np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0)
            close += random.standard_normal((4, values.size)) @ values
            square += float(values @ values)
    return {"exact": exact.hexdigest(), "close": close.tolist(), "norm": square**0.5, "tolerance": tolerance}


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    far = np.abs(np.subtract(one["close"], other["close"])).max()
    return one["exact"] == other["exact"] and bool(far <= one["tolerance"] * one["norm"])
