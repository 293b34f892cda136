"""A forecaster in a folder: its networks, and a JSON file with everything else."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from jaxrnn.checks import positive_integer
from jaxrnn.forecasting.calibration import Calibration
from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.season import SeasonChoice
from jaxrnn.forecasting.settings import Settings
from jaxrnn.training import CheckpointError, load_model, save_model

SETTINGS = "forecaster.json"
_REMEDY = "copy its folder again, or train the model again"


@dataclass(frozen=True)
class Stored:
    """What is stored beside the networks.

    Attributes:
      given: the arguments of the forecaster.
      settings: the same with what was found in the series of the training.
      calibration, known, season: what else was found there.
      networks: how many there are.
    """

    given: Settings
    settings: Settings
    calibration: Calibration
    known: Known
    season: SeasonChoice | None
    networks: int

    def write(self, folder: Path, make: Callable[[int], Callable[[], nnx.Module]], params: Sequence[Any]) -> None:
        """Write everything into a folder, which is made."""
        record = {
            "given": asdict(self.given),
            "settings": asdict(self.settings),
            "calibration": self.calibration.to_json(),
            "known": self.known.to_json(),
            "season": None if self.season is None else self.season.to_json(),
            "networks": self.networks,
        }
        text = json.dumps(record, indent=2) + "\n"  # whatever fails here fails before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(params):
            model = make(number)()
            nnx.update(model, one)
            save_model(model, folder / f"network{number}")
        (folder / SETTINGS).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        """Read everything but the networks.

        Raises:
          FileNotFoundError: there is no model in this folder.
          ValueError: the file is damaged, or of another version.
        """
        path = folder / SETTINGS
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no forecaster: {path} does not exist")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            settings = _settings(record["settings"])
            season, networks = record["season"], positive_integer("networks", record["networks"])
            return cls(
                _settings(record["given"]) if "given" in record else settings,  # older models lack what was given
                settings,
                Calibration.from_json(record["calibration"]),
                Known.from_json(record["known"]),
                None if season is None else SeasonChoice.from_json(season),
                networks,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged, or was written by another version ({type(error).__name__}: {error}). To mend "
                f"it, {_REMEDY}"
            ) from error

    def networks_of(self, folder: Path, make: Callable[[int], Callable[[], nnx.Module]]) -> list[Any]:
        """The parameters of the networks. Raises a ValueError that names the file if one is damaged."""
        try:
            return [
                nnx.state(load_model(make(number), folder / f"network{number}")) for number in range(self.networks)
            ]
        except CheckpointError as error:
            raise ValueError(f"the model in {folder} cannot be loaded: {error}. To mend it, {_REMEDY}") from error


def _settings(record: dict[str, Any]) -> Settings:
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return Settings(**arguments)
