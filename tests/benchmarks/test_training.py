"""The trainings that are timed against each other are the same, and a process answers for each."""

import contextlib
import importlib.util
import os
from typing import Any

import numpy as np
import pytest

from benchmarks import training
from benchmarks.common.process import Process, memory
from benchmarks.common.tasks import TASKS, SequenceData, data_of, epoch_flops, missing_data, score
from benchmarks.libraries import LIBRARIES
from benchmarks.training import LOSSES, ONLY_FIRST_TASK, UNLIKE, check, epoch_table, growth_table

SIZES = {"hidden": [4], "time": 8, "batch": 256}


def small(name: str):
    sizes = SIZES if name != "stateful" else {**SIZES, "batch": 1, "time": 100}
    return TASKS[name].with_sizes(sizes)


@pytest.mark.parametrize("library", ["keras", "torch", *ONLY_FIRST_TASK])
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.lengths])
def test_all_libraries_train_the_same(name, library):
    if (name, library) in UNLIKE:
        pytest.skip(UNLIKE[name, library])
    if library in ONLY_FIRST_TASK and name != "seq2vec":
        pytest.skip("takes part in the first experiment only")
    if LIBRARIES[library].missing():
        pytest.skip(f"{LIBRARIES[library].label} is not installed")
    task = small(name)
    data = data_of(task)
    trainers: list[Any] = [LIBRARIES[name].trainer for name in ("jaxrnn", library)]
    mine, theirs = (trainer(task, data, shuffle=False) for trainer in trainers)
    np.testing.assert_allclose(
        [theirs.epoch() for _ in range(2)], [mine.epoch() for _ in range(2)], rtol=LOSSES["losses"].largest
    )
    outputs = theirs.predict()
    assert outputs.shape == data.valid_targets.shape
    np.testing.assert_allclose(mine.predict(), outputs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("library", ["keras", "torch"])
def test_all_libraries_train_the_same_on_sequences_of_many_lengths(library):
    if LIBRARIES[library].missing():
        pytest.skip(f"{LIBRARIES[library].label} is not installed")
    random = np.random.default_rng(0)
    task = TASKS["speech"].with_sizes({"hidden": [4], "outputs": 3, "learning_rate": 0.03})
    inputs = [random.normal(size=(length, 2)).astype(np.float32) for length in (5, 1, 3, 7, 2, 7, 4)]
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0]]
    data = SequenceData(inputs, targets, inputs[::-1], targets[::-1])
    trainers: list[Any] = [LIBRARIES[name].trainer for name in ("jaxrnn", library)]
    mine, theirs = (trainer(task, data, shuffle=False) for trainer in trainers)
    np.testing.assert_allclose([theirs.epoch() for _ in range(3)], [mine.epoch() for _ in range(3)], rtol=1e-4)
    np.testing.assert_allclose(mine.predict(), theirs.predict(), rtol=1e-3, atol=1e-4)
    first, *_, last = (mine.epoch() for _ in range(30))
    assert last < 0.5 * first


def test_data_that_are_not_installed_are_said(monkeypatch):
    monkeypatch.setattr("experiments.common.labelled.datasets.importlib.util.find_spec", lambda name: None)
    assert "needs the package aeon" in str(missing_data(TASKS["speech"]))
    assert missing_data(TASKS["classification"]) is None


def test_data_is_what_the_tasks_say():
    data = data_of(TASKS["seq2vec"])
    inputs, targets = data.windows(TASKS["seq2vec"])
    assert inputs.shape == (970, 30, 1) and targets.shape == (970, 1)
    np.testing.assert_array_equal(inputs[1, -1], targets[0])
    assert data.valid_inputs.shape == (461, 30, 1)
    np.testing.assert_array_equal(data.valid_inputs[1, -1], data.valid_targets[0])
    twice = TASKS["seq2vec"].with_sizes({"series": 2})
    np.testing.assert_array_equal(data_of(twice).windows(twice)[0][970:], inputs)
    frequencies = TASKS["classification"]
    inputs, targets = data_of(frequencies).windows(frequencies)
    assert inputs.shape == (1280, 64, 1) and targets.shape == (1280, 5)
    spectrum = np.abs(np.fft.rfft(inputs[..., 0]))[:, 2:7]
    assert score(frequencies, spectrum, targets) > 0.95


