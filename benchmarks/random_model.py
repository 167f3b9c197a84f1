"""A language model of random weights that stops as a tuned one does, and texts for it.

The shape of a model decides how long it takes, its weights do not, with one exception: when it
stops. So the bias of the newline's logit is set to where queries have a usual length, and documents
are taken whose queries have ``QUERY_TOKENS`` tokens, smallest and largest. Lengths vary from one
document to the next, and every way of decoding has to find the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig
from sptar.llm.engine.generation import PromptedGenerator
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.llm.trial import try_model
from sptar.types import Document, GenerationRequest, Pair, Query

QUERY_TOKENS = (6, 19)
"""12 on average."""
VIRTUAL_TOKENS = 50
EXAMPLE_TOKENS = 300
DOCUMENT_TOKENS = (110, 190)
MAX_NEW_TOKENS = 128
WORDS = 4000
VOCABULARY = 4096


@dataclass(frozen=True)
class Shape:
    """A LLaMA-shaped model; ``tied`` shares the embeddings with the output layer."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    tied: bool


SHAPES = {
    # 29.5 M parameters, most of them in the layers.
    "30M": Shape(8192, 512, 1376, 8, 8, 8, True),
    # The size of GPT-2.
    "124M": Shape(50257, 768, 2048, 12, 12, 12, True),
    # TinyLlama.
    "1.1B": Shape(32000, 2048, 5632, 22, 32, 4, False),
    # LLaMA 2 7B.
    "7B": Shape(32000, 4096, 11008, 32, 32, 32, False),
}


def random_words(count: int, seed: int) -> list[str]:
    """Different pronounceable words."""
    stream = random.Random(seed)
    syllables = [first + second for first in "bcdfghklmnprstvw" for second in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(stream.choices(syllables, k=stream.randint(1, 4)))] = None
    return list(words)


class Texts:
    """Texts of words whose frequencies fall as those of a language."""

    def __init__(self, seed: int) -> None:
        self._stream = random.Random(seed)
        self._words = random_words(WORDS, seed=1)
        self._weights = [1 / (rank + 3) for rank in range(WORDS)]

    def words(self, count: int) -> str:
        """A text of so many words."""
        return " ".join(self._stream.choices(self._words, self._weights, k=count))

    def of_tokens(self, model: LanguageModel, tokens: int) -> str:
        """A text of about so many tokens."""
        words = self.words(tokens).split()
        lengths = [len(model.encode(" " + word)) for word in words]
        kept = 0
        while kept < len(words) and sum(lengths[: kept + 1]) <= tokens:
            kept += 1
        return " ".join(words[:kept])


def tokenizer() -> object:
    """A byte-level BPE tokenizer trained on such texts, with a begin and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = Texts(seed=2)
    built.train_from_iterator((texts.words(200) for _ in range(300)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def random_language_model(name: str, device: str, dtype: torch.dtype, seed: int) -> LanguageModel:
    """A model of this shape; the same weights for every number format, rounding aside."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[name]
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tied,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32 if device == "cpu" else dtype)
        try:
            model = LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)
    # Wide enough that what is written depends on the document.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[1] ** -0.5)
    model.lm_head.bias = torch.nn.Parameter(
        torch.zeros(shape.vocabulary, device=device), requires_grad=False
    )
    # Ids that the tokenizer does not have are never the likeliest.
    model.lm_head.bias[len(words) :] = -1e4
    model.lm_head.bias[: words.eos_token_id + 1] = -1e4
    model = model.to(dtype)
    newline = words.encode("\n", add_special_tokens=False)[0]
    return LanguageModel(
        model=model,
        tokenizer=words,
        config=LanguageModelConfig(name=name, device=device),
        device=torch.device(device),
        dtype=dtype,
        context_tokens=2048,
        hidden_size=shape.width,
        begin_token_ids=(words.bos_token_id,),
        end_token_id=words.eos_token_id,
        newline_token_id=newline,
        stop_token_ids=frozenset({newline, words.eos_token_id}),
        verdict=try_model(model, name, range(300, 400)),
    )


