"""Every experiment says what it does."""

import pytest

from experiments import forecast, gradient_flow, lr_range, predict


@pytest.mark.parametrize("module", ["forecast", "predict", "lr_range", "gradient_flow"])
def test_help_teaches(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        {"forecast": forecast, "predict": predict, "lr_range": lr_range, "gradient_flow": gradient_flow}[
            module
        ].main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m experiments.{module}" in capsys.readouterr().out