def test_a_process_answers_every_request():
    with Process({"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}) as process:
        process.ask(
            training.start, "jaxrnn", "stateful", {"hidden": [4], "time": 100, "max_epochs": 2, "target": 0.0}
        )
        assert process.ask(training.first_epoch) > 0
        learned = process.ask(training.learn)
        assert len(learned["values"]) == 2 and not learned["reached"]
        assert process.ask(memory) > 2**20
        assert len(process.ask(training.first_losses)) == 2
        assert len(process.ask(training.later_epochs, 3)) == 3
        with pytest.raises(KeyError, match="nothing of the kind"):
            process.ask(training.start, "jaxrnn", "nothing of the kind", {})


def test_a_process_that_is_killed_is_said():
    with Process() as process, pytest.raises(ValueError, match="the process of abort ended"):
        process.ask(os.abort)


def result(library: str, losses: list[float], task: str = "seq2vec") -> dict[str, Any]:
    learned = {"seconds": 2.0, "values": [9.0, 6.0], "reached": True}
    found = {
        "first": {"seconds": 1.0},
        "learned": learned,
        "memory": 2**20,
        "losses": losses,
        "epochs": [0.1, 0.2],
    }
    return {"task": task, "library": library, **found}


def test_a_library_that_trains_something_else_is_named():
    same = {"jaxrnn": result("jaxrnn", [1.0, 0.5]), "torch": result("torch", [1.0, 0.501])}
    check(same)
    with pytest.raises(ValueError, match=r"torch is not like jaxrnn.*losses differ"):
        check(same | {"torch": result("torch", [1.0, 0.6])})
    check({"jaxrnn": result("jaxrnn", [1.0], "stateful"), "keras": result("keras", [2.0], "stateful")})


def test_tables():
    results = [result("jaxrnn", [1.0]), result("torch", [1.0])]
    growth = [{"size": "base", "seconds": {"jaxrnn": [0.1], "torch": [0.2]}}]
    growth += [{"size": "T 60", "seconds": {"jaxrnn": [0.2]}}]
    assert epoch_table(results).rows[1][2].startswith("1.00")
    assert epoch_table(results).rows[0][4:6] == ["3.0 (2 epochs)", ""]
    again = {"first": {"seconds": 2.0}, "learned": {"seconds": 3.0, "values": [9.0, 8.0, 6.0], "reached": True}}
    several = result("jaxrnn", [1.0]) | {"more": [again, again], "imports": [1.0, 1.0, 2.0]}
    assert epoch_table([several]).rows[0][3:6] == ["2.00", "5.0 (3.0 to 5.0; 2 to 3 epochs)", "6.0"]
    again["learned"]["reached"] = False
    assert epoch_table([several]).rows[0][4] == "2 of 3 not within 3 epochs: 6"
    assert growth_table(growth).rows[1] == ["T 60", "200", ""]


def test_the_matrix_products_of_an_epoch():
    task = TASKS["seq2vec"].with_sizes({"hidden": [2, 3], "time": 5})
    windows = 995
    steps = windows * 5
    forward = steps * 2 * (2 * (1 + 2) + 3 * (2 + 3))
    backward = steps * 2 * (2 * (1 + 2 * 2) + 2 * 3 * (2 + 3))
    assert epoch_flops(task) == forward + backward


def test_what_is_missing_is_said():
    for library in LIBRARIES.values():
        with contextlib.suppress(ValueError):  # a package that is half there
            missing = any(importlib.util.find_spec(package) is None for package in library.packages)
            assert (library.missing() is not None) == missing
