"""The files of a run folder. A crash leaves only complete files, and reading checks them."""

import csv
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments.common.config import Settings, given
from experiments.common.recipes import Config
from jaxrnn.data import Preparation, Series
from jaxrnn.forecasting import Correction
from jaxrnn.training.checkpoint import fsync

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
HORIZON_CONFIG = "horizon.json"
"""What makes a folder a run with --horizon, which has no config.json."""
RESUMABLE = ("epochs", "patience")
C = TypeVar("C", bound=Any)


def new_folder(config: Config) -> Path:
    """The path of a new folder under runs/, named after the time and the configuration."""
    series = Path(config.series).stem
    return new_folder_named(f"{series}-{config.task}-{config.cell}-{config.recipe}-seed{config.seed}")


def new_folder_named(name: str) -> Path:
    """The path of a new folder under runs/, named after the time and ``name``."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{name}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def write_json(path: Path, content: Any) -> None:
    write_file(path, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def write_file(path: Path, data: bytes) -> None:
    """Write to a temporary name and rename, so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        fsync(temporary)  # without it, a power cut may leave an empty file
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _finite(content: Any) -> Any:
    """Replace infinities and NaN by null, because JSON does not have them."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_forecast(path: Path, start: int, actual: np.ndarray, forecast: np.ndarray) -> None:
    """Write step, value and forecast of every step from ``start`` on, including the step after the last value.

    The value is empty where it is missing or not known yet.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "value", "forecast"])
        known = np.isfinite(actual)
        for i, value in enumerate(forecast.tolist()):
            writer.writerow([start + i, actual[i].item() if i < len(actual) and known[i] else "", value])


def read_config(folder: Path) -> tuple[Config, Preparation | Correction]:
    """The configuration of the run in this folder, and its fitted preparation.

    Raises:
      FileNotFoundError: the folder holds no run.
      ValueError: config.json is damaged or of another version.
    """
    return parse_config(folder, read_record(folder))


def read_record(folder: Path) -> dict[str, Any]:
    """Read config.json of this folder as plain JSON.

    Raises:
      FileNotFoundError: the folder holds no run.
      ValueError: the file is damaged.
    """
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run: {path} does not exist")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record = {name: record[name] for name in ("config", "preparation", "series", "sha256")}
        if record != with_checksum(record):
            raise ValueError(f"{path} is damaged, or was edited: its checksum is wrong. {how_to_replace(folder)}")
        return record
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). {how_to_replace(folder)}"
        ) from error


def how_to_replace(folder: Path) -> str:
    """Instructions for users who have lost config.json but not the checkpoints."""
    return (
        f"The checkpoints do not depend on it: start the same run with another --out, stop it with Ctrl-C, and "
        f"copy its {CONFIG} to {folder}; then --resume continues"
    )


def experiment_of(record: dict[str, Any]) -> str:
    """The experiment that a record from :func:`read_record` is of."""
    if "characters" in record["preparation"]:
        return "experiments.language"
    return "experiments.classify" if "classes" in record["series"] else "experiments.forecast"


def check_experiment(folder: Path, record: dict[str, Any], wanted: str) -> None:
    """Raise a ValueError if a record from :func:`read_record` is of another experiment than the wanted one."""
    if (found := experiment_of(record)) != wanted:
        raise ValueError(f"{folder} holds a run of {found}: give one of {wanted}")


