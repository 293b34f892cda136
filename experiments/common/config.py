"""The options of the command line. A recipe fills in those that are not given."""

import math
import os
import sys
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from experiments.common.options import (
    CompilationCache,
    Out,
    SaveEvery,
    SaveEverySteps,
    check_known,
    check_network,
    check_saving,
)
from experiments.common.recipes import COURSE_RATES, RECIPES, SEASONS, Config, Task, describe
from jaxrnn.cells import CELLS
from jaxrnn.data import available_series
from jaxrnn.ops import ACTIVATIONS
from jaxrnn.training import OPTIMIZERS

T = TypeVar("T")

_RUN_ONLY = (
    "out",
    "run",
    "devices",
    "compilation_cache",
    "resume",
    "save_every",
    "save_every_steps",
    "distributed",
    "heartbeat",
)
_POSITIVE = ("window", "batch_size", "epochs", "learning_rate", "clip_norm", "patience", "season", "level_width")
COPIES_IN_TRAINING = 5
"""Copies of the parameters' size in memory: the parameters, their gradients, the optimiser's state, the best
parameters, and the copy that is being saved."""


@dataclass(frozen=True)
class Settings:
    """Which network to train on which series. An option that is not given takes the recipe's value."""

    recipe: Annotated[
        Literal["course", "tuned"] | None,
        arg(
            metavar="{course,tuned}",
            help="course: the lesson's experiment, with raw values, outputs times 200, and early stopping on the "
            "validation part. tuned: a small network corrects a moving average or, on a CSV file, an average of "
            "simple forecasts, with early stopping on the end of the training part, so that nothing is chosen on "
            "the part that is used for evaluation.",
            help_behavior_hint="(default: course for the course series, tuned for any other)",
        ),
    ] = None
    task: Annotated[
        Task | None,
        arg(
            metavar="{seq2vec,seq2seq,stateful}",
            help="seq2vec: forecast after each window. seq2seq: forecast at every step of a window. "
            "stateful: consecutive windows; the hidden state is carried from one to the next.",
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
            help_behavior_hint="(default: that of the named series, or a file's only numeric one)",
        ),
    ] = None
    further_columns: Annotated[
        tuple[str, ...] | None,
        arg(
            metavar="NAME",
            help="More columns that the network reads as inputs.",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    split: Annotated[
        int | None,
        arg(
            metavar="STEP",
            help="The first step of the test part, whose forecasts are evaluated.",
            help_behavior_hint="(default: that of the named series, or 70 % of a file)",
        ),
    ] = None
    season: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Steps per season (12 for months), 0 for none. On a CSV file the forecasts also read the value "
            "of a season ago; on a named series the median of earlier seasons is subtracted. Tuned recipe.",
            help_behavior_hint="(default: 365 for the course series, else 0)",
        ),
    ] = None
    level_width: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Correct a moving average of this many steps. Tuned recipe.",
            help_behavior_hint="(default: 80; on a CSV file, an average of simple forecasts is corrected)",
        ),
    ] = None
    window: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Steps that the network reads before a forecast.",
            help_behavior_hint="(default: 30, and fewer on a short CSV file)",
        ),
    ] = None
    hidden: Annotated[
        tuple[int, ...] | None,
        arg(
            metavar="UNITS [UNITS ...]",
            help="Hidden units of each layer.",
            help_behavior_hint=describe("hidden"),
        ),
    ] = None
    activation: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help=f"Activation of the simple cell: {', '.join(ACTIVATIONS)}. relu has no upper bound: it is "
            "better than tanh on the course recipe, but can explode with larger weights or longer windows, which "
            "python -m experiments.gradient_flow shows.",
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
            help="The highest learning rate; python -m experiments.lr_range helps to find one. Three defaults are "
            "those of the three tasks. On the course recipe, seq2vec with lstm or gru has 1.5e-05.",
            help_behavior_hint=describe("learning_rate"),
        ),
    ] = None
    clip_norm: Annotated[
        float | None,
        arg(
            metavar="NORM",
            help="Scale gradients with a larger global norm down to this norm; 0 turns clipping off.",
            help_behavior_hint=describe("clip_norm"),
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Windows per batch; for stateful, the number of parts of the series that are read side by side.",
            help_behavior_hint=describe("batch_size"),
        ),
    ] = None
    epochs: Annotated[
        int | None, arg(metavar="N", help="The largest number of epochs.", help_behavior_hint=describe("epochs"))
    ] = None
    patience: Annotated[
        int | None,
        arg(
            metavar="EPOCHS",
            help="Stop after this many epochs without a better validation loss; 0 never stops early.",
            help_behavior_hint=describe("patience"),
        ),
    ] = None
    seed: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Seed of the initial parameters and of the shuffling.",
            help_behavior_hint="(default: 0)",
        ),
    ] = None
    out: Out = None
    devices: Annotated[
        int | None,
        arg(
            metavar="N",
            help="How many devices (cores of a CPU) share each batch.",
            help_behavior_hint="(default: as many as get at least 32 rows of a batch each)",
        ),
    ] = None
    compilation_cache: CompilationCache = None
    resume: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Continue the run in --out with its settings, or start it in an empty folder. Only --epochs and "
            "--patience may change. (The tuned recipe lowers its learning rate over all of --epochs, so another "
            "number of epochs changes the rates.)",
            help_behavior_hint="",
        ),
    ] = False
    save_every: SaveEvery = 30.0
    save_every_steps: SaveEverySteps = None
    distributed: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Train together with other processes that run the same command: JAX finds them on SLURM, Open "
            "MPI, Kubernetes and TPU pods; elsewhere set JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID. --devices then counts the devices of each process.",
            help_behavior_hint="",
        ),
    ] = False
    heartbeat: Annotated[
        int,
        arg(
            metavar="SECONDS",
            help="With --distributed: after this many seconds without a message, a process counts as dead.",
        ),
    ] = 30


