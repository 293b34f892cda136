"""What the tests of checkpoints save, compare, damage and run."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn.training.checkpoint import CheckpointStore, files


class Carry(NamedTuple):
    c: jax.Array
    h: jax.Array | None


def small(value: float) -> dict[str, jax.Array]:
    return {"kernel": jnp.full((3, 5), value), "bias": jnp.arange(4.0) + value}


def everything() -> dict[str, Any]:
    """Each kind of leaf and container that a training state is made of."""
    params = {"cell": {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}, "none": None, "empty": {}}
    optimizer = optax.adam(1e-3)
    _, moments = optimizer.update(jax.tree.map(jnp.sin, params), optimizer.init(params))
    return {
        "params": params,
        "optimizer": moments,
        "carry": Carry(c=jnp.full((2, 2), 1.1, jnp.bfloat16), h=None),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8, impl="rbg"), 3),
        "list": [jnp.array(True), jnp.arange(3), np.float32(0.1), np.arange(4, dtype=np.uint8), ()],
        "numbers": {"int": 3, "float": 0.1, "bool": True},
        "odd": jnp.array([jnp.nan, -jnp.nan, -0.0, jnp.inf, 1e-42]),
        "minus_zero": jnp.full((3,), -0.0),
        "no_elements": jnp.zeros((0, 3)),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "a/b.c ü\n'": {"": jnp.ones(1), ".": jnp.zeros(1)},
    }


def content(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Dtype, shape and bytes; Python numbers as jit sees them."""
    array = leaf if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)
    dtype, shape = str(array.dtype), array.shape
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return dtype, shape, np.asarray(array).tobytes()


def assert_same(tree: Any, other: Any) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    assert [content(x) for x in jax.tree.leaves(tree)] == [content(x) for x in jax.tree.leaves(other)]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def edit_record(folder: Path, **changes: Any) -> None:
    """What a forger can do: change the record and make its checksum fit."""
    path = folder / "record.json"
    forged = json.loads(path.read_text())["content"] | changes
    path.write_text(json.dumps({"sha256": files.sha256(json.dumps(forged).encode()), "content": forged}))


def is_orbax(path: Any) -> bool:
    """Whether a rename is one that Orbax does itself, in a thread of its own."""
    return "orbax" in str(path)


def newest(store: CheckpointStore) -> Path:
    return store.directory / "step_00000002"


def environment() -> dict[str, str]:
    root = str(Path(jaxrnn.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
