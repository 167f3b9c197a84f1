"""The toy language model: LLaMA-shaped, trained to answer a document with its opening words.

So small a model can learn that one skill in so short a time, and it fits documents that the model
has not read. It is no language model to judge anything by.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sptar.starter.collection import ToyCollection, load_toy_collection
from sptar.starter.saving import whole_folder
from sptar.starter.training import train
from sptar.types import Pair, Query

__all__ = ["train_toy_language_model"]

_CONTEXT_TOKENS = 512
_VOCABULARY = 2048
_END = "</s>"
_IGNORED = -100
"""Target of a token that is read and not asked for."""

Row = tuple[list[int], list[int]]
"""Token ids, and the targets at the same places."""


def _title_pairs(collection: ToyCollection) -> tuple[Pair, ...]:
    """The title as a query, for documents that no dev or test query asks for."""
    held_out = {
        doc_id
        for split in ("dev", "test")
        for judged in collection.qrels[split].values()
        for doc_id in judged
    }
    return tuple(
        Pair(Query(f"title-{document.doc_id}", document.title), document)
        for document in collection.documents
        if document.doc_id not in held_out
    )


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # A newline never melts into its neighbours, so that one token ends a query.
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<pad>", _END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=_END,
        clean_up_tokenization_spaces=False,
        model_max_length=_CONTEXT_TOKENS,
    )


class _Rows:
    """Makes rows of the template ``Document: … \\n Relevant Query: … \\n``; queries are targets."""

    def __init__(self, collection: ToyCollection, encode: Callable[[str], list[int]]) -> None:
        self._words = [
            [encode(" " + word) for word in document.full_text.split()]
            for document in collection.documents
        ]
        self._document_mark = encode("Document:")
        self._query_mark = encode(" \n Relevant Query:")
        self._end_mark = encode(" \n")
        self._gap = encode(" ")
        self._labelled = self._pairs(collection.pairs("train"), encode)
        self._titled = self._pairs(_title_pairs(collection), encode)

    @staticmethod
    def _pairs(pairs: Sequence[Pair], encode: Callable[[str], list[int]]) -> list[Row]:
        return [(encode(" " + p.document.full_text), encode(" " + p.query.text)) for p in pairs]

    def _block(self, document: list[int], query: list[int]) -> Row:
        text = [*self._document_mark, *document, *self._query_mark]
        asked = [*query, *self._end_mark]
        return text + asked, [_IGNORED] * len(text) + asked

    def copying(self, order: random.Random, most_words: int) -> Row:
        """A fragment of a document, and its first three to six words as the query.

        Half of the fragments are shuffled, so that remembering the text does not help.
        """
        document = order.choice(self._words)
        count = order.randint(6, most_words)
        start = order.randrange(max(1, len(document) - count))
        fragment = document[start : start + count]
        if order.random() < 0.5:
            order.shuffle(fragment)
        query = fragment[: order.randint(3, 6)]
        return self._block(_joined(fragment), _joined(query))

    def batch(self, order: random.Random, done: float) -> list[Row]:
        """The rows of one step, when this share of the steps is done: fragments that grow from 8
        to 40 words, and at the end whole prompts."""
        if done > 0.85:
            return [self.prompt(order) for _ in range(8)]
        most_words = int(8 + 40 * done)
        return [self.copying(order, most_words) for _ in range(24 if done < 0.5 else 16)]

    def prompt(self, order: random.Random) -> Row:
        """One or two whole documents with a query each: a title, or now and then a label."""
        ids: list[int] = []
        targets: list[int] = []
        for _ in range(order.randint(1, 2)):
            source = self._labelled if order.random() < 0.2 else self._titled
            more_ids, more_targets = self._block(*order.choice(source))
            if ids:
                ids, targets = ids + self._gap, [*targets, _IGNORED]
            ids, targets = ids + more_ids, targets + more_targets
        return ids, targets


def _joined(words: Sequence[list[int]]) -> list[int]:
    return [token for word in words for token in word]


def _pass_tokens_on(model: Any) -> None:
    """Start the last layer so that a token which it attends to comes out as itself.

    What is left to learn is where to look; without this, learning takes longer.
    """
    import torch

    attention = model.model.layers[-1].self_attn
    width = model.config.hidden_size
    rotation, _ = torch.linalg.qr(torch.randn(width, width))
    with torch.no_grad():
        attention.v_proj.weight.copy_(rotation)
        attention.o_proj.weight.copy_(2 * rotation.T)


def train_toy_language_model(folder: str | Path, *, seed: int = 0, steps: int = 520) -> Path:
    """Train a LLaMA-shaped language model on the toy corpus; returns its folder.

    First it reads fragments and repeats their opening words, then whole prompts: the pairs of the
    train split, and titles as queries of documents that no dev or test query asks for. It never
    sees a dev or test query.

    The budget counts steps and not seconds, so that equal arguments give equal weights (on the
    same machine and number of threads). Written with ``save_pretrained`` as safetensors,
    tokenizer included: a byte-level BPE whose newline is always a token of its own, without BOS.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    collection = load_toy_collection()
    texts = [document.full_text for document in collection.documents]
    queries = [pair.query.text for pair in collection.pairs("train")]
    tokenizer = _tokenizer([*texts, *queries, "Document: the \n Relevant Query: what \n "])
    rows = _Rows(collection, lambda text: list(tokenizer(text)["input_ids"]))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=_CONTEXT_TOKENS,
        tie_word_embeddings=True,
        # Wider than usual (1/sqrt(hidden_size)): copying is then learned in far fewer steps.
        initializer_range=0.09,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _pass_tokens_on(model)
    order = random.Random(seed)

    def loss_of_step(done: float) -> Any:
        batch = rows.batch(order, done)
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])
        targets = torch.tensor([row + [_IGNORED] * (width - len(row)) for _, row in batch])[:, 1:]
        # Right padding: under causal attention no real token sees it.
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        wanted = targets != _IGNORED
        return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), targets[wanted])

    train("toy language model", model, steps, 3e-3, loss_of_step)
    folder = Path(folder)
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return folder
