"""The accelerator benchmarks where there is no accelerator: they run in small, and say what is missing."""

import json

from benchmarks import accelerator, aot
from jaxrnn.ops import IMPLEMENTATIONS


def test_without_a_device_it_says_so(capsys):
    assert accelerator.main([]) == 2
    assert "no GPU or TPU here" in capsys.readouterr().err


def test_the_smoke_test_measures_all_and_leaves_the_kernels_as_they_were(tmp_path, monkeypatch):
    implementations = dict(IMPLEMENTATIONS)
    monkeypatch.setattr(accelerator, "DTYPES", ("float32",))
    monkeypatch.setattr(accelerator, "CELLS", {"gru": "gru_one_bias"})
    assert accelerator.main(["--smoke", "--repetitions", "1", "--out", str(tmp_path)]) == 0
    assert implementations == IMPLEMENTATIONS
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 2
    for row in rows:
        assert {"Triton", "scan", "scan, unroll 8", "nnx.RNN"} <= set(row["timings"])


def test_a_layer_that_differs_is_named_and_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "differing", lambda *_: {"nnx.RNN": "outputs differ by 0.5, more than 0.01"})
    monkeypatch.setattr(accelerator, "DTYPES", ("float32",))
    monkeypatch.setattr(accelerator, "CELLS", {"simple_rnn": "simple_rnn"})
    assert accelerator.main(["--smoke", "--repetitions", "1", "--out", str(tmp_path)]) == 1
    (path,) = tmp_path.glob("*.json")
    assert "nnx.RNN: differs from the scan: outputs differ by 0.5" in path.with_suffix(".md").read_text()
    assert all("nnx.RNN" not in row["timings"] for row in json.loads(path.read_text())["rows"])


def test_points_fit_what_is_promised():
    points = accelerator.points(smoke=False)
    assert len(set(points)) == len(points) == 96 + len(accelerator.HEADS)
    assert {shape.hidden for _, _, shape in points} == {64, 128, 256, 512, 768, 1024, 2048}
    assert accelerator.points(smoke=False, heads=True) == points[96:]
    assert {shape.batch for _, _, shape in points} == {16, 64, 128, 256, 512, 2048}
    assert {shape.time for _, _, shape in points} == {256, 1024, 4096}


def test_a_row_of_the_compilers_report():
    kernel = {"registers": 100, "spill_bytes": 0, "shared_bytes": 2048}
    good = {"runs": True, "kernels": {"recurrence_forward": kernel, "recurrence_backward": kernel}}
    assert aot.words(good).startswith("forward: 100 registers, 0 B spilled, 2 KiB; backward")
    assert not aot.failed(good)
    bad = {"runs": True, "kernels": {"recurrence_forward": kernel | {"spill_bytes": 4}}}
    assert aot.failed(bad)
    assert aot.failed({"runs": True, "error": "no"})
    assert not aot.failed({"runs": False, "reason": "too large"})
