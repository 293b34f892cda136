"""Parameters go into a safetensors file and come back bit for bit, or are refused by name."""

import json
import os
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import load_safetensors, save_safetensors

NEEDS = ("safetensors",)


def make(seed=0, hidden=4, param_dtype=jnp.float32) -> Any:
    return jaxrnn.RNNForecaster(hidden_features=(hidden, 3), param_dtype=param_dtype, rngs=nnx.Rngs(seed))


def states_equal(one, other):
    pairs = zip(jax.tree.leaves(nnx.state(one)), jax.tree.leaves(nnx.state(other)), strict=True)
    return all(a.dtype == b.dtype and (a == b).all() for a, b in pairs)


def header(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_parameter_comes_back(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    model, other = make(param_dtype=dtype), make(1, param_dtype=dtype)
    save_safetensors(model, path)
    assert not states_equal(model, other)
    load_safetensors(other, path)
    assert states_equal(model, other)
    assert list(tmp_path.iterdir()) == [path]


def test_the_header_has_names_dtypes_shapes_and_where_it_is_from(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors(make(param_dtype=jnp.bfloat16), path)
    written = header(path)
    assert written.pop("__metadata__") == {
        "format": "jaxrnn parameters 1",
        "jaxrnn_version": jaxrnn.__version__,
        "model": "RNNForecaster",
    }
    assert set(written) == {"head.bias", "head.kernel"} | {
        f"layers.cells.{layer}.{name}" for layer in (0, 1) for name in ("bias", "kernel", "recurrent_kernel")
    }
    assert written["layers.cells.1.kernel"]["dtype"] == "BF16"
    assert written["layers.cells.1.kernel"]["shape"] == [4, 3]


class Mixed(nnx.Module):
    """Statistics, a scalar, an empty array and random keys beside parameters."""

    def __init__(self, seed):
        rngs: Any = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.norm.mean[...] = jnp.full(3, float(seed))
        self.scale = nnx.Param(jnp.asarray(seed + 0.5))
        self.empty = nnx.Param(jnp.zeros((0, 3)))
        self.steps = nnx.Variable(jnp.asarray(seed, jnp.int32))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def test_statistics_and_scalars_are_kept_and_random_keys_are_not(tmp_path):
    path = tmp_path / "model.safetensors"
    model, other = Mixed(0), Mixed(1)
    rngs: Any = other.dropout.rngs
    save_safetensors(model, path)
    key = rngs.key.get_value()
    load_safetensors(other, path)
    assert other.scale[...] == 0.5 and other.steps[...] == 0 and (other.norm.mean[...] == 0).all()
    assert rngs.key.get_value() == key
    assert not any("rngs" in name for name in header(path))


def test_another_width_of_floats_is_rounded_to_the_model_s(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors(make(), path)
    half = make(1, param_dtype=jnp.bfloat16)
    load_safetensors(half, path)
    kernel = half.layers.cells[0].kernel[...]
    assert kernel.dtype == jnp.bfloat16
    assert (kernel == make().layers.cells[0].kernel[...].astype(jnp.bfloat16)).all()


def test_all_that_does_not_fit_is_named_and_changes_nothing(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "model.safetensors"
    save_safetensors(make(), path)
    arrays = load_file(path)
    del arrays["head.bias"]
    arrays |= {"surplus": np.ones(2), "head.kernel": np.ones((3, 1), np.int32)}
    save_file(arrays, path)
    model = make(1, hidden=5)
    with pytest.raises(ValueError, match="does not fit this RNNForecaster") as caught:
        load_safetensors(model, path)
    message = str(caught.value)
    for part in (
        "head.bias is missing",
        "surplus is unknown to the model",
        "head.kernel is int32, but the model needs float32",
        "layers.cells.0.kernel has shape (1, 4), but the model needs (1, 5)",
        "layers.cells.1.kernel has shape (4, 3), but the model needs (5, 3)",
    ):
        assert part in message
    assert states_equal(model, make(1, hidden=5))


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors(make(0), path)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        save_safetensors(make(0), tmp_path / "nowhere" / "model.safetensors")
    with pytest.raises(ValueError, match="exists already: choose another path, or pass overwrite=True"):
        save_safetensors(make(1), path)
    with pytest.raises(ValueError, match="is a folder"):
        save_safetensors(make(1), tmp_path, overwrite=True)
    loaded = make(2)
    load_safetensors(loaded, path)
    assert states_equal(loaded, make(0))
    save_safetensors(make(1), path, overwrite=True)
    load_safetensors(loaded, path)
    assert states_equal(loaded, make(1))


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_safetensors(make(0), path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_safetensors(make(1), path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    loaded = make(2)
    load_safetensors(loaded, path)
    assert states_equal(loaded, make(0))


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors(make(), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", b"\x80\x04" + whole, b"hello, world, this is text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged, or is not a safetensors file"):
            load_safetensors(make(), path)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        load_safetensors(make(), tmp_path / "absent")
    with pytest.raises(ValueError, match="model must be a Flax module, not 3"):
        save_safetensors(3, tmp_path / "three")  # pyright: ignore[reportArgumentType]
