"""A trained model comes back from its folder bit for bit, or is refused by name."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.training import CheckpointError, load_model, save_model
from tests.training.checkpoint.cases import files_of


def make(seed: int = 0, hidden: int = 4) -> nnx.Module:
    return jaxrnn.RNNForecaster(hidden_features=(hidden, 3), rngs=nnx.Rngs(seed))


class WithDropout(nnx.Module):
    """Holds a random key and counts beside its parameters."""

    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([jaxrnn.GRU(1, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def states_equal(one: nnx.Module, other: nnx.Module) -> bool:
    def plain(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    pairs = zip(jax.tree.leaves(nnx.state(one)), jax.tree.leaves(nnx.state(other)), strict=True)
    return all((plain(a) == plain(b)).all() for a, b in pairs)


@pytest.mark.parametrize("kind", [make, WithDropout])
@pytest.mark.parametrize("made", [False, True])
def test_every_variable_comes_back(tmp_path, kind, made):
    model, other = kind(0), kind(1)
    assert not states_equal(model, other)
    save_model(model, tmp_path / "model")
    loaded = load_model(other if made else lambda: kind(1), tmp_path / "model")
    assert states_equal(loaded, model) and not states_equal(other, model)


def test_a_function_that_computes_with_the_numbers_of_its_weights_makes_a_model_too(tmp_path):
    def small(seed: int = 0) -> nnx.Module:
        return jaxrnn.export.quantize(jaxrnn.LSTM(2, (4, 3), dropout=0.5, rngs=nnx.Rngs(seed)))

    save_model(small(1), tmp_path)
    assert states_equal(load_model(small, tmp_path), small(1))
    _, params = training.pure_apply(small)
    found, wanted = jax.tree.leaves(params), jax.tree.leaves(training.pure_apply(small())[1])
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))


def test_a_model_saved_again_replaces_the_one_before(tmp_path):
    for seed in (1, 2, 3):
        save_model(make(seed), tmp_path)
    assert states_equal(load_model(make, tmp_path), make(3))


def test_what_does_not_fit_or_is_damaged_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="absent is not a folder"):
        load_model(make, tmp_path / "absent")
    save_model(make(), tmp_path)
    with pytest.raises(CheckpointError, match=r"'kernel'\]: saved float32\[4, 3\], asked for float32\[5, 3\]"):
        load_model(lambda: make(hidden=5), tmp_path)
    largest = max(files_of(tmp_path), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
        load_model(make, tmp_path)


def test_a_folder_without_a_model_says_what_it_holds(tmp_path):
    with pytest.raises(CheckpointError, match="the folder holds no checkpoints"):
        load_model(make, tmp_path)
    (tmp_path / "file").write_text("")
    for call in (lambda path: save_model(make(), path), lambda path: load_model(make, path)):
        with pytest.raises(CheckpointError, match="file is not a folder but a file"):
            call(tmp_path / "file")
    with training.CheckpointStore(tmp_path) as store:
        store.save(12, {"kernel": jnp.ones(2)})
    with pytest.raises(CheckpointError, match="holds a training run, not a model of save_model"):
        load_model(make, tmp_path)


def test_a_training_is_not_overwritten_by_a_model(tmp_path):
    with training.CheckpointStore(tmp_path) as store:
        store.save(12, {"kernel": jnp.ones(2)})
    with pytest.raises(CheckpointError, match="holds step 12 of an earlier run"):
        save_model(make(), tmp_path)
