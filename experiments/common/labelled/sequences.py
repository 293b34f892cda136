"""Prepares sequences of measurements for a network, and changes them at random so that it learns from more."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SequencePreparation:
    """Scales the channels of sequences, and gathers several steps into one.

    Attributes:
      means, scales: of every channel, over the training part.
      differences: whether the network also reads the change of each channel since the step before.
      frame: how many steps are gathered into one. A network then reads shorter sequences of more features, which
        helps where sequences are long and change slowly.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    differences: bool
    frame: int

    @property
    def num_features(self) -> int:
        """How many numbers the network reads at a step."""
        return len(self.means) * (2 if self.differences else 1) * self.frame

    @classmethod
    def fit(cls, sequences: Sequence[np.ndarray], *, differences: bool, frame: int) -> "SequencePreparation":
        """Fit to the sequences ``[time, channels]`` of the training part."""
        steps = np.concatenate(sequences).astype(np.float64)  # squares of large values are no float32
        scales = steps.std(axis=0)
        return cls(
            tuple(steps.mean(axis=0).tolist()),
            tuple(np.where(scales > 0, scales, 1.0).tolist()),  # a channel that never changes says nothing
            differences,
            frame,
        )

    def scaled(self, sequence: np.ndarray) -> np.ndarray:
        """Scale a sequence ``[time, channels]``.

        Raises:
          ValueError: it has other channels than those of the training part.
        """
        if sequence.ndim != 2 or sequence.shape[1] != len(self.means):
            raise ValueError(
                f"a sequence of shape {sequence.shape} does not fit the network, which was trained on sequences "
                f"[time, {len(self.means)}]"
            )
        return ((sequence - np.array(self.means)) / np.array(self.scales)).astype(np.float32)

    def features(self, scaled: np.ndarray) -> np.ndarray:
        """What the network reads of a scaled sequence, float32 ``[ceil(time / frame), features]``."""
        if self.differences:
            scaled = np.concatenate([scaled, np.diff(scaled, axis=0, prepend=scaled[:1])], axis=1)
        missing = -len(scaled) % self.frame
        if missing:  # the last frame repeats the last step
            scaled = np.concatenate([scaled, np.repeat(scaled[-1:], missing, axis=0)])
        return scaled.reshape(-1, self.frame * scaled.shape[1]).astype(np.float32)

    def from_features(self, features: np.ndarray) -> np.ndarray:
        """The scaled sequence ``[time, channels]`` that these features were made from, with whole frames."""
        channels = len(self.means)
        return features.reshape(len(features) * self.frame, -1)[:, :channels]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "SequencePreparation":
        means, scales = tuple(record["means"]), tuple(record["scales"])
        return cls(means, scales, record["differences"], record["frame"])


FAR = 1e4
"""A value is far from the others if it is so many times as far from the middle as three quarters of them."""


def far_values(sequences: Sequence[np.ndarray], numbers: Sequence[int]) -> list[str]:
    """Sentences about values that are so far from all others that these look alike to a network.

    Args:
      sequences: ``[time, channels]``.
      numbers: what to call each.

    >>> far_values([np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [1e6], [0.0]])], [4, 7])[0][:37]
    'sequence 7 holds 1e+06 in channel 0: '
    """
    notes = []
    for channel in range(sequences[0].shape[1]):
        values = [one[:, channel].astype(np.float64) for one in sequences]
        middle = np.median(np.concatenate(values))
        usual = np.quantile(np.abs(np.concatenate(values) - middle), 0.75)
        furthest = [np.abs(one - middle).max() for one in values]
        place = int(np.argmax(furthest))
        if furthest[place] > FAR * usual > 0:
            value = values[place][np.abs(values[place] - middle).argmax()]
            notes.append(
                f"sequence {numbers[place]} holds {value:g} in channel {channel}: beside it the other values of "
                "this channel look alike to the network, so remove it if it is an error"
            )
    return notes


@dataclass(frozen=True)
class Augmentation:
    """Changes a sequence at random each time that the network learns from it. Zero turns a part off.

    Attributes:
      crop: the largest share of a sequence that is cut off, at both ends together.
      stretch: the speed of the whole sequence changes by up to this factor: exp(uniform(-stretch, stretch)).
      warp: the speed within the sequence changes smoothly, by a factor exp(normal(0, warp)) at each of four
      places. scale: every channel is multiplied by exp(normal(0, scale)).
      shift: a normal number with this standard deviation is added to every channel.
      noise: the same for every step.
    """

    crop: float = 0.0
    stretch: float = 0.0
    warp: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    noise: float = 0.0

    def __call__(self, rng: np.random.Generator, sequence: np.ndarray, longest: int) -> np.ndarray:
        """A changed copy of a scaled sequence ``[time, channels]``, of 1 to ``longest`` steps."""
        last, channels = len(sequence) - 1, sequence.shape[1]
        if self.crop or self.stretch or self.warp:
            cut = rng.uniform(0, self.crop) * last
            first = rng.uniform(0, cut)
            speed = np.exp(rng.uniform(-self.stretch, self.stretch))
            steps = int(np.clip(round((last - cut + 1) / speed), min(2, longest), longest))
            places = np.linspace(0, 3, steps)
            pace = np.exp(np.interp(places, np.arange(4), rng.normal(0, self.warp, 4)))
            times = np.concatenate([[0.0], np.cumsum((pace[1:] + pace[:-1]) / 2)])
            times = first + times * ((last - cut) / max(times[-1], 1e-9))
            before = np.minimum(times.astype(int), max(last - 1, 0))
            share = (times - before)[:, None]
            sequence = (1 - share) * sequence[before] + share * sequence[np.minimum(before + 1, last)]
        sequence = sequence * np.exp(rng.normal(0, self.scale, channels)) + rng.normal(0, self.shift, channels)
        return (sequence + rng.normal(0, self.noise, sequence.shape)).astype(np.float32)
