"""A complete configuration of a classification, and the recipes that fill it in."""

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Config:
    """A classification with every value filled in, as config.json in a run folder holds it.

    Most fields are options of the command line, see experiments/classify.py. The others are:

    Attributes:
      differences, frame: of :class:`experiments.common.labelled.sequences.SequencePreparation`.
      crop, stretch, warp, scale, shift, noise: of :class:`experiments.common.labelled.sequences.Augmentation`.
      embedding: the size of a word's vector.
      min_count, most_words, longest: of :meth:`experiments.common.labelled.texts.TextPreparation.fit`.
      word_dropout: the share of words that are replaced by the unknown word while the network learns.
      soft: for texts with ratings, the target is the probability sigmoid(soft * rating); 0 learns the classes.
      buckets: the most lengths that sequences are padded to.
      warmup: the share of all steps in which the learning rate rises; it then falls along a cosine.
      folds: how many parts the training part is divided into; each network holds out another one.
      average: the decay of the running average of the parameters.
    """

    data: str
    test: str | None
    text_column: str
    label_column: str
    cell: str
    hidden: tuple[int, ...]
    bidirectional: bool
    pooling: str
    dropout: float
    input_dropout: float
    dtype: str
    differences: bool
    frame: int
    crop: float
    stretch: float
    warp: float
    scale: float
    shift: float
    noise: float
    embedding: int
    min_count: int
    most_words: int
    longest: int
    word_dropout: float
    soft: float
    buckets: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    balanced: bool
    clip_norm: float
    warmup: float
    average: float
    batch_size: int
    epochs: int
    patience: int | None
    folds: int
    members: int
    seed: int

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Config":
        names = {f.name for f in fields(cls)}
        if set(record) != names:
            wrong = ", ".join(sorted(set(record) ^ names))
            raise ValueError(f"config.json is of another command or version: missing or unknown fields: {wrong}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**values)


_SEQUENCES = Config(
    data="",
    test=None,
    text_column="text",
    label_column="label",
    cell="gru",
    hidden=(64,),
    bidirectional=True,
    pooling="mean",
    dropout=0.3,
    input_dropout=0.0,
    dtype="float32",
    differences=False,
    frame=1,
    crop=0.1,
    stretch=0.0,
    warp=0.0,
    scale=0.1,
    shift=0.0,
    noise=0.1,
    embedding=0,
    min_count=0,
    most_words=0,
    longest=0,
    word_dropout=0.0,
    soft=0.0,
    buckets=4,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=1e-2,
    label_smoothing=0.1,
    balanced=False,
    clip_norm=1.0,
    warmup=0.1,
    average=0.99,
    batch_size=16,
    epochs=60,
    patience=None,
    folds=5,
    members=5,
    seed=0,
)

_TEXTS = replace(
    _SEQUENCES,
    hidden=(64,),
    pooling="max",
    dropout=0.5,
    input_dropout=0.5,
    embedding=64,
    min_count=2,
    most_words=20_000,
    longest=400,
    word_dropout=0.1,
    noise=0.0,
    scale=0.0,
    crop=0.0,
    learning_rate=4e-3,
    batch_size=64,
    epochs=5,
    folds=10,
    members=3,
)

RECIPES: dict[str, Config] = {
    "speech": replace(_SEQUENCES, data="speech", crop=0.0, scale=0.0, buckets=2, epochs=30),
    "gesture": replace(
        _SEQUENCES,
        data="gesture",
        pooling="max",
        differences=True,
        frame=4,
        stretch=0.3,
        warp=0.3,
        scale=0.15,
        shift=0.1,
        noise=0.05,
        epochs=150,
    ),
    "motion": replace(_SEQUENCES, data="motion", frame=4, scale=0.2, crop=0.2),
    "sentiment": replace(_TEXTS, data="sentiment", soft=1.0),
}
"""The settings of each data set, chosen by cross-validation on its training part; see experiments/README.md."""


def recipe(data: str, *, is_text: bool) -> Config:
    """The recipe of a data set, or of a file of one's own."""
    return RECIPES.get(data) or replace(_TEXTS if is_text else _SEQUENCES, data=data)
