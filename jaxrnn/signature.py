"""Signatures of classes for ``help`` and editors, where Flax's metaclass would show ``*args, **kwargs``."""

import inspect
from typing import Any


class InitSignature:
    """As a class's ``__signature__``: that of its ``__init__``, or of its subclass's.

    >>> class Layer:
    ...     __signature__ = InitSignature()
    ...     def __init__(self, in_features, *, rngs): ...
    >>> inspect.signature(Layer)
    <Signature (in_features, *, rngs)>
    """

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("an instance has the signature of its __call__")
        signature = inspect.signature(owner.__init__)
        return signature.replace(parameters=self.parameters(owner, [*signature.parameters.values()][1:]))

    def parameters(self, owner: type, own: list[inspect.Parameter]) -> list[inspect.Parameter]:
        """What to show, given the parameters of ``__init__``; for subclasses."""
        return own
