"""Every library's layer computes what ours computes."""

import numpy as np
import pytest

from benchmarks.common import comparison
from benchmarks.common.rows import Shape
from benchmarks.common.timing import first_calls
from benchmarks.layers import TOLERANCES, WITH_ENSEMBLES, check, contestants
from benchmarks.libraries import LIBRARIES, OURS, PEERS
from benchmarks.libraries.base import Contestant
from benchmarks.libraries.ours import CELLS


def first_of(layers):
    return {name: first_calls(layer.calls()) for name, layer in layers.items()}


@pytest.mark.parametrize("cell", CELLS)
def test_all_layers_compute_the_same(cell):
    installed = {name: peer for name, peer in PEERS.items() if peer.missing() is None}
    layers = contestants(cell, Shape(2, 2, 3, 4), installed)
    assert set(layers) == {OURS, *(name for name, peer in installed.items() if cell in peer.cells)}
    check(first_of(layers), cell)
    assert {name for name, layer in layers.items() if layer.train is None} == {"onnxruntime"} & set(layers)


@pytest.mark.parametrize("cell", CELLS)
def test_members_of_an_ensemble_compute_what_layers_do(cell):
    installed = {name: PEERS[name] for name in WITH_ENSEMBLES if PEERS[name].missing() is None}
    layers = contestants(cell, Shape(2, 2, 3, 4), installed, members=3)
    check(first_of(layers), cell)
    (alone,) = contestants(cell, Shape(6, 2, 3, 4), {}).values()
    outputs = np.concatenate(layers[OURS].forward())
    np.testing.assert_allclose(outputs, alone.forward(), 1e-5, 1e-6)


@pytest.mark.parametrize("train", [None, lambda: (1.0, [np.ones((3, 3))])])
def test_wrong_outputs_are_found_with_and_without_a_training_step(train):
    layers = {name: Contestant(lambda y=y: np.full(3, y), train) for name, y in ((OURS, 0.5), ("bad", 0.6))}
    layers[OURS] = layers[OURS]._replace(train=lambda: (1.0, [np.ones((3, 3))]))
    with pytest.raises(ValueError, match=r"here: bad is not like jaxrnn.*outputs differ by 0\.1"):
        check(first_of(layers), "here")


@pytest.mark.parametrize("wrong", [0.5, np.nan])
@pytest.mark.parametrize("what", TOLERANCES)
def test_a_result_that_differs_is_named(what, wrong):
    right = {"outputs": np.full((2, 3), 0.5), "losses": 1.0, "norms of the gradients": 2.0}
    results = {OURS: right, "good": right, "bad": {**right, what: right[what] + wrong}}
    assert list(comparison.differences(results, OURS, TOLERANCES)) == ["bad"]
    with pytest.raises(ValueError, match=f"here: bad is not like jaxrnn.*{what}"):
        comparison.check(results, OURS, TOLERANCES, "here")


def test_outputs_of_another_shape_differ():
    right = {"outputs": np.ones((2, 3))}
    found = comparison.differences(
        {OURS: right, "bad": {"outputs": np.ones(3)}}, OURS, {"outputs": TOLERANCES["outputs"]}
    )
    assert "(3,)" in found["bad"] and "(2, 3)" in found["bad"]


def test_what_is_left_out_is_said():
    assert LIBRARIES["nnx"].absences("gru") == {"Flax nnx, gru": "has no such cell"}
    assert LIBRARIES["onnxruntime"].absences("gru") == {
        "ONNX Runtime": "runs trained models, so it has no training step"
    }
    assert "32 steps" in LIBRARIES["haiku-static"].absences("lstm")["Haiku static_unroll"]
    assert not LIBRARIES["haiku-static"].takes("lstm", Shape(1, 33, 1, 1))
