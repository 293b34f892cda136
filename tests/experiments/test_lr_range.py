"""The learning-rate range test as a user runs it."""

from experiments import lr_range
from tests.experiments.runs_of_tests import read_json


def test_lr_range_finds_a_rate_between_too_low_and_too_high(tmp_path, capsys):
    assert (
        lr_range.main(["--tasks", "stateful", "--out", str(tmp_path), "--lowest", "1e-8", "--epochs", "60"]) == 0
    )
    found = read_json(tmp_path / "lr_range.json")["stateful"]
    assert 2e-8 < found["suggestion"] < 1e-6
    assert (tmp_path / "lr_range.png").stat().st_size > 0
    assert f"{found['suggestion']:.1e}" in capsys.readouterr().out
