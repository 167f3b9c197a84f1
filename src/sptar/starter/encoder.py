"""The toy encoder: BERT-shaped, trained to guess masked words and never for retrieval."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sptar.starter.collection import load_toy_collection
from sptar.starter.saving import whole_folder
from sptar.starter.training import train

__all__ = ["train_toy_encoder"]

_CONTEXT_TOKENS = 512
_VOCABULARY = 2048
_WINDOW = 64
_MASKED_SHARE = 0.15


def _tokenizer(texts: Sequence[str]) -> Any:
    # Not BERT's WordPiece: its trainer breaks ties by chance, BPE's does not.
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
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
        model_max_length=_CONTEXT_TOKENS,
    )


def train_toy_encoder(
    folder: str | Path, *, seed: int = 0, steps: int = 80, batch_size: int = 16
) -> Path:
    """Train a BERT-shaped encoder on the toy documents by guessing masked words; returns it.

    It has never seen a query, so it is a start "not trained for retrieval".
    ``SentenceTransformer(folder)`` loads it with mean pooling.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    texts = [document.full_text for document in load_toy_collection().documents]
    tokenizer = _tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_CONTEXT_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForMaskedLM(config)
        encoder = BertModel(config)
    documents = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    order = random.Random(seed)
    length = _WINDOW - 2

    def loss_of_step(done: float) -> Any:
        rows, targets = [], []
        for document in order.choices(documents, k=batch_size):
            start = order.randint(0, max(0, len(document) - length))
            words = document[start : start + length]
            masked = [order.random() < _MASKED_SHARE for _ in words]
            masked[order.randrange(len(words))] = True
            hidden = [
                tokenizer.mask_token_id if hide else word
                for word, hide in zip(words, masked, strict=True)
            ]
            target = [word if hide else -100 for word, hide in zip(words, masked, strict=True)]
            padding = length - len(words)
            rows.append(
                [
                    tokenizer.cls_token_id,
                    *hidden,
                    tokenizer.sep_token_id,
                    *[tokenizer.pad_token_id] * padding,
                ]
            )
            targets.append([-100, *target, -100, *[-100] * padding])
        ids = torch.tensor(rows)
        attention = (ids != tokenizer.pad_token_id).long()
        return model(input_ids=ids, attention_mask=attention, labels=torch.tensor(targets)).loss

    train("toy encoder", model, steps, 2e-3, loss_of_step)
    # The masked-word model has no pooler; with one in the folder, loading never invents it.
    encoder.load_state_dict(model.bert.state_dict(), strict=False)
    folder = Path(folder)
    with whole_folder(folder) as unfinished:
        encoder.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return folder
