"""What layers and models can do besides, in ONNX: every option that has a say in a call."""

import json
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import to_onnx
from tests.export.onnx_runs import TOLERANCE, distance, run

NEEDS = ("onnx", "onnxruntime")
X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
LENGTHS = np.array([6, 0, 2, 5], np.int32)


def random_like(tree: Any) -> Any:
    random = np.random.default_rng(3)
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), tree)


def assert_same_in_onnx_runtime(model: Any, x: Any = X, *, data: bytes | None = None, **options: Any) -> None:
    """The model's call with these options, in ONNX Runtime and here; a carry of True stands for a random one."""
    wanted: dict[str, Any] = {name: True for name in ("seq_lengths", "initial_carry") if name in options}
    if "return_carry" in options:
        wanted["return_carry"] = options["return_carry"]
    if options.get("initial_carry") is True:
        options["initial_carry"] = random_like(jax.eval_shape(lambda: model(x, return_carry=True)[0]))
    expected = jax.jit(lambda: model(x, **options))()
    carry, outputs = (
        expected if getattr(model, "return_carry", False) or "return_carry" in options else ((), expected)
    )
    given = {name: options.get(name) for name in ("seq_lengths", "initial_carry")}
    result = run(to_onnx(model, **wanted) if data is None else data, x, **given)
    for ours, theirs in zip(result.values(), [outputs, *jax.tree.leaves(carry)], strict=True):
        assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        dict(reverse=True),
        dict(skip_connections=True),
        dict(skip_connections=True, reverse=True),
        dict(skip_connections=True, bidirectional=True),
        dict(bidirectional=True, merge="sum"),
        dict(bidirectional=True, merge="mean", dropout=0.5, recurrent_dropout=0.5),
        dict(time_major=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("return_sequences", [False, True])
def test_options_of_stacks(options, return_sequences, randomized):
    model = jaxrnn.LSTM(3, 4, num_layers=2, return_sequences=return_sequences, **options, rngs=nnx.Rngs(0))
    x: Any = X.swapaxes(0, 1) if "time_major" in options else X
    randomized(model).eval()
    reference = jax.jit(lambda lengths: model(x, seq_lengths=lengths, return_carry=True))
    for with_lengths in (False, True):
        lengths = LENGTHS if with_lengths else np.full(4, 6, np.int32)
        carry, outputs = reference(lengths)
        data = to_onnx(model, seq_lengths=with_lengths, return_carry=True)
        result = run(data, x, lengths if with_lengths else None)
        for ours, theirs in zip(result.values(), [outputs, *jax.tree.leaves(carry)], strict=True):
            assert distance(ours, theirs) <= TOLERANCE


def cell(kind: Any, **options: Any) -> Any:
    return kind(3, 4, **options, rngs=nnx.Rngs(0))


class Louder(jaxrnn.LSTMCell):
    """A cell that begins with something else than zeros."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        carry = super().initialize_carry(input_shape, rngs, carry_init)
        return carry._replace(c=carry.c + jnp.arange(4.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: jaxrnn.RNN(cell(jaxrnn.GRUCell), reverse=True, return_carry=True),
        lambda: jaxrnn.RNN(cell(jaxrnn.LeakyCell), time_major=True, return_carry=True),
        lambda: jaxrnn.RNN(cell(Louder), return_carry=True),
        lambda: jaxrnn.RNN(cell(jaxrnn.SimpleRNNCell, activation_fn=jaxrnn.ops.named_activation("softsign"))),
        lambda: jaxrnn.RNN(cell(jaxrnn.SimpleRNNCell, activation_fn=jaxrnn.ops.named_activation("identity"))),
        lambda: jaxrnn.RNN(cell(nnx.SimpleCell)),
        lambda: jaxrnn.RNN(cell(nnx.LSTMCell), return_carry=True),
        lambda: jaxrnn.RNN(cell(nnx.OptimizedLSTMCell), return_carry=True),
        lambda: jaxrnn.RNN(cell(nnx.GRUCell), return_carry=True),
        lambda: jaxrnn.Bidirectional(
            jaxrnn.RNN(cell(jaxrnn.LSTMCell)),
            jaxrnn.RNN(cell(jaxrnn.LSTMCell)),
            merge_fn=jnp.add,
            return_carry=True,
        ),
        # Two cells that no single operator computes.
        lambda: jaxrnn.Bidirectional(
            jaxrnn.RNN(cell(jaxrnn.LSTMCell)), jaxrnn.RNN(cell(jaxrnn.GRUCell)), time_major=True, return_carry=True
        ),
        lambda: jaxrnn.Bidirectional(
            jaxrnn.RNN(cell(jaxrnn.GRUCell)),
            jaxrnn.RNN(cell(jaxrnn.GRUCell, reset_after=False)),
            return_carry=True,
        ),
        lambda: jaxrnn.Bidirectional(
            jaxrnn.RNN(cell(Louder)), jaxrnn.RNN(cell(jaxrnn.LSTMCell)), return_carry=True
        ),
    ],
)
@pytest.mark.parametrize("with_carry", [False, True])
def test_layers_of_one_cell(make, with_carry, randomized):
    model = randomized(make())
    x = X.swapaxes(0, 1) if model.time_major else X
    options: dict[str, Any] = {"initial_carry": True} if with_carry else {}
    assert_same_in_onnx_runtime(model, x, seq_lengths=LENGTHS, **options)


@pytest.mark.parametrize(
    "options",
    [
        dict(cell="simple_rnn", cell_options={"activation_fn": jax.nn.relu}),
        dict(cell="lstm", return_sequences=True, out_features=3, output_scale=200.0),
        dict(cell="gru", hidden_features=(4, 5, 6), output_scale=-3.5),
        dict(cell="leaky", return_sequences=True, cell_options={"use_bias": False}),
    ],
    ids=["relu", "lstm", "three_layers", "leaky"],
)
def test_forecasters(options, randomized):
    model = randomized(jaxrnn.RNNForecaster(**({"hidden_features": 4} | options), in_features=3, rngs=nnx.Rngs(0)))
    assert_same_in_onnx_runtime(model)
    assert_same_in_onnx_runtime(model, initial_carry=True, return_carry=True)


def test_a_forecast_continues_from_its_carry(randomized):
    model = randomized(jaxrnn.RNNForecaster(3, (4, 5), cell="lstm", return_sequences=True, rngs=nnx.Rngs(0)))
    data = to_onnx(model, initial_carry=True, return_carry=True)
    whole = run(data, X, initial_carry=model.initialize_carry(4))
    first = run(data, X[:, :2], initial_carry=model.initialize_carry(4))
    carry = [first[name] for name in first if name.startswith("carry")]
    second = run(data, X[:, 2:], initial_carry=carry)
    both = np.concatenate([first["forecasts"], second["forecasts"]], axis=1)
    assert distance(both, whole["forecasts"]) <= TOLERANCE
    assert distance(second["carry_1_c"], whole["carry_1_c"]) <= TOLERANCE


def test_half_precision_is_widened(randomized):
    model = randomized(jaxrnn.GRU(3, 4, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    wide = jaxrnn.GRU(3, 4, rngs=nnx.Rngs(0))
    nnx.update(wide, jax.tree.map(lambda a: a.astype(jnp.float32), nnx.state(model)))
    assert_same_in_onnx_runtime(wide, data=to_onnx(model))


@pytest.mark.parametrize("kind", [jaxrnn.SimpleRNNCell, jaxrnn.LeakyCell])
def test_what_stands_in_the_padding_does_not_matter(kind, randomized):
    model = randomized(jaxrnn.Bidirectional(jaxrnn.RNN(cell(kind)), jaxrnn.RNN(cell(kind)), return_carry=True))
    padded = np.where((np.arange(6) < LENGTHS[:, None])[..., None], X, np.nan)
    data = to_onnx(model, seq_lengths=True)
    for clean, dirty in zip(run(data, X, LENGTHS).values(), run(data, padded, LENGTHS).values(), strict=True):
        np.testing.assert_array_equal(clean, dirty)


@pytest.mark.parametrize("opset", [14, 17, 22])
def test_sets_of_operators(opset, randomized):
    stack = [jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), jaxrnn.LeakyCell(4, 4, rngs=nnx.Rngs(0))]
    model = randomized(jaxrnn.StackedRNN(stack, reverse=True, return_sequences=False, skip_connections=False))
    assert_same_in_onnx_runtime(model, data=to_onnx(model, opset=opset, seq_lengths=True), seq_lengths=LENGTHS)


def operators(model: Any) -> Counter:
    import onnx

    return Counter(node.op_type for node in onnx.load_from_string(to_onnx(model, seq_lengths=True)).graph.node)


def test_one_operator_a_layer():
    for name, kind in {"RNN": jaxrnn.SimpleRNN, "LSTM": jaxrnn.LSTM, "GRU": jaxrnn.GRU}.items():
        for both in (False, True):
            found = operators(kind(3, 4, num_layers=3, bidirectional=both, rngs=nnx.Rngs(0)))
            assert found[name] == 3 and not found["Scan"] and not found["Loop"]
    assert operators(jaxrnn.RNN(cell(jaxrnn.LeakyCell)))["Scan"] == 1


def test_names_shapes_and_metadata(tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    model = jaxrnn.LSTM(3, 4, bidirectional=True, time_major=True, rngs=nnx.Rngs(0))
    data = to_onnx(model, path, batch=2, seq_lengths=True, initial_carry=True, return_carry=True)
    assert path.read_bytes() == data
    read = onnx.load(path)
    ends = [f"0_{direction}_{part}" for direction in ("forward", "backward") for part in ("c", "h")]
    assert [value.name for value in read.graph.input] == [
        "inputs",
        "seq_lengths",
        *(f"initial_carry_{e}" for e in ends),
    ]
    assert [value.name for value in read.graph.output] == ["outputs", *(f"carry_{end}" for end in ends)]
    properties = {entry.key: entry.value for entry in read.metadata_props}
    assert properties["jaxrnn_version"] == jaxrnn.__version__ and properties["jax_version"] == jax.__version__
    assert properties["model"] == "LSTM" and json.loads(properties["cells"]) == [["LSTMCell 3 -> 4"] * 2]
    assert json.loads(properties["inputs"])[:2] == [
        {"name": "inputs", "shape": ["time", 2, 3]},
        {"name": "seq_lengths", "shape": [2]},
    ]
    assert json.loads(properties["outputs"])[0] == {"name": "outputs", "shape": ["time", 2, 8]}
    assert read.producer_name == "jaxrnn" and read.opset_import[0].version == 17
    with pytest.raises(ValueError, match="exists already"):
        to_onnx(model, path)


class OwnStep(jaxrnn.LSTMCell):
    def __call__(self, carry, inputs):
        return super().__call__(carry, 2 * inputs)


class OwnProjection(jaxrnn.GRUCell):
    def input_projection(self, inputs):
        return 2 * super().input_projection(inputs)


class OwnStack(jaxrnn.LSTM):
    def __call__(self, inputs, **options):
        return 2 * super().__call__(inputs, **options)


def test_what_cannot_be_exported_is_named():
    r = nnx.Rngs(0)
    cells = [jaxrnn.GRUCell(3, 4, rngs=r), OwnProjection(4, 4, rngs=r)]
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (
            jaxrnn.StackedRNN(cells),
            {},
            "layer 1: a OwnProjection cannot be exported to ONNX: it has an input_proj",
        ),
        (jaxrnn.RNN(cell(OwnStep)), {}, "a OwnStep cannot be exported to ONNX: .* __call__ of its own"),
        (jaxrnn.RNN(cell(nnx.GRUCell, gate_fn=nnx.relu)), {}, "a GRUCell cannot be exported to ONNX"),
        (OwnStack(3, 4, rngs=r), {}, "a OwnStack has a __call__ of its own"),
        (cell(jaxrnn.GRUCell), dict(seq_lengths=True), "called with seq_lengths: a GRUCell is not"),
        (cell(jaxrnn.GRUCell), dict(time=3), "time=3 does not fit a GRUCell, which computes one step"),
        (nnx.Linear(3, 4, rngs=r), {}, "not a Linear"),
        (
            jaxrnn.LSTM(3, 4, bidirectional=True, merge=lambda a, b: a * b, rngs=r),
            {},
            'the merge <lambda> cannot be exported to ONNX, only "concat"',
        ),
        (
            jaxrnn.LSTM(3, (4, 1), skip_connections=True, rngs=r),
            {},
            "skip_connections need layers of one width, but layer 1 reads 4 features and returns 1",
        ),
        (jaxrnn.LSTM(3, 4, num_layers=2, dropout=0.5, rngs=r), {}, "training with dropout"),
        (jaxrnn.RNNForecaster(rngs=r), dict(seq_lengths=True), "seq_lengths=True needs a model"),
        (jaxrnn.RNNForecaster(rngs=r), dict(resets=True), "resets=True needs a model"),
        (jaxrnn.GRU(3, 4, rngs=r), dict(opset=13), "opset must be from 14 to"),
        (jaxrnn.GRU(3, 4, rngs=r), dict(batch="many"), "batch must be a positive integer"),
        (3, {}, "model must be a layer, cell or model, not 3"),
    ]
    for model, options, message in refused:
        with pytest.raises(ValueError, match=message):
            to_onnx(model, **options)
    with jax.enable_x64(True), pytest.raises(ValueError, match="float64"):
        to_onnx(jaxrnn.RNN(cell(jaxrnn.GRUCell, param_dtype=jnp.float64)))
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"computes in float64 \(cells\.0\)"):
        to_onnx(jaxrnn.LSTM(3, 4, dtype=jnp.float64, rngs=nnx.Rngs(0)))
