"""What an experiment can be told on the command line, and how a recipe completes it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from experiments.common.recipes import RECIPES, SEASONS, Config, Task, describe
from jaxrnn.cells import CELLS
from jaxrnn.data import available_series
from jaxrnn.ops import ACTIVATIONS
from jaxrnn.training import OPTIMIZERS

_RUN_ONLY = (
    "out",
    "devices",
    "compilation_cache",
    "resume",
    "save_every",
    "save_every_steps",
    "distributed",
    "heartbeat",
)
_POSITIVE = ("window", "batch_size", "epochs", "learning_rate", "clip_norm", "patience", "season", "level_width")


@dataclass(frozen=True)
class Settings:
    """What to train on what. An option that is not given takes the recipe's value."""

    recipe: Annotated[
        Literal["course", "tuned"] | None,
        arg(
            metavar="{course,tuned}",
            help="course: the lesson's experiment, raw values in, outputs times 200, stopped early by looking at "
            "the validation part. tuned: a small network corrects a moving average, stopped early by looking at "
            "the end of the training part, so that nothing is chosen on the part it is judged on.",
            help_behavior_hint="(default: course for the course series, tuned for any other)",
        ),
    ] = None
    task: Annotated[
        Task | None,
        arg(
            metavar="{seq2vec,seq2seq,stateful}",
            help="seq2vec: forecast after each window. seq2seq: forecast at every step of it. "
            "stateful: consecutive windows, the hidden state carried from one to the next.",
            help_behavior_hint="(default: seq2vec)",
        ),
    ] = None
    cell: Annotated[
        str | None,
        arg(
            metavar="CELL",
            help=f"Recurrent cell: {', '.join(CELLS)}.",
            help_behavior_hint="(default: simple_rnn)",
        ),
    ] = None
    series: Annotated[
        str | None,
        arg(
            metavar="NAME|PATH.csv",
            help=f"{', '.join(available_series())}, or the path of a CSV file with a header.",
            help_behavior_hint="(default: course)",
        ),
    ] = None
    column: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help="The column to forecast.",
            help_behavior_hint="(default: the series's own, or a file's only numeric one)",
        ),
    ] = None
    further_columns: Annotated[
        tuple[str, ...] | None,
        arg(
            metavar="NAME",
            help="Columns that the network may read beside it.",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    split: Annotated[
        int | None,
        arg(
            metavar="STEP",
            help="The first step of the last part, which forecasts are judged on.",
            help_behavior_hint="(default: the series's own, or 70 % of a file)",
        ),
    ] = None
    season: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Steps per season, to be taken out by the median of earlier seasons; 0 for none. Tuned recipe.",
            help_behavior_hint="(default: 365 for the course series, else 0)",
        ),
    ] = None
    level_width: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Steps of the moving average under the forecast. Tuned recipe.",
            help_behavior_hint=describe("level_width"),
        ),
    ] = None
    window: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Steps that the network reads before a forecast.",
            help_behavior_hint=describe("window"),
        ),
    ] = None
    hidden: Annotated[
        tuple[int, ...] | None,
        arg(
            metavar="UNITS [UNITS ...]",
            help="Hidden units, layer by layer.",
            help_behavior_hint=describe("hidden"),
        ),
    ] = None
    activation: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help=f"Activation of the simple cell: {', '.join(ACTIVATIONS)}. tanh is bounded, relu can explode.",
            help_behavior_hint=describe("activation"),
        ),
    ] = None
    optimizer: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help=f"{', '.join(OPTIMIZERS)}; sgd has a momentum of 0.9.",
            help_behavior_hint=describe("optimizer"),
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        arg(
            metavar="RATE",
            help="The highest learning rate; python -m experiments.lr_range helps to find one. "
            "By task where there are three.",
            help_behavior_hint=describe("learning_rate"),
        ),
    ] = None
    clip_norm: Annotated[
        float | None,
        arg(
            metavar="NORM",
            help="Scale gradients down to this global norm where they are longer; 0 turns clipping off.",
            help_behavior_hint=describe("clip_norm"),
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Windows in a batch; for stateful, streams of the series side by side.",
            help_behavior_hint=describe("batch_size"),
        ),
    ] = None
    epochs: Annotated[
        int | None, arg(metavar="N", help="At most so many epochs.", help_behavior_hint=describe("epochs"))
    ] = None
    patience: Annotated[
        int | None,
        arg(
            metavar="EPOCHS",
            help="Stop after so many epochs without a better validation loss; 0 never stops early.",
            help_behavior_hint=describe("patience"),
        ),
    ] = None
    seed: Annotated[
        int | None,
        arg(metavar="N", help="Of the first parameters and of the shuffling.", help_behavior_hint="(default: 0)"),
    ] = None
    out: Annotated[
        Path | None,
        arg(metavar="DIR", help="Folder of the run.", help_behavior_hint="(default: a new one under runs/)"),
    ] = None
    devices: Annotated[
        int | None,
        arg(
            metavar="N",
            help="How many devices (cores of a CPU) share each batch.",
            help_behavior_hint="(default: all, where each gets 32 rows of a batch or more)",
        ),
    ] = None
    compilation_cache: Annotated[
        Path | None,
        arg(
            metavar="DIR",
            help="Keep compiled programs in this folder: the same experiment starts sooner the next time.",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    resume: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Go on with the run in --out, with its settings, or begin it if there is none yet; --epochs and "
            "--patience may be changed. (The tuned recipe's learning rate falls over all of --epochs, so another "
            "number changes it.)",
            help_behavior_hint="",
        ),
    ] = False
    save_every: Annotated[
        float, arg(metavar="SECONDS", help="How often to save the latest and the best model.")
    ] = 30.0
    save_every_steps: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Save after every so many training steps too.",
            help_behavior_hint="(default: by the clock only)",
        ),
    ] = None
    distributed: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Train together with other processes that run the same command: JAX finds them on SLURM, Open "
            "MPI, Kubernetes and TPU pods; elsewhere set JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID. --devices is then for each of them.",
            help_behavior_hint="",
        ),
    ] = False
    heartbeat: Annotated[
        int, arg(metavar="SECONDS", help="With --distributed: a process that is silent for so long is dead.")
    ] = 30


