"""Language models from the command line: a small run, resumed exactly, and the n-grams it is compared with."""

import itertools
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import export, generate, language, predict
from experiments.common import language as models
from experiments.common.language_config import LanguageConfig
from experiments.common.ngram import KneserNey
from experiments.common.text import divide_text, load_text, numbers_of
from tests.experiments.runs_of_tests import without_jax

SMALL = ["--hidden", "12", "--window", "8", "--batch-size", "4", "--validations", "3", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    lines = ["the cat sat on the mat", "a dog ran to the cat", "the mat was on a dog"]
    chosen = np.random.RandomState(0).randint(0, 3, 150)
    path.write_text("\n".join(lines[number] for number in chosen) + "\nΩ!", encoding="utf-8")
    return path


def run(out: Path, text: Path, *options: str) -> int:
    return language.main(["--text", str(text), "--out", str(out), *SMALL, *options])


def result(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(out, text, "--passes", "2") == 0
    return out


def test_a_run_learns_and_writes_what_it_promises(finished, text):
    metrics, history = result(finished), json.loads((finished / "history.json").read_text())
    assert {path.name for path in finished.iterdir()} >= {"learning_curve.png", "sample.txt", "config.json"}
    assert len(history) == metrics["epochs_run"] == 6
    assert metrics["bits_per_character"] < 1 < history[0]["valid_bits"]  # of 16 characters, with 4 bits
    assert set(metrics["baselines"]) == {"kneser_ney_5", "kneser_ney_7"}
    assert metrics["unknown_characters"] == 2  # only the test part has Ω and !
    loaded = generate.load_run(finished)
    written = (finished / "sample.txt").read_text()[:-1]
    assert len(written) == language.SAMPLE and set(written) <= set(loaded.characters)


def test_in_bfloat16_it_learns_too_and_writes_in_float32(finished, text, tmp_path):
    out = tmp_path / "run"
    assert run(out, text, "--passes", "2", "--dtype", "bfloat16") == 0
    assert result(out)["bits_per_character"] == pytest.approx(result(finished)["bits_per_character"], rel=0.2)
    assert result(out)["bits_per_character"] != result(finished)["bits_per_character"]
    model: Any = generate.load_run(out).model
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(model.initialize_carry(1))} == {"float32"}
    assert run(out, text, "--passes", "2", "--dtype", "float32", "--resume") == 2


def test_the_bits_are_those_of_pieces_that_each_begin_with_zeros(finished, text, monkeypatch):
    monkeypatch.setattr(models, "ROWS_OF_EVALUATION", 3)
    monkeypatch.setattr(models, "STEPS_OF_EVALUATION", 8)
    model: Any = generate.load_run(finished).model
    config = LanguageConfig.from_json(json.loads((finished / "config.json").read_text())["config"])
    modelling = models.Modelling(config, load_text(str(text)))
    tokens = modelling.text.tokens
    begin, nats = len(tokens) - 100, []
    for first, last in ((0, 40), (40, 80), (80, 100)):  # 100 characters are 5 windows of 8 in each of 3 pieces
        piece = tokens[begin + first : begin + last]
        logits = np.asarray(model(tokens[None, begin + first - 1 : begin + last - 1])[0], np.float64)
        nats += (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(piece)), piece]).tolist()
    found = modelling.bits(nnx.state(model), begin, len(tokens))
    assert found == pytest.approx(np.mean(nats) / np.log(2), rel=1e-5)


def test_a_run_that_ctrl_c_stops_keeps_its_best_and_goes_on_exactly(finished, text, tmp_path, monkeypatch):
    out = tmp_path / "run"
    evaluate = models.Modelling.evaluate

    def interrupt(self, state):
        if int(state.epoch) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, state)

    monkeypatch.setattr(models.Modelling, "evaluate", interrupt)
    assert run(out, text, "--passes", "2") == 130
    assert result(out)["stopped"] == "interrupted" and 4 <= result(out)["epochs_run"] < 6
    monkeypatch.setattr(models.Modelling, "evaluate", evaluate)
    assert language.main(["--out", str(out), "--resume"]) == 0
    assert result(out)["bits_per_character"] == result(finished)["bits_per_character"]
    assert (out / "sample.txt").read_bytes() == (finished / "sample.txt").read_bytes()


