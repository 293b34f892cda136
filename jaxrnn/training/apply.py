"""Turns models into functions of their parameters, and parameters back into models."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn.ops.compilation import for_one_call

Apply = Callable[[Any, Array, Any], tuple[Any, Array]]
"""``(params, inputs, carry) -> (carry, predictions)``; a carry of None means the model's own initial carry.

Functions of :func:`pure_apply` take an array of inputs, or :class:`Sequences`. A function that also has a keyword
``key=None`` gets a random key at every training step, for dropout, and none where nothing is to be dropped.
"""

Model = nnx.Module | Callable[[], nnx.Module]
"""A model, or a function without arguments that makes one."""

_INTERFACE = "model(inputs), or model(inputs, initial_carry=carry, return_carry=True) to carry a state along"


class Sequences(NamedTuple):
    """The inputs of a model that reads sequences of many lengths.

    A function of :func:`jaxrnn.training.pure_apply` calls the model with them as ``model(inputs,
    seq_lengths=seq_lengths)``, and adds ``dropout_key=key`` if the model takes one.

    Attributes:
      inputs: ``[batch, time, dims]``, or token numbers ``[batch, time]``.
      seq_lengths: int32 ``[batch]``.
      key: a random key for dropout; None drops nothing.
    """

    inputs: Array
    seq_lengths: Array
    key: Array | None = None


@dataclass(frozen=True)
class _Random:
    """What a model keeps of its ``nnx.Rngs``, without the numbers: it is hashable, and equal for equal models."""

    treedef: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...]

    @classmethod
    def of(cls, state: Any) -> "_Random | None":
        leaves, treedef = jax.tree.flatten(state)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        return cls(treedef, shapes) if shapes else None

    def seeded(self, key: Array) -> Any:
        """The same with other keys, all made from this one, and with counters that begin again."""
        leaves = [
            jax.random.split(jax.random.fold_in(key, number), shape.shape)
            if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
            else jnp.zeros(shape.shape, shape.dtype)
            for number, shape in enumerate(self.shapes)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


@dataclass(frozen=True, eq=False)
class _ModelApply:
    """It is equal for equal models, so that their trainings share compiled programs.

    A model with a plain attribute that can change, such as a list, has no hash: its function is equal only to
    itself, because a program that was compiled for an earlier content of the list must not be used again.
    """

    graphdef: Any
    model_type: type
    takes_carry: bool
    random: _Random | None = None

    def __hash__(self) -> int:
        try:
            return hash((self.graphdef, self.model_type, self.takes_carry, self.random))
        except TypeError:
            return id(self)

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, _ModelApply) or hash(self) != hash(other):
            return False
        return self is other or all(getattr(self, one.name) == getattr(other, one.name) for one in fields(self))

    def __call__(self, params: Any, inputs: Array, carry: Any, *, key: Array | None = None) -> tuple[Any, Array]:
        if self.random is None:
            model: Any = nnx.merge(self.graphdef, params)
        else:
            model = nnx.merge(self.graphdef, self.random.seeded(jax.random.key(0) if key is None else key), params)
            model.eval() if key is None else model.train()
        options = {}
        if isinstance(inputs, Sequences):
            if carry is not None:
                raise ValueError("a model of whole sequences takes no carry")
            key = key if inputs.key is None else inputs.key
            options["seq_lengths"] = inputs.seq_lengths
            inputs = inputs.inputs
        elif self.takes_carry:
            options |= {"initial_carry": carry, "return_carry": True}
        elif carry is not None:
            raise ValueError(_no_carry(self.model_type))
        if "dropout_key" in inspect.signature(self.model_type.__call__).parameters:
            options["dropout_key"] = key
        results = model(inputs, **options)
        return results if "return_carry" in options else (None, results)


def with_key(apply: Apply, key: Array) -> Apply:
    """The function of a model that is training: what is random in it, such as dropout, comes from this key."""
    try:
        parameters = inspect.signature(apply).parameters
    except (TypeError, ValueError):  # a callable whose parameters are not known
        return apply
    parameter = parameters.get("key")
    if parameter is None or parameter.default is not None:
        return apply
    by_name = parameter.kind is parameter.KEYWORD_ONLY
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
        by_name = list(parameters).index("key") >= 3  # after the model's parameters, the inputs and the carry
    call: Any = apply
    return partial(call, key=key) if by_name else apply


def held_leaves(params: Any) -> list[bool]:
    """Of every leaf, whether training must not change it.

    That is a leaf of a variable that is no ``nnx.Param``, or an array that is itself an attribute of a module.

    Raises:
      ValueError: a leaf that may change has no gradient, since it holds integers.

    >>> held_leaves({"kernel": nnx.Param(jnp.ones(2)), "mean": nnx.Variable(jnp.zeros(2))})
    [False, True]
    """
    held, nodes = [], jax.tree.leaves_with_path(params, is_leaf=lambda node: isinstance(node, nnx.Variable))
    of_model = isinstance(params, nnx.State) and any(isinstance(node, nnx.Variable) for _, node in nodes)
    for path, node in nodes:
        fixed = of_model if not isinstance(node, nnx.Variable) else not isinstance(node, nnx.Param)
        leaves = jax.tree.leaves(node)
        dtypes = [jnp.result_type(leaf) for leaf in leaves]
        if not fixed and not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} of the parameters has the dtype {dtypes[0]}, so it has no "
                f"gradient: keep what is not learned in an nnx.Variable that is no nnx.Param"
            )
        held += [fixed] * len(leaves)
    return held


_NEEDS_VALUES = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)
"""The errors of a function that makes a model and computes with the numbers of its weights, as
:func:`jaxrnn.export.quantize` does: JAX cannot trace it, so it is called."""


def pure_apply(model: Model) -> tuple[Apply, Any]:
    """Split a model into a function of its parameters and the parameters.

    The function runs under plain ``jax.jit``. A model that takes ``initial_carry`` and ``return_carry``, as
    :class:`jaxrnn.RNNForecaster` and every recurrent layer do, gets the carry and returns the next one. Any other
    module is called with the inputs alone, and its carry is None.

    What is random in a model, such as dropout, gets other keys at every training step, made from the key of the
    train state: the keys and counters of the model's own ``nnx.Rngs`` are not used. A call of the function alone,
    as for validation, runs the model as after its ``eval()``: nothing is dropped.

    Training changes only the variables that are ``nnx.Param``. Others, such as the mean and the scale of the
    inputs in an ``nnx.Variable``, are kept.

    Args:
      model: a model, or a function that makes one. A function starts faster: all initialisers are compiled as one
        program instead of one by one. For the function alone, give ``nnx.eval_shape(make)``.

    Returns:
      The function, an :data:`Apply`, and the model's variables as an ``nnx.State``, without those of ``nnx.Rngs``.

    Raises:
      ValueError: the model cannot be called with inputs alone, or it keeps running statistics, as
        ``nnx.BatchNorm`` does: no function of parameters and inputs could update them.

    >>> from flax import nnx
    >>> import jaxrnn
    >>> apply, params = pure_apply(lambda: jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)))
    >>> carry, forecasts = apply(params, jnp.ones((2, 30)), None)
    >>> forecasts.shape
    (2, 1)
    """
    applies = []

    def parts(made: Any) -> Any:
        graphdef, random, params = nnx.split(made, nnx.RngState, ...)
        takes_carry = _takes_carry(type(made))
        _require_no_statistics(type(made), params)
        applies.append(_ModelApply(graphdef, type(made), takes_carry, _Random.of(random)))
        return params

    if isinstance(model, nnx.Module):
        params = parts(model)
    else:  # it is called once, while JAX traces its program; what is no array comes out by the list
        make = _require_maker(model)
        try:
            params = for_one_call(lambda: parts(make()))()
        except _NEEDS_VALUES:
            params = parts(make())
    return applies[-1], params


def make_initializer(make: Callable[..., nnx.Module]) -> Callable[..., Any]:
    """Compile a function that makes a model, to make the initial variables of many of them.

    Call it outside of transformations such as ``jax.jit``: it is compiled with options of its own.

    Args:
      make: a function that returns a model, of arrays such as a random key.

    Returns:
      A function of the same arguments to the variables, as :func:`pure_apply` returns them.

    >>> import jaxrnn
    >>> initial = make_initializer(lambda key: jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(key)))
    >>> initial(jax.random.key(0))["head"]["kernel"].shape
    (4, 1)
    """
    return for_one_call(lambda *arguments: nnx.split(make(*arguments), nnx.RngState, ...)[2])


def structure(model: Model) -> tuple[Any, Any]:
    """A model's graph definition and state. For a function that makes a model, the state has only shapes."""
    return nnx.split(_abstract(model))


