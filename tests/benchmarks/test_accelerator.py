"""The accelerator benchmarks where there is no accelerator: they run in small, and say what is missing."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import accelerator, aot
from benchmarks.accelerator_layers import Contestant
from jaxrnn.ops import IMPLEMENTATIONS


def test_without_a_device_it_says_so(capsys):
    assert accelerator.main([]) == 2
    assert "no GPU or TPU here" in capsys.readouterr().err


def test_the_smoke_test_measures_all_and_leaves_the_kernels_as_they_were(tmp_path, monkeypatch):
    pallas = IMPLEMENTATIONS["pallas"]
    monkeypatch.setattr(accelerator, "DTYPES", ("float32",))
    monkeypatch.setattr(accelerator, "CELLS", ("gru",))
    assert accelerator.main(["--smoke", "--repetitions", "1", "--out", str(tmp_path)]) == 0
    assert IMPLEMENTATIONS["pallas"] is pallas
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == len(accelerator.MODES)
    for row in rows:
        assert {"pallas", "scan", "nnx.RNN"} <= set(row["microseconds_a_step"])
    assert "us a step" not in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_who_computes_something_else_is_named_and_not_timed(wrong):
    def contestant(offset) -> Any:
        outputs = np.full((3, 2, 4), 0.5 + offset, np.float32)
        train = (np.float32(1 + offset), [np.eye(4, dtype=np.float32) * (1 + offset)])
        return Contestant(lambda: outputs, lambda: train)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.accelerator_layers._numpy", np.asarray)
        found = accelerator.differing(
            {"scan": contestant(0), "good": contestant(1e-4), "bad": contestant(wrong)}, "float32"
        )
    assert list(found) == ["bad"]


def test_points_fit_what_is_promised():
    points = accelerator.points(smoke=False)
    assert len(set(points)) == len(points) == 54
    assert {shape.hidden for _, _, shape in points} == {64, 128, 256, 512, 1024}
    assert {shape.batch for _, _, shape in points} == {16, 64, 128}
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