@dataclass(frozen=True)
class Workload:
    """A model, its prompt and the documents to write queries for."""

    model: LanguageModel
    soft_prompt: SoftPrompt
    template: PromptTemplate
    example: Pair
    documents: tuple[Document, ...]

    def generator(self, batch_size: int, max_new_tokens: int = MAX_NEW_TOKENS) -> PromptedGenerator:
        """The engine of this package, greedy."""
        config = AugmentConfig(
            decoding="greedy", max_new_tokens=max_new_tokens, batch_size=batch_size
        )
        return PromptedGenerator(
            self.model, self.template, self.soft_prompt, [self.example], config, seed=0
        )

    def requests(self) -> list[GenerationRequest]:
        """One request for each document."""
        return [GenerationRequest(document) for document in self.documents]


def workload(shape: str, device: str, dtype: torch.dtype) -> Workload:
    """A model behind a soft prompt and one example, as yet without documents."""
    model = random_language_model(shape, device, dtype, seed=0)
    template = PromptTemplate(
        model, PromptConfig(), virtual_tokens=VIRTUAL_TOKENS, max_new_tokens=MAX_NEW_TOKENS
    )
    texts = Texts(seed=3)
    example = Pair(
        Query("q", texts.words(4)),
        Document("example", texts.of_tokens(model, EXAMPLE_TOKENS - 30)),
    )
    stream = torch.Generator().manual_seed(5)
    spread = float(model.model.get_input_embeddings().weight[:1000].float().std())
    matrix = torch.randn(VIRTUAL_TOKENS, model.hidden_size, generator=stream) * spread
    return Workload(model, SoftPrompt(matrix, shape), template, example, ())


def random_documents(load: Workload, count: int, seed: int) -> list[Document]:
    """Documents of different lengths."""
    texts, stream = Texts(seed), random.Random(seed)
    return [
        Document(f"d{seed}-{number}", texts.of_tokens(load.model, stream.randint(*DOCUMENT_TOKENS)))
        for number in range(count)
    ]


def set_stop_bias(load: Workload, bias: float) -> None:
    """Make the newline likelier."""
    load.model.model.lm_head.bias[load.model.newline_token_id] = bias


def tune_stop_bias(load: Workload, batch_size: int = 48) -> float:
    """Set the bias with which half of the queries have more than the middle length; returns it."""
    middle_length = sum(QUERY_TOKENS) // 2
    trial = replace(load, documents=tuple(random_documents(load, 32, seed=6)))
    low, high = 0.0, 16.0
    for _ in range(7):
        middle = (low + high) / 2
        set_stop_bias(load, middle)
        answers = trial.generator(batch_size, middle_length).generate(trial.requests())
        if sum(not answer.stopped for answer in answers) > len(answers) / 2:
            low = middle
        else:
            high = middle
    set_stop_bias(load, high)
    return high


def with_documents(loads: Sequence[Workload], count: int, batch_size: int = 48) -> list[Workload]:
    """The same workloads for ``count`` documents whose queries have a usual length in each."""
    shortest, longest = QUERY_TOKENS
    found: list[Document] = []
    seed = 10
    while len(found) < count:
        left = random_documents(loads[0], 64, seed)
        for load in loads:
            trial = replace(load, documents=tuple(left))
            answers = trial.generator(batch_size, longest + 1).generate(trial.requests())
            left = [
                document
                for document, answer in zip(left, answers, strict=True)
                if answer.stopped and shortest <= answer.tokens <= longest
            ]
        found += left
        seed += 1
    return [replace(load, documents=tuple(found[:count])) for load in loads]


def floor_tokens(load: Workload, answers: Sequence[int]) -> int:
    """Tokens behind the prefix that a model must read or write for these answers."""
    prompts = (len(load.template.document_ids(document).ids) for document in load.documents)
    return sum(prompts) + sum(answers)
