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


def test_the_table_shows_at_which_gains_and_lengths_relu_explodes(tmp_path, capsys):
    options = ["--activations", "relu", "--gains", "1", "1.6", "2", "--steps", "300", "--out", str(tmp_path)]
    assert gradient_flow.main(options) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    shares = {row[0]: row[1:] for row in rows if row and row[0].startswith("relu")}
    assert all(float(share) < 1 for share in shares["relu, 1"])
    growing = [float(share) for share in shares["relu, 1.6"][:4]]  # 10, 30, 100 and 299 steps before the last
    assert growing == sorted(growing) and growing[-1] > 1e10
    assert shares["relu, 2"][3] == "overflow"
