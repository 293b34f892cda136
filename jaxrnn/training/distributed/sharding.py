"""Arrays on a mesh of devices, which may belong to several processes: copies on each, or rows spread over them.

The train state is whole on every device, so that a checkpoint is the same whatever it was trained on and any
process can write it. Only the rows of a batch are spread.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

WHOLE = P()
"""The sharding of what is whole on every device."""


def batch_axis(mesh: Mesh) -> tuple[Mesh, str]:
    """The mesh with an axis that the compiler manages, whichever kind was given, and the name of that axis.

    Raises:
      ValueError: the mesh has another number of axes than one.
    """
    if len(mesh.axis_names) != 1:
        raise ValueError(f"the mesh must have one axis, for the rows of a batch, not {mesh.axis_names}")
    return Mesh(mesh.devices, mesh.axis_names), mesh.axis_names[0]


def padded(rows: int, mesh: Mesh | None) -> int:
    """So many rows as ``rows`` or more, that they divide over the devices of the mesh.

    >>> padded(7, None), padded(7, jax.make_mesh((1,), ("batch",)))
    (7, 7)
    """
    devices = 1 if mesh is None else mesh.size
    return -(-rows // devices) * devices


def put(tree: Any, mesh: Mesh, spec: P = WHOLE) -> Any:
    """The arrays on the mesh: by default whole on every device. Every process must hold all of their values."""
    sharding = NamedSharding(mesh, spec)

    def one(leaf: Any) -> Array:
        if isinstance(leaf, Array) and leaf.sharding == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(local(leaf)))
            return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
        # device_put would have all processes compare their values first, a message per array.
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """One device's copy of arrays that are whole on every device; other leaves as they are."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Array) or len(leaf.sharding.device_set) == 1:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf).addressable_data(0)
            return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
        return leaf.addressable_data(0)

    return jax.tree.map(one, tree)
