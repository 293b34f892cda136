"""Classifications of small data sets from start to end, and messages about data that cannot be used."""

import csv
import io
import json
import re
import shutil
import signal
import tarfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from experiments import classify, export, language, predict
from experiments.common import runs
from experiments.common.labelled import datasets
from experiments.common.labelled.pipeline import features_of
from experiments.common.labelled.trained import TrainedClassifier
from tests.experiments.runs_of_tests import read_json, without_jax

SMALL = ["--hidden", "4", "--epochs", "3", "--members", "2"]
RNG = np.random.default_rng(0)
WORDS = {
    "good": ("a fine film", "lovely story !", "fine , lovely"),
    "bad": ("a dull film", "so very dull", "awful , awful"),
}


def as_ts(labels, channels=2) -> str:
    lines = [
        ":".join(",".join(f"{v:.3f}" for v in RNG.normal(int(label) - 1, 0.3, size=6)) for _ in range(channels))
        for label in labels
    ]
    return "@classLabel true 1 2\n@data\n" + "".join(f"{line}:{label}\n" for line, label in zip(lines, labels))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory) -> Path:
    """A training part, and the test part beside it."""
    folder = tmp_path_factory.mktemp("sequences")
    for part, number in (("TRAIN", 6), ("TEST", 3)):
        (folder / f"Two_{part}.ts").write_text(as_ts("12" * number))
    return folder / "Two_TRAIN.ts"


