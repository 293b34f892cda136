"""The record of a run with --horizon in its folder, and whether a run can be resumed."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.common import runs
from experiments.common.options import option
from jaxrnn.forecasting import OneSeries

CONFIG = runs.HORIZON_CONFIG
CHECKPOINTS = "checkpoints"
FORECAST, PICTURE = "forecast.csv", "forecast.png"
_MAY_CHANGE = ("out", "resume")
_COMPLETE = "complete"


def begin(folder: Path, settings: Any, panel: Sequence[OneSeries]) -> None:
    """Make the folder of a new run, or check that the run in it can be resumed with these settings.

    Raises:
      ValueError: the folder holds something else, or a run of other settings or series.
    """
    record = {"settings": _plain(settings), "series_sha256": checksum(panel)}
    path = folder / CONFIG
    if not settings.resume:
        if folder.is_dir() and any(folder.iterdir()):
            more = ": choose another --out, or --resume to continue the run in it" if path.exists() else ""
            raise ValueError(f"{folder} is not empty{more or ': choose another --out'}")
        runs.make_folder(folder)
        runs.write_json(path, record)
        return
    if not folder.is_dir() or not any(folder.iterdir()):
        state = "is empty" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"there is no run to continue, since {folder} {state}: check --out, or leave out --resume to begin one"
        )
    if not path.exists():
        other = ", but one that forecasts a single step: resume it without --horizon"
        raise ValueError(f"{folder} holds no run with --horizon{other if (folder / runs.CONFIG).exists() else ''}")
    saved = read(folder)
    before = saved["settings"]
    other = [name for name, value in record["settings"].items() if before.get(name) != value]
    if other:
        differences = ", ".join(
            f"{option(name)} is {_given(record['settings'][name])}, but was {_given(before.get(name))}"
            for name in other
        )
        raise ValueError(f"{differences}: resume the run in {folder} with the options that it was begun with")
    if saved["series_sha256"] != record["series_sha256"]:
        raise ValueError(
            f"the series {settings.series} have changed since the run in {folder} began: start a new run"
        )


def _given(value: Any) -> str:
    return "not given" if value is None else repr(value)


def finish(folder: Path) -> None:
    """Note that the training was not stopped before its end."""
    runs.write_json(folder / CONFIG, {**read(folder), _COMPLETE: True})


def complete(folder: Path) -> bool:
    """Whether the run in a folder came to its end, and its forecast is still there."""
    record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return bool(record.get(_COMPLETE)) and all((folder / name).exists() for name in (FORECAST, PICTURE))


def undo(folder: Path) -> None:
    """Remove the folder of a run that has failed before it has saved anything, so that its name is free again."""
    if not (folder / CHECKPOINTS).exists():
        (folder / CONFIG).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are other files in it
            folder.rmdir()


def read(folder: Path) -> dict[str, Any]:
    """The record of the run in a folder. Raises a ValueError if it is damaged."""
    path = folder / CONFIG
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: record[name] for name in ("settings", "series_sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): start a new run") from error


def checksum(panel: Sequence[OneSeries]) -> str:
    """The SHA-256 of all names, times, values and further columns."""
    digest = hashlib.sha256()
    for one in panel:
        digest.update(repr((one.name, one.step, sorted(one.static.items()))).encode())
        for array in (one.values, one.observed, one.times, *one.future.values(), *one.past.values()):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _plain(settings: Any) -> dict[str, Any]:
    """The settings as JSON holds them, without those that may change."""
    plain = {name: value for name, value in asdict(settings).items() if name not in _MAY_CHANGE}
    return json.loads(json.dumps(plain, default=str))
