"""What is wrong with a collection: stop at the first problem, or count them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from sptar.errors import DataError

__all__ = ["Policy", "ProblemCount", "Problems"]

Policy: TypeAlias = Literal["stop", "skip", "collect"]
"""``stop`` raises at the first problem; ``skip`` leaves broken rows out but raises when a whole
file cannot be used; ``collect`` goes on whatever happens."""

_EXAMPLES = 3
_SKIP_HINT = "Or set `data.on_error: skip` to leave such rows out."

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ProblemCount:
    """How often one kind of problem was met; ``examples`` are the first ones, with file:line."""

    reason: str
    count: int
    examples: tuple[str, ...]


class Problems:
    """Takes every problem and does what the policy says."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def report(
        self,
        reason: str,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        hint: str | None = None,
        whole_file: bool = False,
    ) -> None:
        """Count a problem, or raise it.

        Raises:
            DataError: the policy is ``stop``, or ``skip`` and a whole file is unusable.
        """
        if self.policy == "stop" and not whole_file:
            hint = f"{hint} {_SKIP_HINT}" if hint else _SKIP_HINT
        error = DataError(message, path=path, line=line, hint=hint)
        if self.policy == "stop" or (self.policy == "skip" and whole_file):
            raise error
        self._count(reason, str(error))

    def _count(self, reason: str, example: str) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def collect(self, error: DataError) -> None:
        """Count an error that ended the reading of a file, or raise it again."""
        if self.policy != "collect":
            raise error
        self._count("unreadable file", str(error))

    def guard(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """The items; an error that ends them goes through the policy."""
        try:
            yield from items
        except DataError as error:
            self.collect(error)

    def counts(self) -> tuple[ProblemCount, ...]:
        """All kinds of problems, in the order in which they were first met."""
        return tuple(
            ProblemCount(reason, count, tuple(self._examples[reason]))
            for reason, count in self._counts.items()
        )
