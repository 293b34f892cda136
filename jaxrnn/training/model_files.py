"""Saves a trained model in a folder and loads it again."""

import os
from typing import Any

import jax
from flax import nnx

from jaxrnn.training.apply import Model, model_with, structure
from jaxrnn.training.checkpoint import CheckpointError, CheckpointStore
from jaxrnn.training.distributed import local


def save_model(model: nnx.Module, folder: str | os.PathLike[str]) -> None:
    """Save all variables of a model. They replace a model that was saved in the folder before.

    The folder holds a checkpoint of :class:`jaxrnn.training.CheckpointStore`: every byte has a checksum, and if
    the save is interrupted, the earlier model stays intact.

    Under ``jax.distributed`` only one process may save to a folder:
    ``if jax.process_index() == 0: save_model(model, folder)``.

    Raises:
      CheckpointError: the folder holds checkpoints of a training run, or another process writes to it.
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
    try:
        with CheckpointStore(folder, keep=1) as store:
            store.save(_STEP, _arrays(nnx.state(model)), {"model": type(model).__name__})
    except CheckpointError as error:
        if jax.process_count() == 1:
            raise
        raise CheckpointError(
            f"{error}. If all {jax.process_count()} processes save one model, let only one of them do it: "
            f"if jax.process_index() == 0"
        ) from error


def load_model(model: Model, folder: str | os.PathLike[str]) -> Any:
    """Make a new model with the variables that :func:`save_model` wrote; see there for an example.

    Args:
      model: a model of the same structure, which is not changed, or a function that makes one.
      folder: the folder that was given to :func:`save_model`.

    Raises:
      CheckpointError: the folder holds no model, it is damaged, or its variables differ from those of ``model``;
        the message names the differences.
    """
    _, state = structure(model)
    store = CheckpointStore(folder)
    if (steps := store.steps()) and _STEP not in steps:
        raise CheckpointError(
            f"{store.directory} holds a training run, not a model of save_model. Restore the run as "
            f"jaxrnn.training describes, and take its best_model"
        )
    arrays = store.restore(_arrays(state), step=_STEP).arrays
    nnx.replace_by_pure_dict(state, arrays)
    return model_with(model, state)


_STEP = 0


def _arrays(state: Any) -> dict[str, Any]:
    return nnx.to_pure_dict(local(state))
