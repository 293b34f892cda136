"""The cells of your own that the documentation shows, and the same ones scanned by hand.

Ours are read from the page that shows them, so that what is timed and tested is what is shown. By hand, a cell is
the function of one step that its author would scan without this library, for JAX to differentiate.
"""

import doctest
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxrnn
from benchmarks.libraries.user_cells import CELLS, STEPS

ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^(#+) A cell of your own$", re.MULTILINE)


@functools.cache
def readme_cells() -> Mapping[str, type[jaxrnn.RecurrentCell]]:
    """Name to class of every cell that the first page with this heading defines below it."""
    pages = [ROOT / "README.md", *sorted((ROOT / "jaxrnn").rglob("README.md"))]
    page, heading = next((p, h) for p in pages if (h := HEADING.search(p.read_text())))
    text = page.read_text()
    before, section = text[: heading.start()], text[heading.end() :]
    section = re.split(rf"^#{{1,{len(heading[1])}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    parser = doctest.DocTestParser()
    imports = [example for example in parser.get_examples(before) if "import" in example.source]
    classes = [example for example in parser.get_examples(section) if example.source.startswith("class ")]
    names: dict[str, Any] = {"__name__": "README"}
    for example in [*imports, *classes]:
        exec(compile(example.source, str(page), "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, type)}


def _leaky(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    a = jax.nn.sigmoid(params["leak"])
    return (1 - a) * h + a * jnp.tanh(xw + rh)


def _minimal_gated(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    (xf, xn), (hf, hn) = jnp.split(xw, 2, axis=-1), jnp.split(rh, 2, axis=-1)
    f = jax.nn.sigmoid(xf + hf)
    return (1 - f) * h + f * jnp.tanh(xn + f * hn)


def _layer_norm(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    z = xw + rh
    z = z - z.mean(-1, keepdims=True)
    z = z / jnp.sqrt((z**2).mean(-1, keepdims=True) + 1e-6)
    return jnp.tanh(z * params["norm"]["scale"] + params["norm"]["bias"])


BY_HAND = {"LeakyCell": _leaky, "MinimalGatedCell": _minimal_gated, "LayerNormCell": _layer_norm}
"""The new h from the parameters, h, and the contributions of inputs and h, ``[batch, gates * hidden]`` each."""

EVERY_STEP: Mapping[str, Any] = BY_HAND | STEPS
"""The same with the cells of user_cells.py."""


def every_cell() -> Mapping[str, type[jaxrnn.RecurrentCell]]:
    """The cells of the documentation and those of user_cells.py."""
    return {**readme_cells(), **CELLS}


def scan_by_hand(name: str, params: Any, inputs: Array, h: Any, *, hoisted: bool) -> tuple[Any, Array]:
    """The whole layer, which plain autodiff can differentiate.

    Args:
      params: a pure dict of the parameters of the cell.
      inputs: ``[batch, time, in_features]``.
      h: the carry before the first step: parts ``[batch, hidden]``, of which the last is the hidden state.
      hoisted: take the input projection of all steps before the scan, as a careful author would; or within each
        step, as ``flax.nnx.RNN`` does with any cell.

    Returns:
      The last carry, and the outputs ``[batch, time, hidden]``.
    """

    def project(x: Array) -> Array:
        return x @ params["kernel"] + params.get("bias", 0)

    def step(h: Any, x: Array) -> tuple[Any, Array]:
        rh = jax.tree.leaves(h)[-1] @ params["recurrent_kernel"]
        h = EVERY_STEP[name](params, h, x if hoisted else project(x), rh)
        return h, jax.tree.leaves(h)[-1]

    sequence = inputs.swapaxes(0, 1)
    h, outputs = lax.scan(step, h, project(sequence) if hoisted else sequence)
    return h, outputs.swapaxes(0, 1)
