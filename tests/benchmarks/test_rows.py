"""The tables that are made of rows."""

from dataclasses import replace

from benchmarks.common.rows import OURS, Row, Shape, geometric_means, ratio_table, time_table
from benchmarks.common.timing import Timing
from benchmarks.libraries import label


def row(hidden: int, **seconds: float) -> Row:
    timings = {name: Timing(0.5, ((s, s),)) for name, s in seconds.items()}
    return Row({"cell": "gru", "shape": Shape(1, 2, 3, hidden)}, timings)


def test_tables():
    rows = [row(4, jaxrnn=1e-5, torch=2e-5, linen=3e-5), row(8, jaxrnn=1e-5, torch=5e-6)]
    table = time_table(rows, unit=1e-6, label=label)
    assert table.columns[1:] == [OURS, "PyTorch", "Flax linen"]
    assert table.rows == [
        ["1 x 2 x 3, 4", "**10.0 (10.0 to 10.0)**", "20.0 (20.0 to 20.0)", "30.0 (30.0 to 30.0)"],
        ["1 x 2 x 3, 8", "10.0 (10.0 to 10.0)", "**5.00 (5.00 to 5.00)**", ""],
    ]
    table = ratio_table([replace(row, title="gru") for row in rows])
    assert table.columns[1:] == ["torch / jaxrnn", "linen / jaxrnn"]
    assert table.rows == [
        ["gru", "2.00 (2.00 to 2.00)", "3.00 (3.00 to 3.00)"],
        ["gru", "0.50 (0.50 to 0.50)", ""],
        ["geometric mean", "1.00", ""],
    ]
    assert geometric_means(rows) == {"torch": 1.0}


def test_json_is_what_the_committed_results_have():
    found = row(4, jaxrnn=1e-5, torch=2e-5).as_json()
    assert found["shape"] == {"batch": 1, "time": 2, "in_features": 3, "hidden": 4}
    assert set(found["timings"]["torch"]) == {"first_call_s", "median", "low", "high", "calls_s"}
    assert found["ratios_to_ours"] == {"torch": {"median": 2.0, "low": 2.0, "high": 2.0}}
