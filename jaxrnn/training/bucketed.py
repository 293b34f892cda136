"""Epochs over sequences of many lengths, and a model's outputs for them, with one program per bucket."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from jaxrnn.data.buckets import Buckets, PaddedBatch
from jaxrnn.ops.native.elementwise import one_device
from jaxrnn.training.apply import Apply, Sequences, check_apply
from jaxrnn.training.compilation import compile_together
from jaxrnn.training.state import Batch, StepMetrics, TrainState
from jaxrnn.training.step import Gradient, Loss, gradient_of, take_step
from jaxrnn.training.stepped import SteppedEpoch, begin, count, finish

Augment = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
"""``(rng, sequence, longest) -> sequence``: a changed copy of a sequence, with at most ``longest`` steps."""


def make_bucketed_epoch(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    buckets: Buckets,
    targets: np.ndarray,
    *,
    augment: Augment | None = None,
    shuffle: bool = True,
    average_decay: float = 0.99,
    skip_non_finite: bool = True,
) -> SteppedEpoch:
    """Make an epoch over sequences of many lengths: a step on every padded batch of the buckets.

    One program is compiled for the gradient at every length of ``buckets``, and one for the optimiser's step.
    Epochs with the same ``apply``, ``optimizer``, ``loss`` and shapes share them. What is random (the order, the
    augmentation and the dropout masks) depends only on the key of the train state, the epoch and the batch, so an
    interrupted run continues exactly.

    Args:
      apply: of :func:`jaxrnn.training.pure_apply`; it is called with :class:`Sequences`.
      optimizer, loss, average_decay, skip_non_finite: as in :func:`jaxrnn.training.train_step`.
      buckets: the sequences, of :func:`jaxrnn.data.bucket_by_length`.
      targets: ``[sequences, ...]``, one for each sequence, such as the number of its class.
      augment: changes a sequence each time that it is used: ``augment(rng, sequence, longest)`` returns an array
        of the same dtype with at least one and at most ``longest`` steps.
      shuffle: take the sequences of each bucket, and the batches, in a new random order each epoch.

    Returns:
      A function from a train state, which is donated, to the next one and the mean metrics.

    Raises:
      ValueError: a sequence is empty, or targets do not fit the sequences; when it runs, what ``augment`` returns
        does not fit.

    >>> import jaxrnn
    >>> from flax import nnx
    >>> from jaxrnn import data, training
    >>> rng, labels = np.random.default_rng(0), np.arange(40) % 2
    >>> sequences = [np.float32(rng.normal(size=(n, 1)) + k) for n, k in zip(rng.integers(4, 30, 40), labels)]
    >>> make = lambda: jaxrnn.SequenceClassifier(1, 8, num_classes=2, pooling="mean", rngs=nnx.Rngs(0))
    >>> apply, params = training.pure_apply(make)
    >>> optimizer = training.make_optimizer("adam", 1e-2)
    >>> buckets = data.bucket_by_length(sequences, batch_size=8, num_buckets=2)
    >>> epoch = make_bucketed_epoch(apply, optimizer, training.cross_entropy(), buckets, labels)
    >>> run = training.Run.create(training.TrainState.create(params, optimizer))
    >>> run = training.fit(run, epoch, epochs=10)
    >>> logits = training.bucketed_outputs(apply, run.best_params, buckets)
    >>> logits.shape, training.accuracy(logits.argmax(axis=1), labels) > 0.8
    ((40, 2), True)
    """
    check_apply(apply)
    targets = np.asarray(targets)
    if len(targets) != len(buckets.sequences):
        raise ValueError(f"there are {len(buckets.sequences)} sequences, but {len(targets)} targets")
    if targets.dtype.kind in "OUS":
        raise ValueError(f"targets must be numbers, such as those of classes, not {targets.dtype}")
    empty = [number for number, sequence in enumerate(buckets.sequences) if not len(sequence)]
    if empty:
        raise ValueError(f"sequences {empty[:5]} have no steps, so there is nothing to learn from: leave them out")
    steps = np.int32(buckets.num_batches)

    def training_batch(padded: PaddedBatch) -> Batch:
        arrays: Any = (padded.inputs, padded.seq_lengths)
        inputs: Any = Sequences(*arrays)
        # Rows that only fill up the batch repeat a target of the same batch, with weight zero.
        real = padded.rows >= 0
        rows: Any = (targets[np.where(real, padded.rows, padded.rows.max())], real.astype(np.float32))
        return Batch(inputs, *rows)

    def batches(words: list[int], first: int, stop: int) -> Iterator[Batch]:
        order = np.random.default_rng(words) if shuffle else None
        for number, padded in enumerate(islice(buckets.batches(order), first, stop), start=first):
            if augment is not None:
                padded = _augmented(augment, np.random.default_rng([*words, number]), padded)
            yield training_batch(padded)

    ready = False

    def program(state: TrainState, stop: int, fresh: bool = True) -> tuple[TrainState, StepMetrics]:
        nonlocal ready
        words = [*np.asarray(jax.random.key_data(state.key)).ravel().tolist(), int(state.epoch)]
        # A step takes less time with a list of arrays than with the tree of a model.
        leaves, treedef = jax.tree.flatten(state)
        gradient, step = _train_programs(apply, optimizer, loss, average_decay, skip_non_finite, treedef)
        if not ready:
            calls = [(leaves, training_batch(one)) for one in buckets.one_of_each_length()]
            found = jax.eval_shape(gradient, *calls[0])
            compile_together([(step.lower, (leaves, *found, steps)), *((gradient.lower, call) for call in calls)])
            ready = True
        metrics = None
        for batch in batches(words, int(state.position), stop):
            leaves, metrics = step(leaves, *gradient(leaves, batch), steps)
        assert metrics is not None
        return jax.tree.unflatten(treedef, leaves), metrics

    def known() -> dict[str, Any]:
        steps_of_each = np.array([len(sequence) for sequence in buckets.sequences])
        values = np.concatenate([np.ravel(sequence) for sequence in buckets.sequences])
        return {"the lengths of the sequences": steps_of_each, "the sequences": values, "targets": targets}

    def make(mesh: Mesh | None) -> SteppedEpoch:
        if mesh is not None:
            raise ValueError("an epoch over buckets runs on one device: leave mesh out")
        return SteppedEpoch(int(steps), program, None, make, known)

    return make(None)


@lru_cache(maxsize=16)
def _train_programs(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    average_decay: float,
    skip_non_finite: bool,
    treedef: Any,
) -> tuple[Any, Any]:
    """The two halves of a step as compiled functions. Several trainings of the same model share them.

    Only the gradient depends on the length of a batch. So the optimiser's step, which takes longer to compile, is
    compiled once.
    """

    @jax.jit
    def gradient(leaves: list[Array], batch: Batch) -> tuple[Gradient, Array]:
        state: TrainState = jax.tree.unflatten(treedef, leaves)
        inputs: Any = batch.inputs
        batch = batch._replace(inputs=inputs._replace(key=jax.random.fold_in(state.key, state.step)))
        found = gradient_of(apply, loss, state, batch)
        return found._replace(grads=jax.tree.leaves(found.grads)), batch.weights.sum()

    @partial(jax.jit, donate_argnums=0)
    def step(leaves: list[Array], found: Gradient, weight: Array, steps: Any) -> tuple[list[Array], StepMetrics]:
        state = begin(jax.tree.unflatten(treedef, leaves))
        found = found._replace(grads=jax.tree.unflatten(jax.tree.structure(state.params), found.grads))
        options: Any = {"average_decay": average_decay, "skip_non_finite": skip_non_finite}
        with one_device(True):
            state, metrics = take_step(optimizer, state, found, **options)
        state, metrics = finish(count(state, metrics, weight), steps)
        return jax.tree.leaves(state), metrics

    return gradient, step


def _augmented(augment: Augment, rng: np.random.Generator, batch: PaddedBatch) -> PaddedBatch:
    longest = batch.inputs.shape[1]
    inputs, seq_lengths = np.zeros_like(batch.inputs), batch.seq_lengths.copy()
    for row in np.flatnonzero(batch.rows >= 0):
        sequence = augment(rng, batch.inputs[row, : seq_lengths[row]], longest)
        if not 1 <= len(sequence) <= longest or sequence.shape[1:] != inputs.shape[2:]:
            raise ValueError(
                f"augment must return 1 to {longest} steps of the shape {inputs.shape[2:]}, not {sequence.shape}"
            )
        inputs[row, : len(sequence)], seq_lengths[row] = sequence, len(sequence)
    return PaddedBatch(inputs, seq_lengths, batch.rows)


def bucketed_outputs(apply: Apply, params: Any, buckets: Buckets) -> np.ndarray:
    """A model's outputs for every sequence, ``[sequences, ...]`` in their order; nothing is dropped.

    :func:`make_bucketed_epoch` has an example.

    Args:
      apply: of :func:`jaxrnn.training.pure_apply`; it is called with :class:`Sequences`.
      params: the model's parameters.
      buckets: the sequences. Sets of sequences in buckets of the same lengths share their programs, see
        :meth:`jaxrnn.data.Buckets.of`.

    Raises:
      ValueError: there are no sequences.
    """
    check_apply(apply)
    forward, ready = _forward_program(apply)

    def inputs_of(batch: PaddedBatch) -> Sequences:
        arrays: Any = (batch.inputs, batch.seq_lengths)
        return Sequences(*arrays)

    if not len(buckets.sequences):
        raise ValueError("there are no sequences, so there are no outputs")
    shapes = (buckets.lengths, buckets.batch_size)
    if shapes not in ready:
        compile_together([(forward.lower, (params, inputs_of(one))) for one in buckets.one_of_each_length()])
        ready.add(shapes)
    found: list[Any] = [None] * len(buckets.sequences)
    for batch in buckets.batches():
        outputs = np.asarray(forward(params, inputs_of(batch)))
        for row in np.flatnonzero(batch.rows >= 0):
            found[batch.rows[row]] = outputs[row]
    return np.stack(found)


@lru_cache(maxsize=16)
def _forward_program(apply: Apply) -> tuple[Any, set[Any]]:
    """The function, and the shapes of the buckets that it has been compiled for."""
    return jax.jit(lambda params, inputs: apply(params, inputs, None)[1]), set()  # pyright: ignore[reportArgumentType]
