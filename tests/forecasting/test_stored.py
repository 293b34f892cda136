"""What a forecaster keeps: after a fit that fails, in a folder, and of arguments of any number type."""

from typing import Any

import numpy as np
import pytest

from jaxrnn.forecasting import Forecaster

SMALL: dict[str, Any] = dict(steps=4, seeds=1, hidden=(4,))
VALUES = 10 + np.sin(np.arange(60) * 2 * np.pi / 7)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    model = Forecaster(3, **SMALL).fit(VALUES)
    before = model.predict()
    for useless in (np.array([1.0]), np.array(["x"])):
        with pytest.raises(ValueError, match=r"long enough|must hold numbers"):
            model.fit(useless)
        assert (model.predict()["yhat"] == before["yhat"]).all()
    assert len(model.fit(np.array([1.0, 2.0])).predict()["yhat"]) == 3  # two steps are enough
