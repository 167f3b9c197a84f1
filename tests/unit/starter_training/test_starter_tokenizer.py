"""The starter's own words: any text comes back in lower case, and newlines stand alone."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def bpe_tokenizer(bpe_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bpe_folder)


def lower(text: str) -> str:
    """Letter by letter: Python's own `lower` looks at what stands around a sigma."""
    return "".join(letter.lower() for letter in unicodedata.normalize("NFC", text))


# Surrogates are no text, and letters that this Python does not know yet may be capitals.
any_text = st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=60)


@settings(max_examples=150, deadline=None)
@given(any_text)
@example("  Two  blanks, a\ttab,\r\n\nand   lines \n")
@example("ΣΊΣΥΦΟΣ İstanbul ẞ e\u0301 𝔄 👩‍🚀 \0")
@example("[MASK] </s> <pad> [CLS]")
def test_any_text_comes_back_in_lower_case(bpe_tokenizer: Any, text: str) -> None:
    ids = bpe_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert bpe_tokenizer.decode(ids, clean_up_tokenization_spaces=False) == lower(text)
    assert not set(ids) & set(bpe_tokenizer.all_special_ids)


@settings(max_examples=50, deadline=None)
@given(any_text)
def test_a_newline_is_a_token_of_its_own(bpe_tokenizer: Any, text: str) -> None:
    (newline,) = bpe_tokenizer("\n")["input_ids"]
    ids = bpe_tokenizer(f"{text}\n{text}", split_special_tokens=True)["input_ids"]
    assert ids.count(newline) == 2 * text.count("\n") + 1
    for token_id in range(len(bpe_tokenizer)):
        assert ("\n" in bpe_tokenizer.decode([token_id])) == (token_id == newline)


def test_what_the_prompt_needs_is_there(bpe_folder: Path, bpe_tokenizer: Any) -> None:
    assert bpe_tokenizer("a text")["input_ids"] == bpe_tokenizer.encode(
        "a text", add_special_tokens=False
    )
    assert "token_type_ids" not in bpe_tokenizer("a text")
    assert None not in (
        bpe_tokenizer.cls_token_id,
        bpe_tokenizer.sep_token_id,
        bpe_tokenizer.mask_token_id,
        bpe_tokenizer.eos_token_id,
        bpe_tokenizer.pad_token_id,
    )
    assert len(bpe_tokenizer) == 400
    assert bpe_tokenizer.model_max_length == 256


def test_the_same_text_gives_the_same_tokenizer(text_folder: Path, bpe_folder: Path) -> None:
    from tokenizer import bpe, texts

    again = bpe(texts(text_folder), 400, 256).backend_tokenizer.to_str()
    from transformers import AutoTokenizer

    assert (
        AutoTokenizer.from_pretrained(bpe_folder).get_vocab()
        == bpe(texts(text_folder), 400, 256).get_vocab()
    )
    assert again == bpe(texts(text_folder), 400, 256).backend_tokenizer.to_str()