@pytest.fixture(scope="module")
def finished(sequences, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert classify.main(["--data", str(sequences), "--out", str(out), *SMALL]) == 0
    return out


def texts(path: Path) -> Path:
    rows = [{"text": text, "label": label} for label, some in WORDS.items() for text in some * 3]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_run_writes_everything(finished):
    metrics = read_json(finished / "metrics.json")
    confusion = np.array(metrics["confusion"])
    assert metrics["test_accuracy"] == np.trace(confusion) / confusion.sum() and confusion.sum() == 6
    assert metrics["baselines"]["dtw"] == 1.0 and metrics["baselines"]["most_frequent"] == 0.5
    with (finished / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(row["label"] == row["predicted"] for row in rows) == np.trace(confusion)
    assert all(
        float(r["probability of 1"]) + float(r["probability of 2"]) == pytest.approx(1, abs=2e-6) for r in rows
    )
    assert [len(history) for history in read_json(finished / "history.json")] == [3, 3]
    for picture in ("confusion.png", "learning_curve.png"):
        assert (finished / picture).stat().st_size > 10_000


def test_an_interrupted_run_continues_exactly(finished, sequences, tmp_path, monkeypatch):
    """Ctrl-C in the second network: what there is is evaluated, and --resume ends with the same bits."""
    out = tmp_path / "run"
    command = ["--data", str(sequences), "--out", str(out), *SMALL]
    checks = []

    def check(guard):
        checks.append(guard)
        if len(checks) == 5:  # three epochs and the end of the first network, one epoch of the second
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(runs.FolderGuard, "check", check)
        assert classify.main(command) == 130
    assert read_json(out / "metrics.json")["epochs_run"] == [3, 2]
    assert classify.main([*command, "--resume"]) == 0
    assert (out / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
    assert read_json(out / "metrics.json")["stopped"] == ["epochs", "epochs"]


def test_a_finished_run_is_neither_overwritten_nor_changed(finished, sequences, capsys):
    command = ["--data", str(sequences), "--out", str(finished)]
    assert classify.main(command) == 2
    assert "holds another run" in capsys.readouterr().err
    assert classify.main([*command, "--resume", "--hidden", "5"]) == 2
    assert "--hidden is (5,), but the run to be resumed has (4,)" in capsys.readouterr().err
    whole = sequences.read_text()
    sequences.write_text(whole + whole.splitlines()[-1])
    assert classify.main([*command, "--resume"]) == 2
    sequences.write_text(whole)
    assert "has changed since the run" in " ".join(capsys.readouterr().err.split())


def test_new_sequences_are_classified(finished, tmp_path, capsys):
    new, out = tmp_path / "new.ts", tmp_path / "out"
    new.write_text(as_ts("112"))
    assert classify.main(["--data", str(new), "--run", str(finished), "--out", str(out)]) == 0
    assert len((out / "predictions.csv").read_text().splitlines()) == 4
    capsys.readouterr()
    again = ["--data", str(new), "--run", str(finished), "--out"]
    assert classify.main([*again, str(out)]) == 2  # the answers of before are not lost
    assert "predictions.csv exists already: choose another --out" in " ".join(capsys.readouterr().err.split())
    new.write_text(as_ts("12", channels=3))
    assert classify.main([*again, str(tmp_path / "other")]) == 2
    assert "a sequence of shape (6, 3) does not fit the network, which was trained on" in capsys.readouterr().err


def test_a_run_classifies_without_its_data_and_with_all_its_networks(finished, sequences, tmp_path, capsys):
    test = sequences.with_name("Two_TEST.ts")
    new, elsewhere = tmp_path / "new.ts", tmp_path / "elsewhere"
    new.write_text(test.read_text())
    shutil.copytree(finished, elsewhere)
    whole = sequences.read_text()
    command = ["--data", str(new), "--run", str(elsewhere), "--out"]
    sequences.unlink()
    try:
        assert classify.main([*command, str(tmp_path / "out")]) == 0
    finally:
        sequences.write_text(whole)
    assert "the mean of 2 networks says" in " ".join(capsys.readouterr().out.split())
    expected, found = (
        [row[-3:] for row in csv.reader((folder / "predictions.csv").read_text().splitlines())]
        for folder in (finished, tmp_path / "out")
    )
    assert found == expected  # what is predicted of the test part, and the probabilities
    shutil.rmtree(elsewhere / "checkpoints" / "network-2")
    assert classify.main([*command, str(tmp_path / "one")]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "was evaluated with 2 networks, but has 1: look for network-2 in" in text
    (elsewhere / "metrics.json").unlink()  # as after an interruption
    assert classify.main([*command, str(tmp_path / "one")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 of the 2 networks of the run have not finished an epoch what one network says" in text


def test_a_run_is_exported_with_all_its_networks(finished, sequences, tmp_path, capsys):
    """A process without JAX finds the probabilities of every example of the test part."""
    for package in ("onnx", "onnxruntime", "safetensors"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'jaxrnn[export]'")
    import jax.export
    import safetensors.numpy

    trained, run = TrainedClassifier(finished), tmp_path / "run"
    shutil.copytree(finished, run)
    features = [features_of(trained.preparation, one) for one in datasets.load(str(sequences)).test.inputs]
    lengths = np.array([len(one) for one in features], np.int32)
    inputs = np.zeros((len(features), 2 + max(lengths), features[0].shape[1]), np.float32)
    for row, one in zip(inputs, features):
        row[: len(one)] = one
    with (run / "predictions.csv").open() as file:
        expected = [[float(row[f"probability of {n}"]) for n in trained.classes] for row in csv.DictReader(file)]
    feed = {"inputs": inputs, "seq_lengths": lengths}
    for name, options in (("model", []), ("model-int8", ["--int8"])):
        assert export.main([str(run), "--to", "onnx", *options]) == 0
        found = without_jax(run / f"{name}.onnx", feed, tmp_path, "probabilities")
        np.testing.assert_allclose(found, expected, atol=0.02 if options else 2e-6)
        assert export.main([str(run), "--to", "stablehlo", *options]) == 0
        program = jax.export.deserialize(bytearray((run / f"{name}.stablehlo").read_bytes()))
        np.testing.assert_allclose(program.call(inputs, seq_lengths=lengths), found, atol=1e-6)
    assert "[batch, time, 2], float32, and the lengths" in capsys.readouterr().out
    assert export.main([str(run), "--to", "safetensors"]) == 0
    stored = safetensors.numpy.load_file(run / "model.safetensors")
    kernel = trained.networks[1]["head"]["kernel"][...]
    np.testing.assert_array_equal(stored["networks.1.head.kernel"], kernel)


def test_other_experiments_name_the_run_of_this_one(finished, tmp_path, capsys):
    assert predict.main([str(finished)]) == 2
    assert "holds a run of experiments.classify: give one of experiments.forecast" in " ".join(
        capsys.readouterr().err.split()
    )
    assert language.main(["--text", "kjv", "--out", str(finished), "--resume"]) == 2
    assert "holds a run of experiments.classify: give one of experiments.language" in " ".join(
        capsys.readouterr().err.split()
    )
    assert classify.main(["--data", "new.ts", "--run", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_options_of_a_training_are_refused_where_nothing_is_trained(finished, tmp_path, capsys):
    command = ["--data", "new.ts", "--run", str(finished), "--out", str(tmp_path / "out")]
    assert classify.main([*command, "--epochs", "3", "--resume"]) == 2
    assert "--run trains nothing, so it does not take --epochs, --resume" in capsys.readouterr().err


def test_texts_are_classified(tmp_path, capsys):
    pytest.importorskip("sklearn")
    path, out = texts(tmp_path / "films.csv"), tmp_path / "run"
    assert datasets.read(path, "text", "label") == datasets.read(texts(tmp_path / "films.jsonl"), "text", "label")
    options = ["--pooling", "attention", "--balanced", "True", "--dtype", "bfloat16"]
    assert classify.main(["--data", str(path), "--out", str(out), *SMALL, *options]) == 0
    metrics = read_json(out / "metrics.json")
    assert metrics["classes"] == ["bad", "good"] and metrics["baselines"]["bag_of_words"] == 1.0
    judged = metrics["held_out_examples"]
    assert f"on {judged} of the " in capsys.readouterr().out
    new = tmp_path / "new.csv"
    odd = "A Fine story, isn\u2019t it? " + "\u00dcber " * 30_000
    new.write_text(f'text\na fine story\n"{odd}"\n', encoding="utf-8")  # without labels
    command = ["--data", str(new), "--run", str(out), "--out", str(tmp_path / "answers")]
    assert classify.main(command) == 0
    answers = list(csv.DictReader((tmp_path / "answers" / "predictions.csv").read_text().splitlines()))
    assert len(answers) == 2
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'jaxrnn[export]'")
    assert export.main([str(out), "--to", "onnx"]) == 0
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    of = json.loads(metadata["preparation"])  # all that a program needs to know
    for text, answer in zip(("a fine story", odd), answers):
        words = re.findall(of["pattern"], text.lower())[: of["longest"]]
        numbers = np.array([[of["words"].index(w) + 1 if w in of["words"] else 0 for w in words]], np.int32)
        feed = {"inputs": numbers, "seq_lengths": np.array([len(words)], np.int32)}
        expected = [float(answer[f"probability of {name}"]) for name in json.loads(metadata["classes"])]
        np.testing.assert_allclose(session.run(None, feed)[0][0], expected, atol=0.01)  # here in float32
    assert classify.main([*command, "--label-column", "label"]) == 2  # asked for, and not there
    new.write_text("text,label\na fine story,good\na dull one,0\n", encoding="utf-8")
    capsys.readouterr()
    assert classify.main([*command[:-1], str(tmp_path / "more")]) == 0
    said = capsys.readouterr().out
    assert "of the 1 examples with a known label" in said
    assert "1 labels of the file, such as '0', are none of the run's" in said and "the run knows bad, good" in said


def test_the_data_sets_of_packages_are_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "VADER_FOLDERS", (tmp_path,))
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    for name, advice in (("speech", "pip install"), ("sentiment", "pip download --no-deps")):
        assert classify.main(["--data", name]) == 2
        assert advice in capsys.readouterr().err
    package = tmp_path / "aeon"
    folder = package / "datasets" / "data" / "JapaneseVowels"
    folder.mkdir(parents=True)
    for part in ("TRAIN", "TEST"):
        (folder / f"JapaneseVowels_{part}.ts").write_text(as_ts("1122"))
    spec = ModuleSpec("aeon", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: spec)
    found = datasets.load("speech")
    assert found.train.labels.tolist() == [0, 0, 1, 1] and found.classes == ("1", "2")
    snippets = "".join(f"{i}\t{(-1) ** i * (i % 7)}\tfilm {i}\r\n" for i in range(70)).encode()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", snippets)
    with tarfile.open(tmp_path / "vaderSentiment-3.3.2.tar.gz", "w:gz") as archive:
        add(archive, "v/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    found = datasets.load("sentiment")
    assert len(found.train.labels) == 48 and len(found.test.labels) == 12  # ten ratings are zero
    for part in (found.train, found.test):
        assert part.ratings is not None
        assert (part.labels == (part.ratings > 0)).all() and (
            np.bincount(part.labels) == len(part.labels) / 2
        ).all()
        assert [int(text.split()[1]) % 2 for text in part.inputs] == (part.ratings < 0).astype(int).tolist()


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\nfine,good\n ,bad\n", "line 3: the text is empty"),
        ("a.jsonl", b'{"text": "fine", "label": null}\n', "line 1: the label is empty"),
        ("a.jsonl", b'{"text": \n', "line 1: not JSON"),
        (
            "a.csv",
            b"text,kind\nfine,good\n",
            "has no column 'label', only text, kind: name it with --label-column",
        ),
        (
            "a.csv",
            b"text;label\nfine;good\n",
            "only text;label: separate the columns by commas",
        ),
        ("a.csv", b"text,label\nfine, or so,good\n", "line 2: more cells than the header has"),
        ("a.csv", "text,label\nschön,good\n".encode("latin-1"), "is not UTF-8: it has the byte 0xf6"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\nfine,good\n", "has only the class 'good'"),
        ("a.csv", b"text,label\nfine,good\ndull,bad\nso,bad\n", "have fewer than two examples to learn from"),
        ("a.txt", b"fine", "must be a .ts file of sequences, or a .csv, .tsv or .jsonl file of texts"),
        ("a.ts", b"@classLabel true 1 2\n@data\n1,2:1\n:2\n", "line 4: the sequence has no steps"),
    ],
)
def test_data_that_cannot_be_used_are_named(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    assert classify.main(["--data", str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_test_part_that_does_not_fit_is_refused(sequences, tmp_path, capsys):
    test = tmp_path / "test.ts"
    for content, message in (
        (as_ts("12").replace("1 2", "1 2 3").replace(":2", ":3"), "the test part has the classes 3, which the"),
        (as_ts("12", channels=3), "the training part have 2 channels, those of the test part 3"),
    ):
        test.write_text(content)
        assert classify.main(["--data", str(sequences), "--test", str(test), "--out", str(tmp_path / "o")]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    test.write_text("@classLabel true good bad\n@data\n1,2,3:good\n1,2:bad\n")
    assert classify.main(["--data", str(texts(tmp_path / "films.csv")), "--test", str(test)]) == 2
    assert "holds texts, but its test part holds sequences" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere.ts"], "there is no file nowhere.ts, and no data set of this name: speech, gesture"),
        ([], "--data is missing"),
        (["--resume"], "--resume needs --out"),
        (["--members", "7"], "--members 7 is too many for 12 examples"),
        (["--hidden", "0"], "--hidden must have at least one layer"),
        (["--label-smoothing", "1"], "--label-smoothing must be at least 0 and below 1, not 1.0"),
        (["--cell", "rnn"], "unknown cell 'rnn'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, sequences, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in options or not options else ["--data", str(sequences)]
    assert classify.main([*data, *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
