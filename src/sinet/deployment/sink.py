"""What all places that answers go to have in common; they take them as they come.

Sinks are used with `with`. What they write is there, whole, when the block ends well; after an
error there are only the pictures and answers that are files of their own and were done before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from sinet.deployment.footage import Answer


class Sink(ABC):
    """A place that answers go to."""

    errors = False
    """Whether it has a place for what could not be read; others are not given that."""
    closed = False
    """Whether the user wants no more."""

    def __enter__(self) -> Sink:
        with ExitStack() as stack:  # what was begun is undone where the rest cannot begin
            self.begin(stack)
            stack.push(self._end)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()

    def begin(self, stack: ExitStack) -> None:
        """Open what is needed; what `stack` is given is closed after `finish`."""
        return  # most need nothing

    @abstractmethod
    def add(self, answer: Answer) -> None:
        """Take in the next answer."""

    def finish(self) -> None:
        """After the last answer, if all went well."""
        return  # most have nothing left to do


class Sinks(Sink):
    """Several sinks as one; it counts.

    Args:
        sinks: finished last to first.
    """

    errors = True

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks
        self.count = self.bad = 0

    def begin(self, stack: ExitStack) -> None:
        """Begin all."""
        for sink in self.sinks:
            stack.enter_context(sink)

    def add(self, answer: Answer) -> None:
        """To all that have a place for it."""
        failed = answer.result.error is not None
        self.count += 1
        self.bad += failed
        for sink in self.sinks:
            if sink.errors or not failed:
                sink.add(answer)
        self.closed = any(sink.closed for sink in self.sinks)
