"""``import jaxrnn`` is quick: what only training and the commands need is loaded when it is first used."""

import subprocess
import sys

CODE = """
import sys
import jaxrnn

loaded = sorted({name.split(".")[0] for name in sys.modules} & {"orbax", "matplotlib", "tyro"})
assert not loaded, loaded
assert "jaxrnn.training" not in sys.modules
assert set(jaxrnn.__all__) <= set(dir(jaxrnn)) and "__version__" in dir(jaxrnn)
assert jaxrnn.training.fit is sys.modules["jaxrnn.training"].fit
from jaxrnn import *
assert training is jaxrnn.training
try:
    jaxrnn.trainign
except AttributeError as error:
    assert "no attribute 'trainign'" in str(error)
else:
    raise AssertionError("a typo is no attribute")
"""


def test_import_loads_neither_orbax_nor_matplotlib_nor_tyro():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
