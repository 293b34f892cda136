"""Parts of the classification: how data are divided, prepared and changed, and the distances of a baseline."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.common.labelled import datasets
from experiments.common.labelled.baselines import dtw_distances
from experiments.common.labelled.datasets import Examples
from experiments.common.labelled.options import Settings, resolve
from experiments.common.labelled.pipeline import Classification
from experiments.common.labelled.sequences import Augmentation, SequencePreparation, far_values
from experiments.common.labelled.texts import TextPreparation

RNG = np.random.default_rng(0)


def test_of_a_file_examples_keep_their_places_and_what_is_odd_is_said(tmp_path):
    path = tmp_path / "odd.csv"
    long = " ".join(["word"] * 401)
    rows = [f"text {n} {i},class {n}" for n in range(2) for i in range(6)]
    rows[3] = f"{long},class 0"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    data = datasets.load(str(path))
    assert data.test.numbers is not None and data.test.numbers.tolist() != [0, 1]
    assert [rows[number].split(",")[0] for number in data.test.numbers] == list(data.test.inputs)
    assert data.num_repeated() == 0
    every = Examples(tuple(row.split(",")[0] for row in rows), np.arange(12) // 6)
    config = resolve(Settings(data=str(path), members=2), is_text=True)
    notes = Classification(config, replace(data, train=every, test=every.take(np.array([3, 5])))).notes()
    assert notes[0] == "2 texts are longer than 400 words; the words after these are not read"
    assert notes[1].startswith("2 of the 2 test examples are in the training part, too")
    parts = (every.take(np.array(rows)) for rows in ([1, 2, 4, 5, 7, 8, 9, 10, 11], [0, 6]))
    assert Classification(config, replace(data, **dict(zip(("train", "test"), parts)))).notes() == []


def test_large_values_of_sequences_are_scaled():
    sequences = [np.full((3, 1), value, np.float32) for value in (1e38, -1e38)]
    preparation = SequencePreparation.fit(sequences, differences=False, frame=1)
    np.testing.assert_allclose(preparation.scaled(sequences[0]), 1)
    assert dtw_distances(sequences, sequences)[0, 1] > dtw_distances(sequences, sequences)[0, 0] == 0


def test_a_value_that_hides_all_others_is_named():
    sequences = [np.arange(6.0).reshape(3, 2), np.array([[1.0, 2.0], [0.5, 1e6]])]
    (note,) = far_values(sequences, [4, 9])
    assert note.startswith("sequence 9 holds 1e+06 in channel 1: beside it the other values of this channel look")
    assert far_values(sequences[:1], [4]) == []


def test_every_class_has_an_example_to_test(tmp_path):
    path = tmp_path / "many.csv"
    rows = "".join(f"text {n} {i},class {n}\n" for n in range(30) for i in range(3))
    path.write_text("text,label\n" + rows)
    found = datasets.load(str(path))
    assert np.bincount(found.test.labels).tolist() == [1] * 30
    path.write_text("text,label\n" + "".join(f"text {n} {i},class {n}\n" for n in range(30) for i in range(2)))
    with pytest.raises(ValueError, match="class 12 and 25 others have fewer than two examples to learn from"):
        datasets.load(str(path))


def test_dynamic_time_warping_is_that_of_a_loop():
    train = [RNG.normal(size=(n, 2)) for n in (4, 7, 1)]
    test = [RNG.normal(size=(n, 2)) for n in (5, 1)]

    def by_loop(a, b):
        total = np.full((len(a) + 1, len(b) + 1), np.inf)
        total[0, 0] = 0
        for i in range(len(a)):
            for j in range(len(b)):
                best = min(total[i, j], total[i, j + 1], total[i + 1, j])
                total[i + 1, j + 1] = best + ((a[i] - b[j]) ** 2).sum()
        return total[-1, -1]

    np.testing.assert_allclose(dtw_distances(train, test), [[by_loop(a, b) for a in train] for b in test])


def test_augmentation_keeps_to_its_limits():
    ramp = np.linspace(0, 1, 40)[:, None].astype(np.float32)
    slower = Augmentation(crop=0.2, stretch=0.5, warp=0.5)
    lengths = set()
    for seed in range(50):
        changed = slower(np.random.default_rng(seed), ramp, 45)
        lengths.add(len(changed))
        assert (np.diff(changed[:, 0]) > -1e-6).all() and changed.min() >= 0 and changed.max() <= 1 + 1e-6
        assert changed[-1, 0] - changed[0, 0] > 0.79
    assert max(lengths) == 45 and min(lengths) < 32
    nothing = Augmentation()(np.random.default_rng(0), ramp, 40)
    np.testing.assert_array_equal(nothing, ramp)
    louder = Augmentation(scale=0.5)(np.random.default_rng(0), ramp, 40)
    np.testing.assert_allclose(louder, ramp * louder[-1], rtol=1e-5)
    one = Augmentation(crop=0.5, stretch=0.5, warp=0.5)(np.random.default_rng(0), ramp[:1], 1)
    np.testing.assert_array_equal(one, ramp[:1])


@pytest.mark.parametrize("differences", [False, True])
def test_frames_hold_every_step(differences):
    sequences = [RNG.normal(3, 2, size=(n, 2)) for n in (7, 8)]
    fitted = SequencePreparation.fit(sequences, differences=differences, frame=4)
    preparation = SequencePreparation.from_json(json.loads(json.dumps(fitted.to_json())))
    assert preparation == fitted
    scaled = preparation.scaled(sequences[0])
    np.testing.assert_allclose(np.concatenate([fitted.scaled(s) for s in sequences]).std(axis=0), 1, rtol=1e-5)
    features = preparation.features(scaled)
    assert features.shape == (2, 16 if differences else 8)
    restored = preparation.from_features(features)
    np.testing.assert_array_equal(restored, np.concatenate([scaled, scaled[-1:]]))
    if differences:
        steps = features.reshape(8, 4)
        np.testing.assert_allclose(steps[1:7, 2:], np.diff(scaled, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "words"), [(("good", "bad"), ("bad", "good")), (("good", "good", "bad"), ("good",))]
)
def test_words_of_a_single_text_are_taken_only_where_there_are_no_others(texts, words):
    pytest.importorskip("sklearn")
    assert TextPreparation.fit(texts, min_count=2, most=9, longest=9).words == words
