"""Models as serialised StableHLO programs, which JAX runs without this package."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from jax import Array

from jaxrnn import checks
from jaxrnn.export.files import PathLike, free_path, not_a_module, write_file
from jaxrnn.export.window_model import require_time
from jaxrnn.layers import RNN, Bidirectional, StackedRNN
from jaxrnn.layers.zoneout import Zoneout
from jaxrnn.ops.dispatch import exported_programs

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    model: nnx.Module,
    path: PathLike | None = None,
    *,
    batch: int | None = None,
    time: int | None = None,
    features: int | Sequence[int] | None = None,
    seq_lengths: bool = False,
    resets: bool = False,
    reset_carry: str | None = None,
    initial_carry: bool = False,
    return_carry: bool | None = None,
    platforms: Sequence[str] = PLATFORMS,
    overwrite: bool = False,
) -> bytes:
    """Export a model as a serialised StableHLO program, weights included.

    ``jax.export.deserialize`` loads it in a process that has JAX but neither this package nor Flax. The program
    is the scan, which runs on every platform. It is not the C++ library and not a kernel, whatever
    ``implementation`` the layers name.

    Args:
      model: :class:`jaxrnn.RNN`, :class:`jaxrnn.Bidirectional`, a stack of layers, :class:`jaxrnn.RNNForecaster`,
        or any module that is called with ``inputs [batch, time, features]``; or a
        :class:`jaxrnn.LanguageModel` or :class:`jaxrnn.SequenceClassifier` of tokens ``[batch, time]``; or
        :class:`jaxrnn.forecasting.CalibratedNetworks`, whose further inputs are keyword arguments.
      path: of the file to write; None only returns the bytes.
      batch, time: fixed sizes of these axes; with None the program takes any size of at least 1.
      features: size of the last axis of the inputs, or a sequence of sizes of several; None takes that of the
        model's first cell.
      seq_lengths: whether the program also takes ``seq_lengths``, int32 ``[batch]``.
      resets: whether the program also takes ``resets``, bool ``[batch, time]``.
      reset_carry: ``"zeros"``, or None for the first carry: what they return to, as in :class:`jaxrnn.RNN`.
      initial_carry: whether the program also takes ``initial_carry``, a tuple of arrays in the order of
        ``jax.tree.leaves`` of the model's carry.
      return_carry: whether the program returns ``(carry, outputs)``, the carry as such a tuple; None does what
        the model does.
      platforms: where the program may run.
      overwrite: whether a file that exists may be replaced.

    Returns:
      The serialised program. Loaded, it is called as ``program.call(inputs)``, with ``seq_lengths``, ``resets``
      and ``initial_carry`` as keyword arguments where they were asked for. The inputs are float32, or float64
      where a parameter is; tokens are int32.

    Raises:
      ValueError: an argument is invalid or does not fit the model, the model is training with dropout or is a
        cell, a call changes variables of its own, or the path exists already.
      OSError: the file cannot be written.

    Source: https://docs.jax.dev/en/latest/export/export.html, which says how long a program can be loaded.

    >>> import jax, jax.export
    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> model = jaxrnn.RNNForecaster(hidden_features=4, output_scale=200.0, rngs=nnx.Rngs(0))
    >>> program = jax.export.deserialize(bytearray(to_stablehlo(model)))
    >>> program.call(jnp.ones((5, 30, 1))).shape        # any batch, any time
    (5, 1)
    """
    if not isinstance(model, nnx.Module):
        raise ValueError(not_a_module(model, "a Flax module"))
    free = None if path is None else free_path(path, overwrite)
    seq_lengths, resets = checks.flag("seq_lengths", seq_lengths), checks.flag("resets", resets)
    to_zeros = returns_to_zeros(reset_carry, resets)
    initial_carry = checks.flag("initial_carry", initial_carry)
    return_carry = checks.flag("return_carry", return_carry, default=bool(getattr(model, "return_carry", False)))
    require_evaluation(model)
    if hasattr(type(model), "num_feature_axes"):
        kind = type(model).__name__
        raise ValueError(f"a {kind} is a cell, which has no time axis: export the layer jaxrnn.RNN({kind}(...))")
    require_parameters(
        model,
        seq_lengths=seq_lengths,
        resets=resets,
        reset_carry=to_zeros,
        initial_carry=initial_carry,
        return_carry=return_carry,
    )
    windowed: Any = model if hasattr(model, "further_inputs") else None
    if windowed is not None:
        require_time(windowed, time)
        if features not in (None, windowed.input_shape[1]):
            raise ValueError(f"a {type(model).__name__} reads {windowed.input_shape[1]} features, not {features=}")
        time, features = windowed.input_shape
    batch_size, steps = _sizes(batch, time)
    lead = (steps, batch_size) if getattr(model, "time_major", False) else (batch_size, steps)
    graphdef, state = nnx.split(model)
    if features is None and reads_tokens(model):
        inputs = jax.ShapeDtypeStruct(lead, jnp.int32)
    else:
        inputs = jax.ShapeDtypeStruct((*lead, *_features(model, features)), _dtype(state))
    program = _Program(graphdef, state, return_carry, {"reset_carry": reset_carry} if to_zeros else {})
    further = {} if windowed is None else windowed.further_inputs
    options: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((batch_size, *sizes), jnp.float32) for name, sizes in further.items()
    }
    with exported_programs(True):
        if seq_lengths:
            options["seq_lengths"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        if resets:
            options["resets"] = jax.ShapeDtypeStruct(lead, jnp.bool_)
        if initial_carry:
            carry = jax.eval_shape(_Program(graphdef, state, True).carry, inputs)
            program.treedef = jax.tree.structure(carry)
            options["initial_carry"] = tuple(jax.tree.leaves(carry))
        try:
            exported = jax.export.export(jax.jit(program), platforms=_platforms(platforms))(inputs, **options)
        except TraceContextError as error:
            raise ValueError(
                f"a {type(model).__name__} cannot be exported, because a call changes variables of its own (of "
                f"{', '.join(_with_variables(model))}), which a program does not keep: keep what changes in the "
                "carry of a cell"
            ) from error
    data = bytes(exported.serialize())
    if free is not None:
        write_file(free, data)
    return data


class _Program:
    """A model as a function of its inputs alone: the weights are constants, the carry is a plain tuple."""

    def __init__(self, graphdef: Any, state: Any, return_carry: bool, fixed: dict[str, Any] | None = None):
        self.graphdef, self.state, self.return_carry = graphdef, state, return_carry
        self.fixed = fixed or {}
        """Arguments of every call."""
        self.treedef: Any = None
        """Of the carry that the model takes; None where it takes none."""
        self.__name__ = "model"

    def __call__(self, inputs: Array, **options: Any) -> Any:
        if self.treedef is not None:
            options["initial_carry"] = jax.tree.unflatten(self.treedef, options["initial_carry"])
        if not self.return_carry:
            return self._model(inputs, **options)
        carry, outputs = self._model(inputs, **options)
        return tuple(jax.tree.leaves(carry)), outputs

    def carry(self, inputs: Array) -> Any:
        return self._model(inputs)[0]

    def _model(self, inputs: Array, **options: Any) -> Any:
        model: Any = nnx.merge(self.graphdef, self.state)
        for layers in layers_of(model):
            layers.remat_every = None  # for training: blocks of steps need a known number of them
        if "return_carry" in inspect.signature(model).parameters:
            options["return_carry"] = self.return_carry
        return model(inputs, **options, **self.fixed)


def reads_tokens(model: Any) -> bool:
    """Whether the inputs are numbers of tokens, which the model looks up in a table."""
    return any(isinstance(getattr(model, name, None), int) for name in ("vocabulary", "vocabulary_size"))


def layers_of(model: nnx.Module) -> Iterator[Any]:
    """Every recurrent layer in a model."""
    return (part for _, part in nnx.iter_modules(model) if isinstance(part, (RNN, StackedRNN)))


def _with_variables(model: nnx.Module) -> list[str]:
    """The types of the modules in a model that have other variables than parameters."""
    kinds = {
        type(part).__name__
        for _, part in nnx.iter_modules(model)
        if any(
            isinstance(value, nnx.Variable) and not isinstance(value, nnx.Param) for value in vars(part).values()
        )
    }
    return sorted(kinds)


def require_evaluation(model: nnx.Module) -> None:
    """A ValueError if the model draws dropout masks."""
    for path, part in nnx.iter_modules(model):
        if isinstance(part, nnx.Dropout) and part.rate and not part.deterministic:
            name = ".".join(map(str, path))
            raise ValueError(f"the model is training with dropout ({name}): call its eval() before the export")
        if isinstance(part, Zoneout) and not part.deterministic:
            name = ".".join(map(str, path))
            raise ValueError(f"the model is training with zoneout ({name}): call its eval() before the export")


def require_parameters(model: nnx.Module, **wanted: bool) -> None:
    """A ValueError if the model's call does not have a parameter that is wanted."""
    parameters = inspect.signature(model).parameters  # pyright: ignore[reportArgumentType]
    for name, is_wanted in wanted.items():
        if is_wanted and name not in parameters:
            raise ValueError(
                f"{name}=True needs a model that is called with {name}: a {type(model).__name__} is not"
            )