def parse_config(folder: Path, record: dict[str, Any]) -> tuple[Config, Preparation | Correction]:
    """The configuration and the preparation in a record from :func:`read_record`."""
    check_experiment(folder, record, "experiments.forecast")
    try:
        config = Config.from_json(record["config"])
        kind = Correction if config.combination else Preparation
        return config, kind.from_json(record["preparation"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({type(error).__name__}: {error})") from error


def find_run(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """The record of the run to continue, or None for a new run. Raises a ValueError if the folder is in use."""
    if resume and (folder / CONFIG).exists():
        return read_record(folder)
    check_free(folder)
    return None


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it is read from JSON, with the SHA-256 of all its other fields."""
    plain = json.loads(json.dumps(_finite({name: record[name] for name in record if name != "sha256"})))
    return plain | {"sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def describe_series(series: Series) -> dict[str, Any]:
    """Numbers that identify a series. Not a checksum, because processors may differ in the last bits."""
    place = np.arange(1, 1 + len(series.values)) / len(series.values)
    return {
        "shape": list(series.values.shape),
        "split": series.split,
        "means": series.values.mean(axis=0).tolist(),
        "moments": (place @ series.values).tolist(),
    }


def check_series(folder: Path, record: dict[str, Any], series: Series) -> None:
    """Raise a ValueError if the series is not the one that the run began with."""
    had, has = record["series"], describe_series(series)
    same = (had["shape"], had["split"]) == (has["shape"], has["split"])
    if not same or not all(np.allclose(had[name], has[name], rtol=1e-9) for name in ("means", "moments")):
        raise ValueError(
            f"{series.name} has changed since the run in {folder} began: it had {had['shape'][0]} steps and now "
            f"has {has['shape'][0]}, or its values differ. Continue with the old series, or choose another --out"
        )


def write_config(
    folder: Path, config: Config, preparation: Preparation | Correction, series: Series, *, new: bool
) -> None:
    """Write config.json, which makes the folder a run. With ``new``, raises a ValueError if it exists already."""
    write_record(folder, vars(config), preparation.to_json(), describe_series(series), new=new)


def write_record(
    folder: Path, config: dict[str, Any], preparation: dict[str, Any], series: dict[str, Any], *, new: bool
) -> None:
    """Write these three parts of config.json; see :func:`write_config`."""
    path = folder / CONFIG
    record = with_checksum({"config": config, "preparation": preparation, "series": series})
    if not new:
        write_json(path, record)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_json(temporary, record)
    try:
        os.link(temporary, path)  # unlike a rename, it fails if another run has just written the file
    except FileExistsError:
        raise ValueError(another_run(folder)) from None
    finally:
        temporary.unlink()
    fsync(folder)


class FolderGuard:
    """Notices if the folder of a run is deleted during training, and writes config.json again.

    The checkpoint store makes its folder again by itself, but without config.json the run could not be resumed.

    Args:
      folder: the run's folder, which has been claimed.
      write: writes config.json.
    """

    def __init__(self, folder: Path, write: Callable[[], None]):
        self._folder, self._write = folder, write
        self._checkpoints = folder / CHECKPOINTS
        self._open()

    def check(self) -> None:
        """Warn about files that were deleted since the last check, and write a missing config.json again."""
        lost = []
        if not (self._folder / CONFIG).exists():
            lost.append(CONFIG)
            try:
                make_folder(self._folder)
                self._write()
            except OSError as error:
                lost[-1] += f" (which cannot be written again: {error})"
        here = _inode(self._checkpoints)
        if here != self._inode:
            if self._inode is not None:  # otherwise it was reported, and a save has made the folder again
                lost.append("its checkpoints")
            self.close()
            self._open()
        if lost:
            warnings.warn(
                f"in {self._folder}, {' and '.join(lost)} were deleted while the run was training. Training "
                f"continues and writes them again; until the next save, the run cannot be resumed",
                stacklevel=2,
            )

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _open(self) -> None:
        # While the folder is open, no other folder can get the same inode.
        try:
            self._descriptor = os.open(self._checkpoints, os.O_RDONLY)
            self._inode = os.fstat(self._descriptor).st_ino
        except FileNotFoundError:  # the next save makes it
            self._descriptor = self._inode = None


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def another_run(folder: Path) -> str:
    return f"{folder} holds another run: choose another --out, or continue that run with --resume"


def check_free(folder: Path) -> None:
    """Raise a ValueError if the folder holds a run, or checkpoints of one."""
    if (folder / CONFIG).exists():
        raise ValueError(another_run(folder))
    if (folder / HORIZON_CONFIG).exists():
        raise ValueError(
            f"{folder} holds a run with --horizon: choose another --out, or continue that run with its options, "
            f"--horizon among them, and --resume"
        )
    if any((folder / CHECKPOINTS).glob("*")):
        raise ValueError(
            f"{folder / CHECKPOINTS} holds checkpoints of another run, or of this run after its {CONFIG} was "
            f"lost. If it is another run, choose another --out. If it is this run: {how_to_replace(folder)}"
        )


def make_folder(folder: Path) -> None:
    """Make the run's folder. The OSError, if it cannot be made, names the folder and the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise OSError(f"cannot make the folder {folder}: {reason}; choose another --out") from error


def check_resumable(saved: Config, settings: Settings) -> Config:
    """The saved configuration with the new --epochs and --patience. Raises a ValueError for any other change."""
    return check_unchanged(saved, given(settings))


def check_unchanged(saved: C, wanted: dict[str, Any]) -> C:
    """The saved configuration with the wanted values; see :func:`check_resumable`."""
    for name, value in wanted.items():
        if name not in RESUMABLE and getattr(saved, name) != value:
            raise ValueError(
                f"--{name.replace('_', '-')} is {value!r}, but the run to be resumed has "
                f"{getattr(saved, name)!r}; only --epochs and --patience may change"
            )
    changed = {name: wanted[name] or None for name in RESUMABLE if name in wanted}
    return replace(saved, **changed)
