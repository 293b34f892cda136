"""The worked example of long memory: the task is what its description says, and it can be learned."""

import jax
import numpy as np
import pytest

from experiments import selective_copy
from tests.experiments.runs_of_tests import read_json


def test_the_answers_are_the_cards_among_the_noise():
    settings = selective_copy.Settings(steps=30, cards=3, batch=50)
    seen, values = map(np.asarray, selective_copy.sequences(jax.random.key(0), settings))
    assert seen.shape == (50, 30) and values.shape == (50, 3)
    for row, answers in zip(seen, values):
        cards = sorted(number for number in row if number < 12)
        assert cards == [4 * colour + value for colour, value in enumerate(answers)]
    assert set(seen.ravel()) == set(range(16))  # all values of all cards, and all noise
    places = np.nonzero(seen < 12)[1]
    assert set(places) == set(range(30))


def test_a_short_task_is_learned_and_drawn(tmp_path, capsys):
    options = [
        "--cells",
        "min_gru",
        "simple_rnn",
        "--rates",
        "0.03",
        "--seeds",
        "1",
        "--steps",
        "6",
        "--cards",
        "1",
    ]
    options += ["--updates", "100", "--batch", "16", "--units", "16", "--out", str(tmp_path)]
    assert selective_copy.main(options) == 0
    found = read_json(tmp_path / "selective_copy.json")["right"]
    for cell in ("min_gru", "simple_rnn"):
        (curve,) = found[cell]["0.03"]
        assert len(curve) == selective_copy.POINTS
        assert curve[0] < 0.5 and curve[-1] > 0.9
    assert (tmp_path / "selective_copy.png").stat().st_size > 0
    assert "min_gru: right answers at the end" in capsys.readouterr().out


def test_the_best_rate_is_that_of_the_best_mean_at_the_end():
    assert selective_copy.best_rate({0.1: [[0.9, 0.2], [0.9, 0.9]], 0.2: [[0.1, 0.6], [0.1, 0.6]]}) == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cells", "elman"], "unknown cell 'elman'; available: simple_rnn"),
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--cards", "600"], "--cards must be at most --steps (512), not 600"),
        (["--updates", "30"], "--updates must be a multiple of 20, not 30"),
    ],
)
def test_invalid_settings_are_refused(options, message, capsys):
    assert selective_copy.main(options) == 2
    assert message in capsys.readouterr().err