def returns_to_zeros(reset_carry: Any, resets: bool) -> bool:
    """Whether the carry returns to zeros where it is reset; a ValueError for anything that cannot be exported."""
    if reset_carry not in (None, "zeros"):
        raise ValueError(
            f'reset_carry must be "zeros", or None for the first carry, not {checks.shown(reset_carry)}: an '
            "exported model has no other"
        )
    if reset_carry and not resets:
        raise ValueError("reset_carry is what resets return to: add resets=True")
    return reset_carry is not None


def _sizes(batch: int | None, time: int | None) -> tuple[Any, Any]:
    sizes: dict[str, Any] = {"batch": batch, "time": time}
    free = [name for name, size in sizes.items() if size is None]
    for name in sizes.keys() - free:
        sizes[name] = checks.positive_integer(name, sizes[name])
    if free:
        symbols = jax.export.symbolic_shape(", ".join(free), constraints=[f"{name} >= 1" for name in free])
        sizes.update(zip(free, symbols))
    return sizes["batch"], sizes["time"]


def _features(model: Any, features: Any) -> tuple[int, ...]:
    if isinstance(features, Sequence) and not isinstance(features, str):
        return tuple(checks.positive_integer("features", size) for size in features)
    if features is not None:
        return (checks.positive_integer("features", features),)
    while isinstance(model, (RNN, StackedRNN, Bidirectional)):
        if isinstance(model, Bidirectional):
            model = model.forward_rnn
        else:
            model = model.cell if isinstance(model, RNN) else model.cells[0]
    known = getattr(model, "in_features", None)
    if not isinstance(known, int):
        raise ValueError(f"the inputs of a {type(model).__name__} have an unknown size: pass features=")
    return (known,)


def _dtype(state: Any) -> Any:
    """Of the inputs."""
    wide = any(getattr(leaf, "dtype", None) == jnp.float64 for leaf in jax.tree.leaves(state))
    return jnp.float64 if wide else jnp.float32


def _platforms(platforms: Any) -> tuple[str, ...]:
    known = ("cpu", "cuda", "rocm", "tpu")
    names = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    unknown = [str(name) for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"platforms must be one or more of {', '.join(known)}, not {checks.shown(platforms)}")
    return names
