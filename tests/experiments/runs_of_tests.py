"""Small runs of the first experiment, and what they wrote."""

import json
from pathlib import Path

from experiments import forecast

SMALL = ["--hidden", "6", "--epochs", "2"]


def read_json(path: Path):
    return json.loads(path.read_text())


def run_forecast(out: Path, *options: str) -> int:
    return forecast.main(["--out", str(out), *options])
