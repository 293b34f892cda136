"""What an experiment can be told, and what a recipe fills in where it is told nothing."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrnn.cells import CELLS
from jaxrnn.data import available_series
from jaxrnn.ops import ACTIVATIONS
from jaxrnn.training import OPTIMIZERS

Task = Literal["seq2vec", "seq2seq", "stateful"]
TASKS: tuple[Task, ...] = ("seq2vec", "seq2seq", "stateful")


@dataclass(frozen=True)
class Settings:
    """What to train on what. Options that are not given take the recipe's value."""

    recipe: Literal["course", "tuned"] | None = None
    """course: the lesson's experiment, raw values in, outputs times 200, stopped early by looking at the
    validation part. tuned: a small network corrects a seasonal moving average, stopped early by looking at the
    end of the training part, so that nothing is chosen on the part it is judged on.
    (default: course for the course series, tuned for all others)"""

    task: Task = "seq2vec"
    """seq2vec: forecast after each window. seq2seq: forecast at every step of it. stateful: consecutive windows,
    the hidden state carried from one to the next."""

    cell: Annotated[str, tyro.conf.arg(help=f"Recurrent cell: {', '.join(CELLS)}.")] = "simple_rnn"

    series: Annotated[
        str, tyro.conf.arg(help=f"{', '.join(available_series())}, or the path of a CSV file with a header.")
    ] = "course"

    column: str | None = None
    """The column to forecast, where the series has several."""

    further_columns: tuple[str, ...] = ()
    """Columns that the network may read beside it."""

    split: int | None = None
    """The first step of the last part, which forecasts are judged on."""

    season: int | None = None
    """Steps per season (tuned recipe; 0 for none)."""

    level_width: int | None = None
    """Steps that the moving average under the forecast takes in (tuned recipe)."""

    window: int | None = None
    """Steps that the network reads before a forecast."""

    hidden: tuple[int, ...] | None = None
    """Hidden units, layer by layer."""

    activation: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Activation of the simple cell: {', '.join(ACTIVATIONS)}. tanh is bounded; relu can explode."
        ),
    ] = None

    optimizer: Annotated[
        str | None, tyro.conf.arg(help=f"{', '.join(OPTIMIZERS)}; sgd has a momentum of 0.9.")
    ] = None

    learning_rate: float | None = None
    """Highest learning rate; python -m experiments.lr_range helps to find one."""

    clip_norm: float | None = None
    """Scale gradients down to this global norm where they are longer; 0 turns clipping off."""

    batch_size: int | None = None
    """Windows in a batch; for stateful, parallel streams of the series."""

    epochs: int | None = None
    """At most so many epochs."""

    patience: int | None = None
    """Stop after so many epochs without a better validation loss; 0 never stops early."""

    seed: int = 0
    """Of the first parameters and of the shuffling."""

    out: Path | None = None
    """Folder of the run (default: a new one under runs/)."""

    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with the run in --out, with its settings; --epochs and --patience may be changed."""


@dataclass(frozen=True)
class Config:
    """Settings with every value filled in: what a run folder's config.json holds."""

    recipe: str
    task: Task
    cell: str
    series: str
    column: str | None
    further_columns: tuple[str, ...]
    split: int | None
    season: int | None
    level_width: int | None
    calendar: int | None
    window: int
    hidden: tuple[int, ...]
    activation: str
    recurrent_gain: float
    output_scale: float
    optimizer: str
    learning_rate: float
    warmup: float
    decay: bool
    clip_norm: float | None
    average: float | None
    batch_size: int
    epochs: int
    patience: int | None
    holdout: float
    seed: int

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Config":
        names = {f.name for f in fields(cls)}
        if set(record) != names:
            wrong = ", ".join(sorted(set(record) ^ names))
            raise ValueError(f"config.json does not fit this version: missing or unknown {wrong}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in record.items()})


def resolve(settings: Settings) -> Config:
    """Fill in what the settings leave open; a ValueError says what does not fit."""
    recipe = settings.recipe or ("course" if settings.series == "course" else "tuned")
    base = _COURSE[settings.task] if recipe == "course" else _TUNED[settings.task]
    _known("cell", settings.cell, CELLS)
    given = {
        name: value
        for name, value in vars(settings).items()
        if value is not None and name not in ("recipe", "out", "resume")
    }
    config = replace(
        base, **{"recipe": recipe, "column": None, "split": None, **_season(recipe, settings), **given}
    )
    config = replace(
        config,
        clip_norm=config.clip_norm or None,
        patience=config.patience or None,
        season=config.season or None,
    )
    _known("activation", config.activation, ACTIVATIONS)
    _known("optimizer", config.optimizer, OPTIMIZERS)
    for name in ("window", "batch_size", "epochs", "learning_rate"):
        if not getattr(config, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(config, name)}")
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"--hidden must name at least one positive layer size, not {config.hidden}")
    return config


def _season(recipe: str, settings: Settings) -> dict[str, Any]:
    """Seasonal settings that belong to a series; chosen on the end of its training part."""
    if recipe == "course":
        return {}
    return _SERIES.get(settings.series, {})


def _known(what: str, name: str, available: Any) -> None:
    if name not in available:
        raise ValueError(f"unknown {what} {name!r}; available: {', '.join(available)}")


_COURSE_SEQ2VEC = Config(
    recipe="course",
    task="seq2vec",
    cell="simple_rnn",
    series="course",
    column=None,
    further_columns=(),
    split=None,
    season=None,
    level_width=None,
    calendar=None,
    window=30,
    hidden=(100, 100),
    activation="tanh",
    recurrent_gain=1.0,
    output_scale=200.0,
    optimizer="sgd",
    learning_rate=1.5e-6,
    warmup=0.0,
    decay=False,
    clip_norm=None,
    average=None,
    batch_size=128,
    epochs=500,
    patience=50,
    holdout=0.0,
    seed=0,
)
_COURSE: dict[str, Config] = {
    "seq2vec": _COURSE_SEQ2VEC,
    "seq2seq": replace(_COURSE_SEQ2VEC, task="seq2seq", learning_rate=1e-6),
    "stateful": replace(_COURSE_SEQ2VEC, task="stateful", learning_rate=1e-7, batch_size=1),
}
_TUNED_SEQ2VEC = replace(
    _COURSE_SEQ2VEC,
    recipe="tuned",
    level_width=80,
    calendar=365,
    window=30,
    hidden=(16,),
    recurrent_gain=0.5,
    output_scale=1.0,
    optimizer="adam",
    learning_rate=3e-3,
    warmup=0.1,
    decay=True,
    clip_norm=1.0,
    average=0.99,
    batch_size=32,
    epochs=40,
    patience=8,
    holdout=0.15,
)
_TUNED: dict[str, Config] = {
    "seq2vec": _TUNED_SEQ2VEC,
    "seq2seq": replace(_TUNED_SEQ2VEC, task="seq2seq"),
    "stateful": replace(_TUNED_SEQ2VEC, task="stateful", batch_size=1),
}
_SERIES: dict[str, dict[str, Any]] = {"course": {"season": 365}}