def read_command_line(settings: type[T], name: str, description: str | None, arguments: list[str] | None) -> T:
    """The settings from the command line. If they do not parse, exits with a message and code 2."""
    given_arguments = sys.argv[1:] if arguments is None else arguments
    if "" in given_arguments:
        place = given_arguments.index("")
        raise ValueError(f"{given_arguments[place - 1] if place else 'an argument'} is given an empty value")
    return tyro.cli(settings, prog=f"python -m experiments.{name}", args=arguments, description=description)


def resolve(settings: Settings) -> Config:
    """Complete the settings with the recipe. Raises a ValueError if an option is invalid."""
    series = settings.series or "course"
    recipe = settings.recipe or ("course" if series == "course" else "tuned")
    # A run that is resumed has a recipe of its own, with which the options are compared.
    if recipe == "course" and not settings.resume and (settings.season or settings.level_width):
        raise ValueError("--season and --level-width belong to the tuned recipe: add --recipe tuned")
    config = replace(RECIPES[recipe][settings.task or "seq2vec"], series=series)
    if recipe == "tuned":
        calendar = 365 if series in available_series() else settings.season or None
        config = replace(config, season=SEASONS.get(series), calendar=calendar)
        if series not in available_series() and settings.level_width is None:
            config = replace(config, combination=True, level_width=None)
    if recipe == "course" and config.task == "seq2vec":
        rate = COURSE_RATES.get(settings.cell or config.cell, config.learning_rate)
        config = replace(config, learning_rate=rate)
    config = replace(config, **given(settings))
    config = replace(
        config,
        # An option that is left out takes the recipe's value, so 0 must mean None.
        clip_norm=config.clip_norm or None,
        patience=config.patience or None,
        season=config.season or None,
    )
    check_network(config, _POSITIVE)
    check_known("activation", config.activation, ACTIVATIONS)
    if config.cell != "simple_rnn" and config.activation != "tanh":
        raise ValueError(
            f"--activation {config.activation} needs --cell simple_rnn: {config.cell} has functions of its own"
        )
    check_known("optimizer", config.optimizer, OPTIMIZERS)
    config = replace(config, window=0 if config.combination and settings.window is None else config.window)
    _fits_into_memory(config)
    check_saving(settings.save_every, settings.save_every_steps)
    if settings.heartbeat < 1:
        raise ValueError(f"--heartbeat must be at least 1, not {settings.heartbeat}")
    if settings.distributed and settings.out is None:
        raise ValueError("--distributed needs --out: give a folder that process 0 can write to")
    return config


def _fits_into_memory(config: Config) -> None:
    """Raise a ValueError if training needs more memory for parameters and their copies than this machine has."""
    below = (1 + len(config.further_columns), *config.hidden)
    gates = CELLS[config.cell].num_gates
    count = sum(gates * (rows + units + 1) * units for rows, units in zip(below, config.hidden))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    needed = 4 * count * COPIES_IN_TRAINING
    if needed > memory:
        raise ValueError(
            f"--hidden {' '.join(map(str, config.hidden))} makes a network of {count:.2g} parameters. Training it "
            f"needs about {needed / 2**30:.2g} GiB of memory, but this machine has {memory / 2**30:.2g} GiB. "
            f"Choose fewer units"
        )


def given(settings: Any) -> dict[str, Any]:
    """The fields of a configuration that the settings of an experiment give a value."""
    return {name: value for name, value in vars(settings).items() if value is not None and name not in _RUN_ONLY}
