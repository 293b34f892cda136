"""Every experiment says what it does."""

import pytest

from experiments import (
    backtest,
    classify,
    compare,
    export,
    forecast,
    generate,
    gradient_flow,
    language,
    lr_range,
    predict,
    recall,
    selective_copy,
)

MODULES = {
    "classify": classify,
    "compare": compare,
    "export": export,
    "forecast": forecast,
    "backtest": backtest,
    "generate": generate,
    "gradient_flow": gradient_flow,
    "language": language,
    "lr_range": lr_range,
    "predict": predict,
    "recall": recall,
    "selective_copy": selective_copy,
}


@pytest.mark.parametrize("name", MODULES)
def test_help_teaches(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        MODULES[name].main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m experiments.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", MODULES)
def test_an_empty_value_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert MODULES[name].main(["--out", ""]) == 2
    assert "--out is given an empty value" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
