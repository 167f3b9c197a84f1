"""Errors survive the way from another process: pickled and back, nothing is lost."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import sptar.errors
from sptar.errors import DataError, MissingExtraError, SptarError

KINDS = [
    getattr(sptar.errors, name)
    for name in sptar.errors.__all__
    if issubclass(getattr(sptar.errors, name), SptarError)
]


def _examples(kind: type[SptarError]) -> list[SptarError]:
    if kind is MissingExtraError:
        return [MissingExtraError("pyarrow", "parquet", "A Parquet file")]
    made = [kind("It is wrong."), kind("It is wrong.", hint="Do better.")]
    if kind is DataError:
        made.append(DataError("is wrong.", path="a/b.tsv", line=7, hint="Mend it."))
    return made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_from_another_process_as_it_was(kind: type[SptarError]) -> None:
    for error in _examples(kind):
        others = [copy.copy(error)]
        others += [pickle.loads(pickle.dumps(error, number)) for number in range(2, 6)]
        for other in others:
            assert type(other) is kind
            assert str(other) == str(error)
            assert (other.message, other.hint) == (error.message, error.hint)
            assert vars(other) == vars(error)


def test_what_a_pickled_error_says_is_the_sentence_itself() -> None:
    missing = pickle.loads(pickle.dumps(MissingExtraError("ray", "ray", "The executor 'ray'")))
    assert str(missing) == (
        "The executor 'ray' needs the package 'ray', which is not installed. "
        'Type: pip install "sptar[ray]"'
    )
    broken = pickle.loads(pickle.dumps(DataError("no number.", path="q.tsv", line=3)))
    assert (str(broken), broken.path, broken.line) == ("q.tsv:3: no number.", Path("q.tsv"), 3)
