"""Tiny real models and texts for the tests: random weights, trained tokenizers, no downloads.

Every language model has two layers of width 32, a context of 256 tokens and weights wide enough
that different documents lead to different greedy answers. They know nothing; they are only exact.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sptar.types import Document, Pair, Query

__all__ = [
    "CONTEXT_TOKENS",
    "DOCUMENTS",
    "LANGUAGE_MODEL_SHAPES",
    "PAIRS",
    "QUERIES",
    "causal_lm",
    "encoder",
]

LANGUAGE_MODEL_SHAPES = ("llama", "gpt2", "qwen", "bert")
CONTEXT_TOKENS = 256
WIDTH = 32

DOCUMENTS = (
    Document("d01", "Bees tell each other where flowers grow by dancing on the comb."),
    Document(
        "d02",
        "A sourdough starter is a mix of flour and water in which wild yeast lives. Feed it once a "
        "day with fresh flour, and pour away half of it before, or it grows without end.",
        "Keeping a starter",
    ),
    Document("d03", "Frost heaves stones up through a field."),
    Document(
        "d04",
        "The ferry to the island leaves at seven in the morning and at four in the afternoon. "
        "Bicycles travel free, dogs need a ticket, and cars must be booked a day ahead because "
        "the deck has room for nine of them only. In winter the second ferry does not run.",
        "Timetable",
    ),
    Document("d05", "Glass is made of sand, soda and lime, melted at 1,500 degrees."),
    Document(
        "d06",
        "A sundial shows solar time. Clocks show the mean time of a zone, so a sundial is up to "
        "a quarter of an hour fast or slow during the year, besides the shift that comes from "
        "its place within the zone.",
    ),
    Document("d07", "Cork oaks are peeled every nine years; the tree is not felled."),
    Document(
        "d08",
        "To bleed a radiator, turn the heating off, hold a cloth under the valve and open it "
        "half a turn with the key. When the hissing stops and water comes, close it again.",
        "Radiators",
    ),
    Document("d09", "Moss has no roots. It drinks through its leaves."),
    Document(
        "d10",
        "The library lends books for four weeks. A loan can be renewed twice unless somebody "
        "else waits for the book. Whoever returns late pays twenty cents a day.",
        "Loans",
    ),
    Document("d11", "Chalk cliffs are the shells of creatures too small to see."),
    Document(
        "d12",
        "Violins are tuned in fifths: G, D, A and E. Turn the peg a little and push it in while "
        "turning, or it slips back; the small screws at the tailpiece are for the last cents.",
    ),
)

QUERIES = (
    Query("q01", "how do bees share the place of flowers"),
    Query("q02", "what do you feed a sourdough starter"),
    Query("q03", "why do stones rise in fields"),
    Query("q04", "do dogs need a ticket on the ferry?"),
    Query("q05", "what is glass made of"),
    Query("q06", "why is a sundial fast or slow during the year"),
    Query("q07", "how often are cork oaks peeled"),
    Query("q08", "bleed radiator"),
)

PAIRS = tuple(Pair(query, document) for query, document in zip(QUERIES, DOCUMENTS, strict=False))

_TRAINING_TEXT = (
    *(document.full_text for document in DOCUMENTS),
    *(query.text for query in QUERIES),
    "Document: the document \n Relevant Query: the relevant query \n ",
    "please generate query for this document",
    "Where is the key of the boat? Under the third stone, near the old wall by the river.",
    "Rain falls on the hill and the water runs down to the town, where the mill turns slowly.",
    "She reads the letter twice, folds it and puts it back into the drawer without a word.",
    "When does the market open, and who sells the bread with the dark crust and the seeds?",
)


def _byte_level_tokenizer(vocabulary: int, *, begin: str | None, end: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [end] if begin is None else [begin, end]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    if begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin} $B",
            special_tokens=[(begin, tokenizer.token_to_id(begin))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
    )


def _word_pieces(words: list[str], count: int) -> list[str]:
    """All letters, whole words, and of their beginnings and endings those that spare most letters.

    The library's own trainer breaks ties differently from run to run.
    """
    letters = sorted({letter for word in words for letter in word})
    inner = sorted({letter for word in words for letter in word[1:]})
    spared: Counter[str] = Counter()
    for word in words:
        spared[word] += 1000
        for place in range(1, len(word)):
            spared[word[: place + 1]] += place
            spared[f"##{word[place:]}"] += len(word) - place - 1
    single = [*letters, *(f"##{letter}" for letter in inner)]
    rest = sorted(
        (piece for piece in spared if piece not in single),
        key=lambda piece: (-spared[piece], piece),
    )
    return [*single, *rest][:count]


def _word_piece_tokenizer(vocabulary: int, *, newline: bool) -> Any:
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from transformers import BertTokenizer

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = [
        word
        for text in _TRAINING_TEXT
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    ]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *_word_pieces(words, vocabulary - int(newline) - len(special))]
    known = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    if newline:
        tokenizer.add_tokens([AddedToken("\n", normalized=False, special=False)])
    return BertTokenizer(tokenizer_object=tokenizer, model_max_length=CONTEXT_TOKENS)


def _model(shape: str, tokenizer: Any, width: int, spread: float) -> Any:
    import transformers

    common = {"vocab_size": len(tokenizer), "initializer_range": spread, "bos_token_id": None}
    common |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    decoder = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_TOKENS,
    }
    if shape == "llama":
        config = transformers.LlamaConfig(
            **common | decoder | {"bos_token_id": tokenizer.bos_token_id},
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
        return transformers.LlamaForCausalLM(config)
    if shape == "qwen":
        config = transformers.Qwen3Config(
            **common | decoder, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True
        )
        return transformers.Qwen3ForCausalLM(config)
    if shape == "gpt2":
        config = transformers.GPT2Config(
            **common, n_embd=width, n_layer=2, n_head=4, n_positions=CONTEXT_TOKENS
        )
        return transformers.GPT2LMHeadModel(config)
    if shape == "bert":
        end = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = transformers.BertConfig(**common | decoder | end, is_decoder=True)
        return transformers.BertLMHeadModel(config)
    raise ValueError(f"no shape {shape!r}; there are {LANGUAGE_MODEL_SHAPES}")


def causal_lm(
    shape: str,
    folder: Path,
    *,
    seed: int = 0,
    vocabulary: int = 512,
    width: int = WIDTH,
    spread: float = 0.2,
) -> Path:
    """Save a tiny causal language model of this shape with its tokenizer; returns the folder.

    ``llama`` puts a BOS token in front by default, ``gpt2`` and ``qwen`` have neither BOS nor
    pad token, ``bert`` lower-cases, ends on ``[SEP]`` and has its newline token as last id.
    """
    import torch

    if shape == "bert":
        tokenizer = _word_piece_tokenizer(vocabulary, newline=True)
    elif shape == "llama":
        tokenizer = _byte_level_tokenizer(vocabulary, begin="<s>", end="</s>")
    else:
        tokenizer = _byte_level_tokenizer(vocabulary, begin=None, end="<|endoftext|>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(shape, tokenizer, width, spread)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(
    folder: Path,
    *,
    seed: int = 0,
    vocabulary: int = 512,
    width: int = WIDTH,
    spread: float = 0.02,
    dropout: float = 0.1,
) -> Path:
    """Save a tiny BERT encoder that ``SentenceTransformer(folder)`` loads (mean pooling).

    With the default ``spread`` of its weights the states of ``[CLS]`` hardly depend on the text.
    """
    import torch
    import transformers

    tokenizer = _word_piece_tokenizer(vocabulary, newline=False)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=spread,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.BertModel(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