def test_dropout_changes_the_training_alone(finished, text):
    config = LanguageConfig.from_json(json.loads((finished / "config.json").read_text())["config"])
    plain, dropping = (models.Modelling(replace(config, dropout=rate), load_text(str(text))) for rate in (0, 0.5))
    trained = []
    for modelling in (plain, dropping, dropping):
        state, epoch = modelling.start()
        trained.append(epoch(state)[0])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), trained[1].params, trained[2].params))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), trained[0].params, trained[1].params))
    end = len(plain.text.tokens)
    assert plain.bits(plain.params, end - 50, end) == dropping.bits(plain.params, end - 50, end)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dropout", "1"], "--dropout must be at least 0 and below 1, not 1.0"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: there is no such file, and the only named text is kjv"),
        (["--cell", "lstn"], "unknown cell 'lstn'; available:"),
        (["--tie-head", "--embedding", "3"], "--tie-head needs --embedding 256"),
        (["--learning-rate", "0"], "--learning-rate must be positive and finite, not 0.0"),
        (["--seed", "-1"], "--seed must be between 0 and"),
        (["--resume"], "--resume needs --out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, capsys):
    assert language.main(options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_resume_refuses_another_setting_and_another_text(finished, text, tmp_path, capsys):
    assert language.main(["--out", str(finished), "--resume", "--hidden", "7"]) == 2
    assert "--hidden is (7,), but the run to be resumed has (12,)" in " ".join(capsys.readouterr().err.split())
    assert run(finished, text) == 2
    assert "holds another run" in " ".join(capsys.readouterr().err.split())
    before = text.read_text()
    text.write_text(before + "the cat")
    assert language.main(["--out", str(finished), "--resume"]) == 2
    assert "has changed since the run in" in " ".join(capsys.readouterr().err.split())
    text.write_text(before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: a language model needs a text to learn from"),
        (b" \n", "is empty"),
        (b"caf\xe9 au lait", "is not a text in UTF-8: byte 3 cannot be read"),
        (b"too short", "has 9 characters, too few for a training, a validation and a test part"),
        (b"shorter than a window " * 2, "fewer than --validations 3: choose smaller numbers, or a longer text"),
    ],
)
def test_texts_that_cannot_be_learned_are_refused(content, message, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert run(tmp_path / "run", path) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_text_in_utf_16_is_that_in_utf_8(tmp_path):
    path = tmp_path / "text.txt"
    found = []
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(("the caf\u00e9 is open\r\n" * 9).encode(encoding))
        found.append(load_text(str(path)))
    assert found[0].characters == found[1].characters == found[2].characters
    assert found[0].sha256 == found[1].sha256 == found[2].sha256 and "\r" not in found[0].characters


def test_a_text_is_divided_and_numbered():
    text = divide_text("letters", "ab" * 46 + "c" + "abcabd" + "a")
    assert (text.train, text.test, len(text.tokens)) == (93, 95, 100)
    assert (text.characters, text.unknown, text.vocabulary_size) == ("abc", "d", 4)
    assert text.tokens[-3:].tolist() == [1, 3, 0]
    assert numbers_of("𝄞a𝄞", "a𝄞").tolist() == [1, 0, 1]  # beyond 16 bits


def test_generate_writes_and_refuses_prompts_with_unknown_characters(finished, tmp_path, capsys):
    assert (
        generate.main([str(finished), "--prompt", "the ", "--length", "30", "--number", "3", "--top-k", "3"]) == 0
    )
    out, err = capsys.readouterr()
    assert out.count("the ") >= 3 and "characters a second" in err
    for prompt, message in (("the Ω?", "characters that are not in the text of the run: '?', 'Ω'"), ("", "empty")):
        assert generate.main([str(finished), "--prompt", prompt]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert generate.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert generate.main([str(finished), "--length", "5"]) == 0  # this text has no capital I to begin with
    assert generate.main([str(finished), "--seed", "-1"]) == 2
    assert "--seed must be at least 0, not -1" in capsys.readouterr().err
    assert predict.main([str(finished)]) == 2
    assert "holds a run of experiments.language: give one of experiments.forecast" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_run_is_exported_and_goes_on_with_a_text(finished, tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'jaxrnn[export]'")
    path = tmp_path / "model.onnx"
    assert export.main([str(finished), "--to", "onnx", "--out", str(path)]) == 0
    loaded: Any = generate.load_run(finished)
    tokens = numbers_of("the cat sat", loaded.characters)[None].astype(np.int32)
    carry, _ = loaded.model(tokens[:, :4], return_carry=True)
    feed = {"inputs": tokens[:, 4:], "initial_carry_0_c": carry[0].c, "initial_carry_0_h": carry[0].h}
    found = without_jax(path, {name: np.asarray(value) for name, value in feed.items()}, tmp_path, "logits")
    np.testing.assert_allclose(found, loaded.model(tokens)[:, 4:], atol=1e-5)


def test_prompts_of_different_lengths_keep_their_order(finished):
    model, characters = generate.load_run(finished)
    prompts = [numbers_of(prompt, characters) for prompt in ("the cat", "a", "the dog")]
    found = models.write_text(model, characters, prompts, 9, temperature=0)
    assert found == [models.write_text(model, characters, [prompt], 9, temperature=0)[0] for prompt in prompts]


def test_kneser_ney_by_hand():
    """The text a b a b a c, in bigrams: ab 2, ba 2, ac 1. D = 1 / (1 + 2 * 2) = 0.2.

    Of single characters: a, b and c each come after one other, so all have the count 1, and D = 3 / 3 = 1, which
    leaves everything to the uniform distribution: 1/3 each.
    """
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), 3, order=2)
    after_a = [(0 + 0.2 * 2 / 3) / 3, (1.8 + 0.2 * 2 / 3) / 3, (0.8 + 0.2 * 2 / 3) / 3]
    for token, wanted in enumerate(after_a):
        assert model.probabilities(np.array([0, token]))[1] == pytest.approx(wanted)
    assert model.probabilities(np.array([1, 0]))[1] == pytest.approx((1.8 + 0.2 * 1 / 3) / 2)
    assert model.probabilities(np.array([2, 1])).tolist() == pytest.approx([1 / 3, 1 / 3])  # nothing follows c
    bits = model.bits(np.array([1, 0, 1]), start=1)
    assert bits == pytest.approx(-np.log2([(1.8 + 0.2 / 3) / 2, after_a[1]]).mean())


def test_kneser_ney_of_three_orders_counts_what_comes_before_and_adds_up_to_one():
    tokens = np.random.RandomState(0).randint(0, 4, 60)
    model = KneserNey(tokens, 5, order=3)  # the token 4 was never seen
    for context in itertools.product(range(5), repeat=2):
        whole = [model.probabilities(np.array([*context, token]))[2] for token in range(5)]
        assert sum(whole) == pytest.approx(1) and min(whole) > 0
    middle = {
        tuple(tokens[i : i + 3]) for i in range(58)
    }  # different trigrams; a bigram counts how many end in it
    pair = (int(tokens[1]), int(tokens[2]))
    followers = {gram[2] for gram in middle if gram[1] == pair[0]}
    total = sum(gram[1] == pair[0] for gram in middle)
    counts = np.unique(np.array([gram[1] * 5 + gram[2] for gram in middle]), return_counts=True)[1]
    discount = (
        (counts == 1).sum() / ((counts == 1).sum() + 2 * (counts == 2).sum()) if (counts == 1).any() else 0.5
    )
    lower = model.probabilities(np.array([pair[1]]))[0]
    wanted = (sum(gram[1:] == pair for gram in middle) - discount + discount * len(followers) * lower) / total
    assert model.probabilities(np.array(pair))[1] == pytest.approx(wanted)


@pytest.mark.parametrize(("tokens", "size"), [([1, 2], 5), ([1] * 9, 2**13)])
def test_n_grams_that_cannot_be_counted_are_refused(tokens, size):
    with pytest.raises(ValueError, match=re.escape("5-grams")):
        KneserNey(np.array(tokens), size)
