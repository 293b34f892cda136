"""What the networks are compared with: methods without a network, on the same parts of the data."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.labelled.datasets import Labelled
from experiments.common.labelled.texts import WORDS
from jaxrnn.training import accuracy

NAMES = {
    "most_frequent": "the most frequent class",
    "dtw": "1-NN, dynamic time warping",
    "rocket": "ROCKET (aeon)",
    "bag_of_words": "bag of words, logistic regression",
    "vader": "VADER's rules",
}
MOST_CELLS = 3e9
"""Above this many cells of its tables, dynamic time warping would take minutes, and is left out."""


def baselines(data: Labelled) -> dict[str, float]:
    """The accuracy of each method on the test part. A method whose package is missing is left out."""
    train, test = data.train, data.test
    found: dict[str, Any] = {"most_frequent": np.full(len(test.labels), np.bincount(train.labels).argmax())}
    if data.is_text:
        found["bag_of_words"] = bag_of_words(train.inputs, train.labels, test.inputs)
        if set(data.classes) == {"negative", "positive"}:
            found["vader"] = vader(test.inputs, data.classes.index("negative"), data.classes.index("positive"))
    else:
        scaled = _scaled(train.inputs, test.inputs)
        if sum(map(len, scaled[0])) * float(sum(map(len, scaled[1]))) < MOST_CELLS:
            distances = dtw_distances(train.inputs, test.inputs)  # of raw values, as in the published tables
            found["dtw"] = train.labels[distances.argmin(axis=1)]
        found["rocket"] = rocket(scaled[0], train.labels, scaled[1])
    return {name: accuracy(classes, test.labels) for name, classes in found.items() if classes is not None}


def _scaled(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Both parts with each channel scaled by the mean and the deviation of the training part."""
    steps = np.concatenate(train).astype(np.float64)  # squares of large values are no float32
    mean, scale = steps.mean(axis=0), steps.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    first, second = ([(one - mean) / scale for one in part] for part in (train, test))
    return first, second


def dtw_distances(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> np.ndarray:
    """The distances by dynamic time warping of every test sequence to every training sequence ``[test, train]``.

    The squared differences of all channels are added up along the best path, without a limit on the warping.
    Source: Sakoe and Chiba (1978), doi:10.1109/TASSP.1978.1163055; Shokoohi-Yekta et al. (2017), doi:10.1007/
    s10618-016-0455-0, call the form for several channels "dependent".

    >>> up, flat = np.array([[0.0], [1.0], [2.0]]), np.zeros((2, 1))
    >>> dtw_distances([up, flat], [np.array([[0.0], [0.0], [1.0], [2.0]])]).tolist()
    [[0.0, 5.0]]
    """
    return np.stack([_dtw_to_all(train, one.astype(np.float64)) for one in test])


def _dtw_to_all(train: Sequence[np.ndarray], one: np.ndarray) -> np.ndarray:
    """The table of each training sequence, one antidiagonal after the other, for all of them at once."""
    lengths = np.array([len(other) for other in train])
    longest, steps = lengths.max(), len(one)
    padded = np.zeros((len(train), longest, one.shape[1]))
    for row, other in enumerate(train):
        padded[row, : len(other)] = other
    # (a - b)^2 as a^2 + b^2 - 2ab, which is a matrix product, rounded to no less than 0
    costs = (padded**2).sum(axis=2)[..., None] + (one**2).sum(axis=1) - 2 * padded @ one.T
    costs = np.maximum(costs, 0)
    total = np.full((len(train), longest + 1, steps + 1), np.inf)
    total[:, 0, 0] = 0
    for diagonal in range(longest + steps - 1):
        i = np.arange(max(0, diagonal - steps + 1), min(diagonal, longest - 1) + 1)
        j = diagonal - i
        before = np.minimum(np.minimum(total[:, i, j], total[:, i, j + 1]), total[:, i + 1, j])
        total[:, i + 1, j + 1] = costs[:, i, j] + before
    return total[np.arange(len(train)), lengths, steps]


def rocket(train: Sequence[np.ndarray], labels: np.ndarray, test: Sequence[np.ndarray]) -> np.ndarray | None:
    """The classes of ROCKET with 10,000 kernels and seed 0; None if aeon cannot be imported.

    It needs equal lengths, so shorter sequences are filled up with zeros, the mean of each channel. Source:
    Dempster, Petitjean and Webb (2020), doi:10.1007/s10618-020-00701-z.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aeon.classification.convolution_based import RocketClassifier  # pyright: ignore[reportMissingImports]
    except ImportError:  # only its data are installed
        return None
    longest = max(map(len, [*train, *test]))

    def stacked(sequences: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.pad(one, ((0, longest - len(one)), (0, 0))).T for one in sequences])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, about their next versions
        classifier = RocketClassifier(random_state=0)
        classifier.fit(stacked(train), labels)
        return classifier.predict(stacked(test))


STRENGTHS = (1.0, 3.0, 10.0)


def bag_of_words(train: Sequence[str], labels: np.ndarray, test: Sequence[str]) -> np.ndarray:
    """Logistic regression on the tf-idf of words and pairs of words.

    Whether pairs are used, and the strength of the penalty, are chosen by three-fold cross-validation.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    words = TfidfVectorizer(token_pattern=WORDS, sublinear_tf=True)
    steps = Pipeline([("words", words), ("regression", LogisticRegression(max_iter=1000))])
    choices = {"words__ngram_range": [(1, 1), (1, 2)], "regression__C": STRENGTHS}
    folds = min(3, np.bincount(labels).min())
    method = steps if folds < 2 else GridSearchCV(steps, choices, cv=int(folds))
    with warnings.catch_warnings():
        # With many classes scikit-learn asks whether the labels are numbers to be regressed.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return method.fit(train, labels).predict(test)


def vader(texts: Sequence[str], negative: int, positive: int) -> np.ndarray | None:
    """The classes by VADER's compound score, positive above 0; None if vaderSentiment is not installed.

    Source: Hutto and Gilbert (2014), doi:10.1609/icwsm.v8i1.14550.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    score = SentimentIntensityAnalyzer().polarity_scores
    return np.array([positive if score(text)["compound"] > 0 else negative for text in texts])
