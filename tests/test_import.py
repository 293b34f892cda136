"""``import jaxrnn`` is quick: everything is loaded when it is first used, training and export by themselves."""

import subprocess
import sys

CODE = """
import sys
import jaxrnn

def loaded(*packages):
    return sorted({name.split(".")[0] for name in sys.modules} & set(packages))

assert not loaded("jax", "flax", "optax", "orbax", "matplotlib", "tyro")
for name in set(jaxrnn.__all__) - {"training", "export", "forecasting"}:
    assert getattr(jaxrnn, name) is getattr(jaxrnn, name)
assert jaxrnn.layers.RNN is jaxrnn.RNN  # modules that are not in __all__ are found without an import of their own
assert not loaded("orbax", "matplotlib", "tyro")  # Flax loads Optax
assert "jaxrnn.training" not in sys.modules
assert set(jaxrnn.__all__) <= set(dir(jaxrnn)) and "__version__" in dir(jaxrnn)
assert jaxrnn.training.fit is sys.modules["jaxrnn.training"].fit
jaxrnn.forecasting.Forecaster
assert "scipy.signal" not in sys.modules  # it would take as long as all the rest
from jaxrnn import *
assert training is jaxrnn.training
try:
    jaxrnn.trainign
except AttributeError as error:
    assert "no attribute 'trainign'" in str(error)
else:
    raise AssertionError("a typo is no attribute")
"""


def test_import_loads_nothing_that_is_not_used():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