def read_settings(description: str | None, arguments: list[str] | None) -> Settings:
    """The settings from the command line; exits with a message and code 2 where they do not parse."""
    return tyro.cli(Settings, prog="python -m experiments.forecast", args=arguments, description=description)


def resolve(settings: Settings) -> Config:
    """Complete the settings by the recipe; a ValueError says what does not fit."""
    series = settings.series or "course"
    recipe = settings.recipe or ("course" if series == "course" else "tuned")
    if recipe == "course" and (settings.season or settings.level_width):
        raise ValueError("--season and --level-width belong to the tuned recipe: add --recipe tuned")
    config = replace(RECIPES[recipe][settings.task or "seq2vec"], series=series)
    if recipe == "tuned":
        calendar = 365 if series in available_series() else settings.season or None
        config = replace(config, season=SEASONS.get(series), calendar=calendar)
    config = replace(config, **given(settings))
    config = replace(
        config,
        # On the command line, where nothing can be said by leaving it out, 0 stands for none.
        clip_norm=config.clip_norm or None,
        patience=config.patience or None,
        season=config.season or None,
    )
    _known("cell", config.cell, CELLS)
    _known("activation", config.activation, ACTIVATIONS)
    if config.cell in ("lstm", "gru", "leaky") and config.activation != "tanh":
        raise ValueError(
            f"--activation {config.activation} is for --cell simple_rnn: {config.cell} has tanh built in"
        )
    _known("optimizer", config.optimizer, OPTIMIZERS)
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be positive and finite, not {value}")
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"--hidden must name at least one layer of at least one unit, not {config.hidden}")
    if not settings.save_every >= 0 or (settings.save_every_steps or 1) < 1 or settings.heartbeat < 1:
        raise ValueError(
            f"--save-every must not be negative, --save-every-steps and --heartbeat must be at least 1, not "
            f"{settings.save_every}, {settings.save_every_steps} and {settings.heartbeat}"
        )
    if settings.distributed and settings.out is None:
        raise ValueError("--distributed needs --out, a folder that process 0 can write to")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"--seed must lie between 0 and {2**32 - 1}, not {config.seed}")
    return config


def given(settings: Settings) -> dict[str, Any]:
    """The fields of a configuration that the settings name."""
    return {name: value for name, value in vars(settings).items() if value is not None and name not in _RUN_ONLY}


def option(name: str) -> str:
    """A field as it is written on the command line.

    >>> option("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


def _known(what: str, name: str, available: Any) -> None:
    if name not in available:
        raise ValueError(f"unknown {what} {name!r}; available: {', '.join(available)}")
