"""The files of a run folder: written so that a crash leaves only whole files, and read back with checks."""

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
from typing import Any

import numpy as np

from experiments.common.config import Settings, given
from experiments.common.recipes import Config
from jaxrnn.data import Preparation, Series
from jaxrnn.training.checkpoint import fsync

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
RESUMABLE = ("epochs", "patience")


def new_folder(config: Config) -> Path:
    """A folder under runs/ that does not exist yet, named after what runs in it."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    series = Path(config.series).stem
    base = Path("runs") / f"{stamp}-{series}-{config.task}-{config.cell}-{config.recipe}-seed{config.seed}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def write_json(path: Path, content: Any) -> None:
    """Write to a temporary name and rename: a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        fsync(temporary)  # else a power cut may leave the name with nothing in it
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _finite(content: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_forecast(path: Path, start: int, actual: np.ndarray, forecast: np.ndarray) -> None:
    """step, value and forecast of every step from ``start`` on, and of the one after the last value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "value", "forecast"])
        for i, value in enumerate(forecast.tolist()):
            writer.writerow([start + i, actual[i].item() if i < len(actual) else "", value])


def read_config(folder: Path) -> tuple[Config, Preparation]:
    """The configuration of the run in that folder, and its fitted preparation.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: config.json is damaged or of another version.
    """
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no {folder / CONFIG}")
    return parse_config(folder, read_record(folder))


def read_record(folder: Path) -> dict[str, Any]:
    """What config.json of that folder holds, as plain JSON; a ValueError if it is damaged."""
    path = folder / CONFIG
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record = {name: record[name] for name in ("config", "preparation", "series", "sha256")}
        if record != with_checksum(record):
            raise ValueError(
                f"{path} is damaged, or was edited: its checksum does not fit. {how_to_replace(folder)}"
            )
        return record
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). {how_to_replace(folder)}"
        ) from error


def how_to_replace(folder: Path) -> str:
    """What helps where only the record of the settings is lost."""
    return (
        f"The checkpoints beside it do not need it: begin the same run with another --out, stop it by Ctrl-C, and "
        f"copy its {CONFIG} to {folder}; then --resume goes on"
    )


def parse_config(folder: Path, record: dict[str, Any]) -> tuple[Config, Preparation]:
    """The configuration and the preparation in what :func:`read_record` returned."""
    try:
        return Config.from_json(record["config"]), Preparation.from_json(record["preparation"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({type(error).__name__}: {error})") from error


def find_run(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """The record of the run to go on with, None for a new one; a ValueError if a new one may not go there."""
    if resume and (folder / CONFIG).exists():
        return read_record(folder)
    check_free(folder)
    return None


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The record, in its form in a file, and in it the SHA-256 of all the rest of it."""
    plain = json.loads(json.dumps(_finite({name: record[name] for name in record if name != "sha256"})))
    return plain | {"sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def describe_series(series: Series) -> dict[str, Any]:
    """What tells it from another. Not a checksum: two processors may compute a series to other last bits."""
    place = np.arange(1, 1 + len(series.values)) / len(series.values)
    return {
        "shape": list(series.values.shape),
        "split": series.split,
        "means": series.values.mean(axis=0).tolist(),
        "moments": (place @ series.values).tolist(),
    }


def check_series(folder: Path, record: dict[str, Any], series: Series) -> None:
    """A ValueError if the series is not the one that the run began with."""
    had, has = record["series"], describe_series(series)
    same = (had["shape"], had["split"]) == (has["shape"], has["split"])
    if not same or not all(np.allclose(had[name], has[name], rtol=1e-9) for name in ("means", "moments")):
        raise ValueError(
            f"{series.name} has changed since the run in {folder} began: it had {had['shape'][0]} steps and has "
            f"{has['shape'][0]}, or other values. Go on with the series as it was, or begin a run in another --out"
        )


def write_config(folder: Path, config: Config, preparation: Preparation, series: Series, *, new: bool) -> None:
    """Write config.json, which makes the folder a run; a ValueError if it is to be ``new`` and there is one."""
    path, description = folder / CONFIG, describe_series(series)
    record = with_checksum({"config": vars(config), "preparation": preparation.to_json(), "series": description})
    if not new:
        write_json(path, record)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_json(temporary, record)
    try:
        os.link(temporary, path)  # fails if another run came first, be it by a moment
    except FileExistsError:
        raise ValueError(another_run(folder)) from None
    finally:
        temporary.unlink()
    fsync(folder)


class FolderGuard:
    """Notices when the folder of a run that is training is deleted, and makes it a run again.

    The checkpoint store makes its folder anew by itself, but without config.json nothing could resume the run.

    Args:
      folder: the run's folder, which has been claimed.
      write: writes config.json.
    """

    def __init__(self, folder: Path, write: Callable[[], None]):
        self._folder, self._write = folder, write
        self._checkpoints = folder / CHECKPOINTS
        self._open()

    def check(self) -> None:
        """Warn of what has been deleted since the last look, and write config.json anew where it is lost."""
        lost = []
        if not (self._folder / CONFIG).exists():
            lost.append(CONFIG)
            try:
                make_folder(self._folder)
                self._write()
            except OSError as error:
                lost[-1] += f" (which cannot be written anew: {error})"
        here = _inode(self._checkpoints)
        if here != self._inode:
            if self._inode is not None:  # else the loss has been reported, and a save has made the folder anew
                lost.append("its checkpoints")
            self.close()
            self._open()
        if lost:
            warnings.warn(
                f"of {self._folder}, {' and '.join(lost)} were deleted while the run was training. It goes on, "
                f"and writes them anew; until the next save, nothing can be resumed",
                stacklevel=2,
            )

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _open(self) -> None:
        # While it is open, no other folder can get the same inode.
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
    return f"{folder} holds another run: choose another --out, or go on with it by --resume"


def check_free(folder: Path) -> None:
    """A ValueError if a new run may not go there."""
    if (folder / CONFIG).exists():
        raise ValueError(another_run(folder))
    if any((folder / CHECKPOINTS).glob("*")):
        raise ValueError(
            f"{folder / CHECKPOINTS} holds checkpoints of another run, or of this one, whose {CONFIG} is lost. In "
            f"the first case choose another --out. {how_to_replace(folder)}"
        )


def make_folder(folder: Path) -> None:
    """Make the run's folder; an OSError says which and why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise OSError(f"cannot make the folder {folder}: {reason}; choose another --out") from error


def check_resumable(saved: Config, settings: Settings) -> Config:
    """The saved configuration with what may change on resuming; a ValueError names what may not."""
    wanted = given(settings)
    for name, value in wanted.items():
        if name not in RESUMABLE and getattr(saved, name) != value:
            raise ValueError(
                f"--{name.replace('_', '-')} is {value!r}, but the run to be resumed has "
                f"{getattr(saved, name)!r}; only --epochs and --patience may change"
            )
    changed = {name: wanted[name] or None for name in RESUMABLE if name in wanted}
    return replace(saved, **changed)
