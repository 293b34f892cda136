"""Parameters in a safetensors file, by the names that Flax gives them."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn import checks
from jaxrnn.export.files import PathLike, free_path, package, version, write_file

FORMAT = "jaxrnn parameters 1"


def save_safetensors(model: nnx.Module, path: PathLike, *, overwrite: bool = False) -> None:
    """Save the parameters of a model in a safetensors file, which many programs and languages read.

    Every variable of the model (parameters, statistics of a batch norm) is stored with its dtype and shape. Its
    name is its path in the model, joined by dots: ``layers.cells.0.kernel``. Random keys, as of dropout, are not
    stored. The metadata of the file name the version of jaxrnn, the format and the model's type. The file is
    written to a temporary name and then renamed, so that a full disk leaves what was there before.

    To keep a model for jaxrnn itself, with a checksum of every byte, see :func:`jaxrnn.training.save_model`.

    Args:
      model: any Flax module.
      path: of the file.
      overwrite: whether a file that exists may be replaced.

    Raises:
      ValueError: the path exists already, two variables have one name, or a variable has a dtype that the format
        does not have.
      ImportError: the package safetensors is not installed.
      OSError: the file cannot be written.

    Source: https://huggingface.co/docs/safetensors, which describes the format.

    >>> import tempfile
    >>> import jaxrnn
    >>> from flax import nnx
    >>> layers = jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(layers, f"{folder}/gru.safetensors")
    ...     other = jaxrnn.GRU(3, 4, rngs=nnx.Rngs(1))
    ...     load_safetensors(other, f"{folder}/gru.safetensors")
    >>> bool((other.cells[0].kernel[...] == layers.cells[0].kernel[...]).all())
    True
    """
    safetensors = package("safetensors.numpy")
    free = free_path(path, overwrite)
    arrays = {name: np.array(variable.get_value(), order="C") for name, variable in _variables(model)[0].items()}
    metadata = {"format": FORMAT, "jaxrnn_version": version(), "model": type(model).__name__}
    try:
        data = safetensors.save(arrays, metadata)
    except (package("safetensors").SafetensorError, KeyError, TypeError, ValueError) as error:
        dtypes = ", ".join(sorted({str(array.dtype) for array in arrays.values()}))
        raise ValueError(f"the model cannot be stored as safetensors ({error}); it has {dtypes}") from error
    write_file(free, data)


def load_safetensors(model: nnx.Module, path: PathLike) -> None:
    """Load what :func:`save_safetensors` wrote into a model of the same structure.

    The model's variables keep their dtype: floating numbers of another width are rounded, or widened, to it. An
    error leaves the model as it was.

    Args:
      model: any Flax module; its random keys stay as they are.
      path: of the file, which may come from another program that uses the same names.

    Raises:
      ValueError: the file is damaged or of another format; or a name is missing or unknown, or a shape or kind of
        number differs: the message names all of them.
      FileNotFoundError: there is no such file.
      ImportError: the package safetensors is not installed.

    >>> import tempfile
    >>> import jaxrnn
    >>> from flax import nnx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0)), f"{folder}/gru.safetensors")
    ...     load_safetensors(jaxrnn.GRU(3, 5, rngs=nnx.Rngs(0)), f"{folder}/gru.safetensors")
    Traceback (most recent call last):
    ValueError: .../gru.safetensors does not fit this GRU: cells.0.bias has shape (12,), but ...
    """
    safetensors = package("safetensors")
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {kind}")
    try:
        with safetensors.safe_open(path, "np") as file:
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or is not a safetensors file: {error}") from error
    variables, state = _variables(model)
    problems = [_problem(name, arrays.get(name), variables.get(name)) for name in {**variables, **arrays}]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ValueError(f"{path} does not fit this {type(model).__name__}: {'; '.join(found)}")
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(arrays[name], jnp.result_type(variable.get_value())))
    nnx.update(model, state)


def _variables(model: nnx.Module) -> tuple[dict[str, Any], nnx.State]:
    """Every variable but random keys and their counters, by its path joined by dots; and the state of them all."""
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model must be a Flax module, not {checks.shown(model)}")
    variables, state = {}, nnx.state(model, nnx.Not(nnx.RngState))
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        if name in variables:
            raise ValueError(f"two variables of the {type(model).__name__} have the name {name}")
        variables[name] = variable
    return variables, state


def _problem(name: str, array: np.ndarray | None, variable: Any) -> str | None:
    """Why a variable cannot take an array of this name, or None."""
    if variable is None:
        return f"{name} is unknown to the model"
    if array is None:
        return f"{name} is missing"
    value = variable.get_value()
    shape, dtype = np.shape(value), jnp.result_type(value)
    if array.shape != shape:
        return f"{name} has shape {array.shape}, but the model needs {shape}"
    both_floating = jnp.issubdtype(array.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)
    if array.dtype != dtype and not both_floating:
        return f"{name} is {array.dtype}, but the model needs {dtype}"
    return None
