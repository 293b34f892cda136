"""A run folder: what is in it, writing it so that a crash leaves whole files, and reading it back."""

import csv
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import Settings
from experiments.recipes import Config
from jaxrnn.data import Preparation

CHECKPOINTS = "checkpoints"
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
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


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
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no {path}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Config.from_json(record["config"]), Preparation.from_json(record["preparation"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def write_config(folder: Path, config: Config, preparation: Preparation) -> None:
    write_json(folder / "config.json", {"config": vars(config), "preparation": preparation.to_json()})


def check_resumable(saved: Config, wanted: Config, settings: Settings) -> Config:
    """The saved configuration with what may change on resuming; a ValueError names what may not."""
    given = [
        name
        for name, value in vars(settings).items()
        if value != getattr(Settings(), name) and name not in ("out", "devices", "resume", *RESUMABLE)
    ]
    for name in given:
        if getattr(saved, name) != getattr(wanted, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is {getattr(wanted, name)!r}, but the run to be resumed has "
                f"{getattr(saved, name)!r}; only --epochs and --patience may change"
            )
    changed = {name: getattr(wanted, name) for name in RESUMABLE if getattr(settings, name) is not None}
    return Config(**{**vars(saved), **changed})
