"""Vanishing and exploding gradients as a user sees them."""

from experiments import gradient_flow
from tests.experiments.runs_of_tests import read_json


def test_gradient_flow_shows_vanishing_and_exploding(tmp_path):
    assert gradient_flow.main(["--out", str(tmp_path), "--steps", "60"]) == 0
    flows = read_json(tmp_path / "gradient_flow.json")

    def growth(activation: str, gain: str) -> float:
        norms = flows[activation][gain]["hidden_norms"]
        return norms[0] / norms[-1]

    assert growth("tanh", "0.5") < 1e-12
    assert growth("relu", "0.5") < 1e-12
    assert growth("relu", "2.0") > 1e6
    for rows in flows.values():
        for flow in rows.values():
            assert flow["clipped_norm"] <= 1.0 + 1e-12
    assert (tmp_path / "gradient_flow.png").stat().st_size > 0
