"""What all exports share: packages that are loaded when they are needed, and files that are written as a whole."""

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from jaxrnn import checks

PathLike = str | os.PathLike[str]


def package(name: str) -> Any:
    """A package of the extra ``export``, or an ImportError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing, wanted = (error.name or "").partition(".")[0], name.partition(".")[0]
        if missing != wanted:
            raise
        raise ImportError(
            f"this needs the package {wanted}, which is not installed: pip install 'jaxrnn[export]'"
        ) from error


def version() -> str:
    """This package's own, which is loaded before any of its modules."""
    return sys.modules[__name__.partition(".")[0]].__version__


def not_a_module(model: Any, wanted: str) -> str:
    """Why something else than a module cannot be exported."""
    remedy = (
        ": export jaxrnn.forecasting.CalibratedNetworks(model)" if type(model).__name__ == "Forecaster" else ""
    )
    return f"model must be {wanted}, not {checks.shown(model)}{remedy}"


def free_path(path: PathLike, overwrite: bool) -> Path:
    """The path as one that a file may be written to, or a ValueError."""
    overwrite = checks.flag("overwrite", overwrite)
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already: choose another path, or pass overwrite=True to replace it")
    return path


def write_file(path: Path, data: bytes) -> None:
    """Write to a temporary name and rename: a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name with nothing in it
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
