"""The README files show what the results say."""

import json

import pytest

from benchmarks.readme import TABLES, main, rewrite

MACHINE = {"processor": "Intel(R) Xeon(R) CPU", "cores": 2, "jax": "1.2", "keras": None, "torch": None}
BOTH = "<!-- results: epoch -->\nold\n<!-- end -->\n<!-- results: training -->\nold\n<!-- end -->\n"


def training_rows(*libraries: str) -> dict:
    rows = []
    for number, library in enumerate(libraries, 1):
        seconds = {"median": 0.04 * number, "low": 0.04 * number, "high": 0.04 * number}
        learned = {"seconds": 1.0, "values": [1.0], "reached": True}
        rows.append(
            {
                "task": "seq2vec",
                "library": library,
                "first": {"seconds": 1.0},
                "learned": learned,
                "memory": 2**20,
                "losses": [1.0],
                "epochs": [0.04 * number],
                "spread": seconds,
            }
        )
    rows += [{**row, "task": "seq2seq"} for row in rows if "-" not in row["library"]]
    return {"benchmark": "training", "machine": MACHINE, "results": rows}


@pytest.fixture
def results(tmp_path):
    found = training_rows("jaxrnn", "jaxrnn-one-device", "jaxrnn-reference", "torch")
    (tmp_path / "training-some-machine.json").write_text(json.dumps(found))
    return tmp_path


def test_the_readme_is_what_the_results_say():
    assert main(["--check"]) == 0, "run python -m benchmarks.readme"


def test_a_table_is_written_and_the_rest_is_kept(results):
    before = (
        "prose\n<!-- results: epoch -->\nold\n<!-- end -->\nmore\n<!-- results: sweep -->\nkept\n<!-- end -->\n"
    )
    after, names = rewrite(before, results, "some-machine")
    assert names == ["epoch"]
    assert "| jaxrnn | 40.0 (40.0 to 40.0) | 1 | 1.00 |" in after and "old" not in after
    assert after.startswith("prose\n") and "more\n<!-- results: sweep -->\nkept\n" in after
    assert rewrite(after, results, "some-machine")[0] == after


def test_check_fails_and_changes_nothing_where_they_differ(results, capsys):
    readme = results / "README.md"
    readme.write_text("<!-- results: epoch -->\nold\n<!-- end -->\n")
    options = ["--readme", str(readme), "--results", str(results), "--machine", "some-machine"]
    assert main([*options, "--check"]) == 1
    assert "old" in readme.read_text()
    assert main(options) == 0
    assert main([*options, "--check"]) == 0


def test_the_first_experiments_epoch_comes_from_the_training_if_it_has_the_other_ways(results):
    after, names = rewrite(BOTH, results, "some-machine")
    assert names == ["epoch", "training"]
    assert "| jaxrnn, reference | 120 (120 to 120) | 3.00 (3.00 to 3.00) | 1.00 |" in after
    assert "| seq2vec | 40.0 | 160 | 1 | 1 |" in after  # the libraries that trained every task
    (results / "training-some-machine.json").write_text(json.dumps(training_rows("jaxrnn", "torch")))
    after, names = rewrite(BOTH, results, "some-machine")
    assert names == ["training"] and after.startswith("<!-- results: epoch -->\nold\n")


def test_pages_without_markers_and_pages_that_do_not_exist_are_left_alone(results):
    page = results / "README.md"
    page.write_text("prose\n")
    pages = [str(page), str(results / "missing.md")]
    assert main(["--readme", *pages, "--results", str(results), "--machine", "some-machine"]) == 0
    assert page.read_text() == "prose\n" and not (results / "missing.md").exists()


def test_an_unknown_table_is_an_error(results):
    with pytest.raises(ValueError, match="available: " + ", ".join(TABLES)):
        rewrite("<!-- results: nonsense -->\n<!-- end -->\n", results, "some-machine")
