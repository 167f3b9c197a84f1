"""The starter models' own words: a byte-level BPE, lower case.

    python tools/starter/tokenizer.py --text TEXT --out WORK/tokenizer

Lower-casing halves what a small model has to learn, and cannot be undone: a query comes out in
lower case. Any text can be written, for the alphabet is all 256 bytes; a newline is a token of its
own. The same tokenizer serves the encoder, so it knows [CLS], [SEP] and [MASK] as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from command import run_command
from text_rows import passages, questions

from sptar.starter.saving import whole_folder


def bpe(texts: Iterable[str], words: int, context_tokens: int) -> Any:
    """Learn ``words`` tokens from texts; a fast tokenizer of transformers."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<pad>", "</s>", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B", special_tokens=[]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
        model_max_length=context_tokens,
        model_input_names=["input_ids", "attention_mask"],
    )


def texts(folder: Path, limit: int | None = None) -> Iterator[str]:
    """Every passage with its headings, every question with its text, and the prompt's labels."""
    for row in passages(folder, limit):
        yield " ".join([*row["headings"], row["text"]])
    for row in questions(folder, limit):
        yield " ".join(str(row[key]) for key in ("question", "term", "text") if key in row)
    yield from ["Document: the \n Relevant Query: what \n "] * 1000


def main() -> None:
    """Learn a tokenizer from a text folder."""
    parser = argparse.ArgumentParser(description="Learn the starter models' tokenizer.")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=int, default=16_384)
    parser.add_argument("--context-tokens", type=int, default=1024)
    options = parser.parse_args()
    with whole_folder(options.out) as unfinished:
        bpe(texts(options.text), options.words, options.context_tokens).save_pretrained(unfinished)


if __name__ == "__main__":
    run_command(main)
