"""A trained model in a folder, and back."""

import os
from typing import Any

from flax import nnx

from jaxrnn.training.apply import Model, model_with, structure
from jaxrnn.training.checkpoint import CheckpointStore
from jaxrnn.training.distributed import local


def save_model(model: nnx.Module, folder: str | os.PathLike[str]) -> None:
    """Save all variables of a model, in place of a model saved there before.

    The folder holds a checkpoint of :class:`jaxrnn.training.CheckpointStore`: every byte has a checksum, and a
    save that is interrupted leaves the model that was there.

    Raises:
      CheckpointError: the folder holds the checkpoints of a training, or another process writes there.
      OSError: the folder cannot be written.

    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> model = jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, folder)
    ...     loaded = load_model(lambda: jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(1)), folder)
    >>> bool((loaded(jnp.ones((2, 30))) == model(jnp.ones((2, 30)))).all())
    True
    """
    with CheckpointStore(folder, keep=1) as store:
        store.save(_STEP, _arrays(nnx.state(model)), {"model": type(model).__name__})


def load_model(model: Model, folder: str | os.PathLike[str]) -> Any:
    """A new model with the variables that :func:`save_model` wrote.

    Args:
      model: a model of the same structure, which stays as it is, or a function that makes one.
      folder: where it was saved.

    Raises:
      CheckpointError: there is no model, it is damaged, or it has other variables than ``model``; all are named.
    """
    _, state = structure(model)
    arrays = CheckpointStore(folder).restore(_arrays(state), step=_STEP).arrays
    nnx.replace_by_pure_dict(state, arrays)
    return model_with(model, state)


_STEP = 0


def _arrays(state: Any) -> dict[str, Any]:
    return nnx.to_pure_dict(local(state))
