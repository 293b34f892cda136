"""The worked example of resets: they are needed, and the task is what its description says."""

import jax
import numpy as np

from experiments import recall

SMALL = recall.Settings(delay=1, steps=100, rollout=12, batch=16, units=16, seeds=2)


def test_with_resets_to_zeros_it_learns_what_the_default_cannot():
    zeros, default = recall.scores(SMALL, "zeros"), recall.scores(SMALL, None)
    assert zeros.shape == (2,)
    assert zeros.min() > 0.97 > default.max() > 0.8


def test_the_answers_are_cards_of_the_same_episode():
    played = jax.tree.map(np.asarray, recall.play(jax.random.key(0), 100, recall.Settings(delay=3)))
    assert played.first[:, 0].all() and 0.03 < played.first.mean() < 0.09  # one in twenty
    for cards, first, wanted in zip(played.cards, played.first, played.wanted):
        seen: list[int] = []
        for card, begins, answer in zip(cards, first, wanted):
            seen = [*([] if begins else seen), card]
            assert answer == (seen[-4] if len(seen) > 3 else recall.NONE)


def test_numbers_that_are_not_positive_are_refused(capsys):
    assert recall.main(["--seeds", "0"]) == 2
    assert "--seeds must be at least 1, not 0" in capsys.readouterr().err
