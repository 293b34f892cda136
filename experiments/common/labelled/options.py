"""The options of experiments.classify. The recipe of the data set fills in those that are not given."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from experiments.common.config import given
from experiments.common.labelled.recipes import RECIPES, Config, recipe
from experiments.common.options import (
    CompilationCache,
    Out,
    SaveEvery,
    SaveEverySteps,
    check_network,
    check_saving,
    option,
)
from jaxrnn.cells import CELLS

_POSITIVE = ("learning_rate", "batch_size", "epochs", "members")


def _default(name: str) -> str:
    """The recipes' values of a field, for the help text."""
    values = {data: getattr(config, name) for data, config in RECIPES.items()}
    for data, is_text in (("own sequences", False), ("own texts", True)):
        values[data] = getattr(recipe("", is_text=is_text), name)
    if len(set(values.values())) == 1:
        return f"(default: {_short(next(iter(values.values())))})"
    return f"(default: {', '.join(f'{data} {_short(value)}' for data, value in values.items())})"


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else f"{value}"


@dataclass(frozen=True)
class Settings:
    """What to classify with which networks. An option that is not given takes the value of the data's recipe."""

    data: Annotated[
        str | None,
        arg(
            metavar="NAME|PATH",
            help=f"{', '.join(RECIPES)}; or a .ts file of sequences; or a .csv, .tsv or .jsonl file with a text "
            "and a label in each row.",
            help_behavior_hint="(required)",
        ),
    ] = None
    test: Annotated[
        str | None,
        arg(
            metavar="PATH",
            help="The test part of a file of your own.",
            help_behavior_hint="(default: for a _TRAIN.ts the _TEST.ts beside it, else a fifth of each class)",
        ),
    ] = None
    text_column: Annotated[
        str | None, arg(metavar="NAME", help="The column of the texts.", help_behavior_hint="(default: text)")
    ] = None
    label_column: Annotated[
        str | None, arg(metavar="NAME", help="The column of the labels.", help_behavior_hint="(default: label)")
    ] = None
    cell: Annotated[
        str | None,
        arg(
            metavar="CELL",
            help=f"Recurrent cell: {', '.join(CELLS)}.",
            help_behavior_hint=_default("cell"),
        ),
    ] = None
    hidden: Annotated[
        tuple[int, ...] | None,
        arg(
            metavar="UNITS [UNITS ...]",
            help="Hidden units of each layer and direction.",
            help_behavior_hint=_default("hidden"),
        ),
    ] = None
    bidirectional: Annotated[
        bool | None,
        arg(
            metavar="{True,False}",
            help="Read each sequence in both directions.",
            help_behavior_hint=_default("bidirectional"),
        ),
    ] = None
    pooling: Annotated[
        Literal["last", "mean", "max", "attention"] | None,
        arg(
            metavar="{last,mean,max,attention}",
            help="How the outputs of all steps become one vector.",
            help_behavior_hint=_default("pooling"),
        ),
    ] = None
    dropout: Annotated[
        float | None,
        arg(
            metavar="SHARE",
            help="Share of the features that are dropped above the lowest layer.",
            help_behavior_hint=_default("dropout"),
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        arg(
            metavar="{float32,bfloat16}",
            help="What the networks compute in. Their parameters are float32.",
            help_behavior_hint=_default("dtype"),
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        arg(metavar="RATE", help="The highest learning rate.", help_behavior_hint=_default("learning_rate")),
    ] = None
    label_smoothing: Annotated[
        float | None,
        arg(
            metavar="SHARE",
            help="Share of each target that is spread over all classes.",
            help_behavior_hint=_default("label_smoothing"),
        ),
    ] = None
    balanced: Annotated[
        bool | None,
        arg(
            metavar="{True,False}",
            help="Give every class the same weight in the loss, however rare it is.",
            help_behavior_hint=_default("balanced"),
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        arg(metavar="N", help="Sequences per batch.", help_behavior_hint=_default("batch_size")),
    ] = None
    epochs: Annotated[
        int | None,
        arg(metavar="N", help="Epochs of each network.", help_behavior_hint=_default("epochs")),
    ] = None
    patience: Annotated[
        int | None,
        arg(
            metavar="EPOCHS",
            help="Stop a network after this many epochs without a better validation loss; 0 never stops early.",
            help_behavior_hint=_default("patience"),
        ),
    ] = None
    members: Annotated[
        int | None,
        arg(
            metavar="N",
            help="How many networks are trained; their mean probability decides.",
            help_behavior_hint=_default("members"),
        ),
    ] = None
    seed: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Seed of the initial parameters, the shuffling, the augmentation and the folds.",
            help_behavior_hint="(default: 0)",
        ),
    ] = None
    out: Out = None
    run: Annotated[
        Path | None,
        arg(
            metavar="DIR",
            help="Train nothing: classify --data, a file of your own, with the networks of this run, and write "
            "predictions.csv into --out.",
            help_behavior_hint="(default: train)",
        ),
    ] = None
    resume: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Continue the run in --out with its settings, or start it in an empty folder. Only --epochs and "
            "--patience may change. (The learning rate falls over all of --epochs, so another number of epochs "
            "changes the rates.)",
            help_behavior_hint="",
        ),
    ] = False
    save_every: SaveEvery = 30.0
    save_every_steps: SaveEverySteps = None
    compilation_cache: CompilationCache = None


def resolve(settings: Settings, *, is_text: bool) -> Config:
    """Complete the settings with the recipe. Raises a ValueError if an option is invalid."""
    config = replace(recipe(settings.data or "", is_text=is_text), **given(settings))
    config = replace(config, patience=config.patience or None)  # 0 must mean None, as an option that is left out
    check_network(config, _POSITIVE, seeds=2**32 // 1000)
    for name in ("dropout", "label_smoothing"):
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{option(name)} must be at least 0 and below 1, not {value}")
    if config.patience is not None and config.patience < 1:
        raise ValueError(f"--patience must be at least 0, not {config.patience}")
    check_saving(settings.save_every, settings.save_every_steps)
    return config
