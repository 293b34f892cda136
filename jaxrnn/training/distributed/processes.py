"""Agreement between several processes that train together (``jax.distributed``). One process skips all of it.

All processes run the same program and must take the same number of steps: if one stops alone, the others wait for
it. But their clocks differ, and a signal reaches them at different times, so they exchange these values.
"""

import collections
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MESSAGE = np.uint8
_WORKED, _FAILED = 0, 1


class ProcessesDiffer(ValueError):
    """The processes of one job have different settings, data or devices."""


def is_main() -> bool:
    """Whether this is the main process, which writes checkpoints and logs, and whose clock is used."""
    return jax.process_index() == 0


def gather(numbers: Sequence[int]) -> np.ndarray:
    """Every process's numbers, int32 ``[processes, len(numbers)]``. Blocks until all processes have called it.

    >>> gather([3, 4]).tolist()
    [[3, 4]]
    """
    mine = np.asarray(numbers, np.int32)
    if jax.process_count() == 1:
        return mine[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(mine)).reshape(jax.process_count(), -1)


def gather_json(value: Any) -> list[Any]:
    """Every process's value (plain JSON), in the order of the processes. Blocks until all have called it.

    >>> gather_json({"seed": 0})
    [{'seed': 0}]
    """
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), _MESSAGE)
    lengths = gather([len(text)])[:, 0]
    padded = np.zeros(lengths.max(), _MESSAGE)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded), _MESSAGE).reshape(len(lengths), -1)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def require_same(describe: Callable[[], Mapping[str, Any]]) -> None:
    """Check that all processes agree, before they train one model together.

    Without this check, processes with different learning rates or data would train a model that fits neither, and
    processes with different numbers of steps would wait for each other for minutes.

    Args:
      describe: returns the values that must be equal in all processes, by name (plain JSON). Every process calls
        its own function. If one raises a ValueError or an OSError, all processes raise.

    Raises:
      ProcessesDiffer: in every process, with the same message, which names each difference and both values.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:  # with unequal counts the processes cannot exchange messages
        each = [counts[i] for i in range(jax.process_count())]
        raise ProcessesDiffer(_difference("the number of devices (--devices)", each))
    facts, error = {}, None
    try:
        facts = dict(describe())
    except (ValueError, OSError) as caught:
        error = str(caught)
    answers = gather_json([facts, error])
    errors = [f"process {i}: {error}" for i, (_, error) in enumerate(answers) if error is not None]
    if errors:
        raise ProcessesDiffer("; ".join(errors))
    names = list(dict.fromkeys(name for facts, _ in answers for name in facts))
    values = {name: [facts.get(name) for facts, _ in answers] for name in names}
    differences = [_difference(name, found) for name, found in values.items() if found != found[:1] * len(found)]
    if differences:
        raise ProcessesDiffer("; ".join(differences))


def _difference(name: str, values: Sequence[Any]) -> str:
    other = next(i for i, value in enumerate(values) if value != values[0])
    return f"{name} is {values[0]!r} in process 0 and {values[other]!r} in process {other}"


def share(value: Any) -> Any:
    """The main process's value (plain JSON), in all processes. The values of the others are ignored.

    >>> share({"loss": 0.1, "bad": float("nan")})
    {'loss': 0.1, 'bad': nan}
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value if is_main() else None).encode(), _MESSAGE)
    length = int(gather([len(text)])[0, 0])
    return json.loads(share_arrays(text if is_main() else np.zeros(length, _MESSAGE)).tobytes())


def share_arrays(tree: Any) -> Any:
    """The main process's arrays, in all processes; as NumPy arrays, except that PRNG keys stay keys.

    The other processes must pass arrays of the same shapes and dtypes. One process gets its own tree back.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    leaves, treedef = jax.tree.flatten(tree)
    keys = [str(jax.random.key_impl(leaf)) if _is_key(leaf) else None for leaf in leaves]
    # As bytes: the broadcast is a sum, which would change the bits of NaN, -0.0 and 64-bit integers.
    plain = [np.asarray(jax.random.key_data(leaf) if key else leaf) for leaf, key in zip(leaves, keys)]
    sent = [np.frombuffer(np.ascontiguousarray(array).tobytes(), _MESSAGE) for array in plain]
    got = multihost_utils.broadcast_one_to_all(sent)
    arrays = [
        np.frombuffer(np.asarray(data, _MESSAGE).tobytes(), array.dtype).reshape(array.shape)
        for data, array in zip(got, plain)
    ]
    return jax.tree.unflatten(
        treedef, [jax.random.wrap_key_data(jnp.asarray(a), impl=key) if key else a for a, key in zip(arrays, keys)]
    )


def on_main(function: Callable[[], Any]) -> Any:
    """Call a function in the main process only. All processes get its result (plain JSON).

    If it raises a ValueError or an OSError, the main process raises that, and the others a ValueError with the
    same message.

    >>> on_main(lambda: 3)
    3
    """
    if jax.process_count() == 1:
        return function()
    answer: list[Any] = [_WORKED, None]
    error: Exception | None = None
    if is_main():
        try:
            answer[1] = function()
        except (ValueError, OSError) as caught:
            error, answer = caught, [_FAILED, str(caught)]
    worked, result = share(answer)
    if worked == _FAILED:
        raise error if error is not None else ValueError(result)
    return result


def wait_for_all(name: str) -> None:
    """Block until every process has called this with the same name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