def _abstract(model: Model) -> nnx.Module:
    """The model, or for a function that makes one, a model of shapes."""
    if isinstance(model, nnx.Module):
        return model
    make = _require_maker(model)
    try:
        return nnx.eval_shape(make)
    except _NEEDS_VALUES:
        return make()


def model_with(model: Model, params: Any) -> Any:
    """Make a new model of the same structure that holds a copy of these parameters.

    Args:
      model: a model, or a function that makes one; the function is only traced, so that no initialiser runs,
        unless it computes with the numbers of the weights.
      params: as :func:`pure_apply` returns them for that model, or with the variables of its ``nnx.Rngs``.

    Raises:
      ValueError: the parameters have other names or shapes than the model's.
    """
    graphdef, random, expected = nnx.split(_abstract(model), nnx.RngState, ...)
    given, params = nnx.split_state(params, nnx.RngState, ...)
    if jax.tree.leaves(given):
        random = given
    elif jax.tree.leaves(random) and not isinstance(model, nnx.Module):
        make = _require_maker(model)
        try:
            random = for_one_call(lambda: nnx.split(make(), nnx.RngState, ...)[1])()
        except _NEEDS_VALUES:
            random = nnx.split(make(), nnx.RngState, ...)[1]
    shapes = [
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, expected)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the parameters {shapes[0]} do not fit the model, which has {shapes[1]}")
    return nnx.merge(graphdef, *jax.tree.map(jnp.array, (random, params)))


