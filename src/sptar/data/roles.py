"""The Split artefact: the label ledger and the documents to augment, saved and loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sptar.errors import WorkspaceError
from sptar.io import atomic_path, read_json, write_json

__all__ = ["LabelsUsed", "LedgerRow", "Provenance", "Role", "RoleLabels", "Split"]

Role: TypeAlias = Literal["train", "evaluation", "dev", "test"]

_RECORD, _POSITIONS = "split.json", "augment.npy"


@dataclass(frozen=True)
class LedgerRow:
    """One labelled query and its only role."""

    query_id: str
    role: Role


@dataclass(frozen=True)
class RoleLabels:
    """Labels of one role: queries, and positive pairs of those queries."""

    role: Role
    queries: int
    positive_pairs: int


@dataclass(frozen=True)
class LabelsUsed:
    """What a run saw of the labels before its test."""

    roles: tuple[RoleLabels, ...]

    @property
    def queries(self) -> int:
        """Labelled queries of all roles before test."""
        return sum(role.queries for role in self.roles)

    @property
    def positive_pairs(self) -> int:
        """Positive pairs of those queries."""
        return sum(role.positive_pairs for role in self.roles)


@dataclass(frozen=True)
class Provenance:
    """Where the split came from, in counts.

    ``candidates`` could play S_train or S_eval; ``without_positive`` (no positive document, or no
    text), ``same_text_as_test``, ``repeated_text`` (the text of another candidate) and
    ``also_in_test`` could not. ``left_out`` are the candidates of a dealt-out split that have no
    role. ``documents_kept_apart`` are judged for a query that forbids augmenting them.
    """

    seed: int
    candidates: int
    without_positive: int
    test_without_positive: int
    same_text_as_test: int
    repeated_text: int
    also_in_test: int
    left_out: int
    documents: int
    documents_kept_apart: int
    documents_to_augment: int


@dataclass(frozen=True, eq=False)
class Split:
    """Roles of the labelled queries (tuples of ids, sorted) and documents to augment.

    ``train`` is S_train, ``evaluation`` is S_eval. In mode ``few_shot`` the retriever's dev set is
    S_eval: ``dev == evaluation``. ``left_out`` are queries of a dealt-out split without a role:
    rests of groups, a dev share that the mode does not use, and what ``carve_test_queries`` leaves
    over. ``augment`` holds corpus positions, ascending.
    """

    mode: str
    train: tuple[str, ...]
    evaluation: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    left_out: tuple[str, ...]
    augment: npt.NDArray[np.int64]
    labels: tuple[RoleLabels, ...]
    provenance: Provenance

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Split)
            and self._record() == other._record()
            and np.array_equal(self.augment, other.augment)
        )

    def __hash__(self) -> int:
        return hash((self.mode, self.train, self.evaluation, self.dev, self.test))

    @property
    def ledger(self) -> tuple[LedgerRow, ...]:
        """Each labelled query with its role. A dev query that is S_eval stands there once."""
        own_dev = () if self.dev == self.evaluation else self.dev
        roles: tuple[tuple[Role, tuple[str, ...]], ...] = (
            ("train", self.train),
            ("evaluation", self.evaluation),
            ("dev", own_dev),
            ("test", self.test),
        )
        return tuple(LedgerRow(query_id, role) for role, ids in roles for query_id in ids)

    def labels_used(self) -> LabelsUsed:
        """The true number of labels touched before the test, by role."""
        return LabelsUsed(tuple(label for label in self.labels if label.role != "test"))

    @property
    def test_labels(self) -> RoleLabels:
        """The labels that are kept for the end."""
        return next(label for label in self.labels if label.role == "test")

    def _record(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "train": list(self.train),
            "evaluation": list(self.evaluation),
            "dev": list(self.dev),
            "test": list(self.test),
            "left_out": list(self.left_out),
            "labels": [asdict(label) for label in self.labels],
            "provenance": asdict(self.provenance),
        }

    def save(self, folder: str | Path) -> None:
        """Write ``augment.npy`` and then ``split.json``, each whole or not at all."""
        folder = Path(folder)
        with atomic_path(folder / _POSITIONS) as temporary:
            np.save(temporary, self.augment, allow_pickle=False)
        write_json(folder / _RECORD, self._record())

    @classmethod
    def load(cls, folder: str | Path) -> Split:
        """Read what :meth:`save` wrote.

        Raises:
            WorkspaceError: a file is missing.
        """
        folder = Path(folder)
        try:
            values = read_json(folder / _RECORD)
            augment = np.load(folder / _POSITIONS, allow_pickle=False)
        except FileNotFoundError as error:
            raise WorkspaceError(
                f"The split is not complete: {error.filename} is missing.",
                hint="Make the split again.",
            ) from None
        ids = {
            name: tuple(values[name]) for name in ("train", "evaluation", "dev", "test", "left_out")
        }
        return cls(
            mode=values["mode"],
            **ids,
            augment=augment,
            labels=tuple(RoleLabels(**label) for label in values["labels"]),
            # A record from before this count was kept names the queries all the same.
            provenance=Provenance(**{"left_out": len(ids["left_out"]), **values["provenance"]}),
        )
