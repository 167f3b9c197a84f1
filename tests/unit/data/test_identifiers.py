from __future__ import annotations

import random

import pytest

from sptar.data.identifiers import HashIndex, IdRegister, digest64


def test_digest_is_the_same_everywhere() -> None:
    # A figure worked out once: a change would make every index on disk wrong.
    assert digest64("d1") == 2878387810984711164
    assert digest64("d1") != digest64("d1 ")


def test_hash_index_equals_a_dictionary_across_merges() -> None:
    stream = random.Random(3)
    index, truth = HashIndex(), {}
    for value in range(150_000):
        key = stream.randrange(2**64) if value % 3 else stream.randrange(1000)
        assert index.add(key, value) == (key not in truth)
        truth.setdefault(key, value)
    assert len(index) == len(truth)
    for key in [*list(truth)[::97], 2**64 - 1, 0]:
        assert index.get(key) == truth.get(key)


@pytest.mark.parametrize("digest", [digest64, lambda text: 7, lambda text: len(text)])
def test_register_tells_ids_apart_even_when_their_hashes_collide(digest) -> None:
    with IdRegister(digest) as register:
        for line, identifier in enumerate(["a", "ä", "b", "寸法", "aa"], start=10):
            assert identifier not in register
            assert register.add(identifier, line) is None
            assert identifier in register  # reading between two writes must not spoil the file
        assert register.add("b", 99) == 12
        assert register.add("aa", 99) == 14
        assert "c" not in register
        assert len(register) == 5