def check_apply(apply: Any, *, with_carry: bool = False) -> None:
    """Raise a ValueError unless this can be called as an :data:`Apply`, and takes a carry if ``with_carry``."""
    if isinstance(apply, nnx.Module) or not callable(apply) or not _accepts(apply, 3):
        raise ValueError(
            f"apply must be a function (params, inputs, carry) -> (carry, predictions), not {_name(apply)}. "
            f"Make one from a model with apply, params = jaxrnn.training.pure_apply(model)"
        )
    if with_carry and isinstance(apply, _ModelApply) and not apply.takes_carry:
        raise ValueError(_no_carry(apply.model_type))


def _takes_carry(kind: type) -> bool:
    if not _accepts(kind.__call__, 2) or issubclass(kind, nnx.RNNCellBase):
        hint = ". Wrap the cell in a layer: jaxrnn.RNN(cell)" if issubclass(kind, nnx.RNNCellBase) else ""
        raise ValueError(f"{kind.__name__} cannot be trained: a model is called as {_INTERFACE}{hint}")
    parameters = inspect.signature(kind.__call__).parameters
    # A wrapper with **kwargs may pass both on to a layer. nnx.Sequential passes them to its first layer only, so
    # the carry would get lost.
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {"initial_carry", "return_carry"} <= set(parameters) or (
        passes_on and not issubclass(kind, nnx.Sequential)
    )


def _require_no_statistics(kind: type, params: Any) -> None:
    statistics = nnx.filter_state(params, nnx.BatchStat)
    names = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(statistics)]
    if names:
        raise ValueError(
            f"{kind.__name__} keeps running statistics ({', '.join(names)}), which no training step here updates. "
            f"Normalise by nnx.LayerNorm, nnx.RMSNorm or nnx.GroupNorm, which keep none"
        )


def _accepts(function: Any, positional: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * positional)
    except TypeError:
        return False
    except ValueError:  # a function written in C has no signature
        return True
    return True


def _require_maker(model: Any) -> Callable[[], nnx.Module]:
    if not callable(model):
        raise ValueError(f"model must be an nnx.Module or a function that makes one, not {_name(model)}")
    make: Any = model
    return make


def _no_carry(kind: type) -> str:
    return f"{kind.__name__} takes no carry, but stateful training needs a model that is called as {_INTERFACE}"


def _name(value: Any) -> str:
    return f"the module {type(value).__name__}" if isinstance(value, nnx.Module) else repr(value)
