"""Load a frozen causal language model by hub name or folder, safely, with sentences for failures.

Policy: safetensors only (a pickle can run code), no code from the model repository unless the
config says so, evaluation mode, no parameter learns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sptar.adapters import refuse_adapter
from sptar.config import LanguageModelConfig
from sptar.errors import ModelError
from sptar.llm.device import choose_device, choose_dtype
from sptar.llm.trial import TRIAL_TOKENS, try_model
from sptar.llm.verdict import Verdict
from sptar.positions import readable_tokens
from sptar.tensors.memory import is_out_of_memory

__all__ = ["LanguageModel", "load_language_model", "weights_hash"]

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_ATTENTION_NAMES = ("index_topk",)
"""How many tokens an attention looks at that chooses among them (DeepSeek 3.2). In longer texts its
choice, as transformers makes it, depends on how many tokens follow."""

_TRIAL_TEXT = (
    "The ferry to the island leaves at seven, and whoever wants to take a bicycle along has to "
    "book two days before; dogs travel free. Which boat takes dogs?"
)
_LARGEST_CONTEXT = 10**8
"""A stated limit above this is a library's way to say that there is none."""


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal language model with what the prompt and the decoder need to know of it.

    Attributes:
        model: a transformers causal LM in evaluation mode whose parameters do not learn.
        tokenizer: its tokenizer; use :meth:`encode` for ids.
        config: where it came from.
        device: where its weights are.
        dtype: number format of its weights.
        context_tokens: positions it can see, virtual tokens included; ``None`` when unlimited.
        hidden_size: width of its input embeddings.
        begin_token_ids: what its tokenizer puts in front of a text by default (BOS). A ``[CLS]``
            of an encoder's tokenizer does not count: it opens a classification, not a text.
        end_token_id: the token that ends a text (EOS, or ``[SEP]``).
        newline_token_id: the single token that decodes to a newline, if there is one.
        stop_token_ids: every token whose text holds a newline, and the end tokens.
        verdict: what a trial found out about it.
        adds_leading_blank: whether the tokenizer puts a blank in front of every text.
    """

    model: Any
    tokenizer: Any
    config: LanguageModelConfig
    device: torch.device
    dtype: torch.dtype
    context_tokens: int | None
    hidden_size: int
    begin_token_ids: tuple[int, ...]
    end_token_id: int
    newline_token_id: int | None
    stop_token_ids: frozenset[int]
    verdict: Verdict
    adds_leading_blank: bool = False

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens.

        Special tokens written out in the text (``</s>`` in a web page) are read as plain text.
        SentencePiece tokenizers that put a blank in front of every text get the piece without its
        own first blank, so that pieces join to the ids of the joined text.
        """
        if self.adds_leading_blank and text.startswith(" "):
            text = text[1:]
        return _encode(self.tokenizer, text)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings ``[..., hidden_size]`` of token ids, as the model itself makes them.

        The embedding *module* is called, not its weight read, so models that scale inside that
        module (Gemma 3) get scaled vectors. Models that scale later (Gemma, Gemma 2) scale
        virtual and real tokens alike. A soft prompt lives in the space of this output.
        """
        vectors: torch.Tensor = self.model.get_input_embeddings()(token_ids.to(self.device))
        return vectors


def _encode(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    ids = tokenizer(
        text,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        split_special_tokens=True,
        verbose=False,
    )["input_ids"]
    return [int(token_id) for token_id in ids]


def _adds_leading_blank(tokenizer: Any) -> bool:
    # "▁" is SentencePiece's blank. A byte-level tokenizer that adds a blank writes "Ġ", but then
    # never doubles one that is there.
    ids = _encode(tokenizer, "a")
    return bool(ids) and str(tokenizer.convert_ids_to_tokens(ids[0])).startswith("▁")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and load reports off the screen: failures become our sentences."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _looks_like_folder(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~", "\\")) or name.count("/") > 1


def _check_folder(name: str) -> str:
    """What to hand to transformers; a folder is looked at before anything is loaded."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"{name} is a file; a model is a folder.")
        if _looks_like_folder(name):
            raise ModelError(f"There is no model folder {name}.", hint="Check `llm.name`.")
        return name
    refuse_adapter(name)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The folder {name} holds no model: there is no config.json in it.",
            hint="Give the folder that save_pretrained wrote.",
        )
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise ModelError(
                f"The model in {name} has only pickled weights, which can run code when loaded; "
                "only safetensors are read.",
                hint="Convert it on a machine where you trust it: "
                "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...).",
            )
        raise ModelError(f"The folder {name} holds no model weights (*.safetensors).")
    return str(folder)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _loading_error(name: str, error: Exception) -> ModelError:
    """One sentence for what transformers raised."""
    text = str(error)
    if "Unrecognized configuration class" in text:
        return ModelError(
            f"{name} is not a causal language model.",
            hint="Give a decoder-only model, for example a LLaMA, Qwen or GPT-2.",
        )
    if "trust_remote_code" in text:
        return ModelError(
            f"{name} comes with its own Python code, which is not run unasked.",
            hint="If you trust it, set `trust_remote_code: true`.",
        )
    if "couldn't connect" in text or "offline mode" in text.lower():
        return ModelError(
            f"The hub cannot be reached, and {name} is not in the local cache.",
            hint="Check the connection and HF_HUB_OFFLINE, or give the folder of a local copy.",
        )
    if "gated" in text or "is not a valid model identifier" in text or "401" in text:
        return ModelError(
            f"The hub gives out no model {name}: the name is wrong, or access must be asked for.",
            hint="Look the name up on huggingface.co; for gated models type: hf auth login",
        )
    if "safetensors" in text and ("no file named" in text or "does not appear" in text):
        return ModelError(
            f"{name} has no safetensors weights; pickled weights can run code and are not read.",
            hint="Choose a revision with safetensors, or convert the model.",
        )
    return ModelError(f"The model {name} cannot be loaded: {_first_line(error)}")


def _load_tokenizer(source: str, config: LanguageModelConfig) -> Any:
    from transformers import AutoTokenizer

    failure = f"{config.name} has no tokenizer that can be loaded"
    hint = "Save one beside the model: tokenizer.save_pretrained(FOLDER)."
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:
        raise ModelError(f"{failure}: {_first_line(error)}", hint=hint) from error
    # Without its files transformers builds some tokenizers with an empty vocabulary.
    if not _encode(tokenizer, "a document"):
        raise ModelError(f"{failure}: its vocabulary is empty.", hint=hint)
    return tokenizer


def _load_model(source: str, config: LanguageModelConfig, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            revision=config.revision,
            dtype=dtype,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _loading_error(config.name, error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{config.name} is not a complete causal language model: {len(missing)} of its weights "
            f"are missing, {missing[0]} among them.",
            hint="An encoder (BERT, MiniLM) cannot write queries; give a causal LM.",
        )
    return model


def _end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ends of a text, the tokenizer's own first."""
    found: list[int] = []
    for value in (
        tokenizer.eos_token_id,
        tokenizer.sep_token_id,
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
    ):
        for token_id in value if isinstance(value, Sequence) else [value]:
            if token_id is not None and int(token_id) >= 0 and int(token_id) not in found:
                found.append(int(token_id))
    return found


def _begin_token_ids(tokenizer: Any) -> tuple[int, ...]:
    plain = _encode(tokenizer, "a")
    dressed = [int(token_id) for token_id in tokenizer("a")["input_ids"]]
    for start in range(len(dressed) - len(plain) + 1):
        if dressed[start : start + len(plain)] == plain:
            begin = dressed[:start]
            classifies = tokenizer.cls_token_id in begin and tokenizer.bos_token_id not in begin
            return () if classifies else tuple(begin)
    return ()


def _plain_added(tokenizer: Any) -> list[int]:
    """Words that were added to the vocabulary and can stand in a text, unlike a pad token."""
    special = set(tokenizer.all_special_ids)
    return [
        int(token_id)
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if not token.special and token_id not in special
    ]


def _newline_tokens(tokenizer: Any) -> tuple[int | None, frozenset[int]]:
    """The token that is a newline, and all tokens whose text holds one."""
    texts = tokenizer.batch_decode(
        [[token_id] for token_id in range(len(tokenizer))], clean_up_tokenization_spaces=False
    )
    holding = frozenset(token_id for token_id, text in enumerate(texts) if "\n" in text)
    usual = _encode(tokenizer, "\n")
    if usual and texts[usual[-1]] == "\n":
        return usual[-1], holding
    exact = sorted(token_id for token_id in holding if texts[token_id] == "\n")
    return (exact[0] if exact else None), holding


def _stated_context(model: Any, tokenizer: Any) -> int | None:
    """The smaller of the model's positions and the length that its tokenizer states."""
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in (*_CONTEXT_NAMES, *_ATTENTION_NAMES)]
    limits.append(getattr(tokenizer, "model_max_length", None))
    known = [int(limit) for limit in limits if limit and 0 < limit < _LARGEST_CONTEXT]
    return min(known, default=None)


def _context_tokens(model: Any, stated: int | None, token_id: int) -> int | None:
    """What is stated, or what the model's table of positions holds if that is less."""

    def read(tokens: int) -> None:
        ids = torch.full((1, tokens), token_id, device=model.device)
        model(input_ids=ids, use_cache=False)

    found = [stated, readable_tokens(read, stated)]
    return min((tokens for tokens in found if tokens is not None), default=None)


def _trial_ids(tokenizer: Any) -> list[int]:
    """Ids of ordinary text, as many as a trial wants."""
    special = set(tokenizer.all_special_ids)
    ids = [token_id for token_id in _encode(tokenizer, _TRIAL_TEXT) if token_id not in special]
    return (ids * TRIAL_TOKENS)[:TRIAL_TOKENS]


def load_language_model(config: LanguageModelConfig) -> LanguageModel:
    """Load and freeze a causal language model.

    Raises:
        ModelError: the folder is missing or no model, the hub cannot be reached, there is no
            tokenizer, the weights are pickled or damaged, the model is not causal, or device or
            number format do not exist here.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    source = _check_folder(config.name)
    with _quiet():
        refuse_adapter(source, config.revision)
        model = _load_model(source, config, dtype)
        tokenizer = _load_tokenizer(source, config)
    try:
        model.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{config.name} does not fit on {device}.",
            hint="Set `dtype: bfloat16`, or take a smaller model.",
        ) from None
    model.eval()
    model.requires_grad_(False)
    vocabulary, hidden_size = model.get_input_embeddings().weight.shape
    letters = _encode(tokenizer, "a b")
    newline, holding = _newline_tokens(tokenizer)
    begin, ends = _begin_token_ids(tokenizer), _end_token_ids(model, tokenizer)
    if max([*letters, *holding, *begin, *ends[:1], *_plain_added(tokenizer)]) >= vocabulary:
        raise ModelError(
            f"The tokenizer of {config.name} knows {len(tokenizer)} tokens, and its model only "
            f"{vocabulary}: they do not belong together, or the model was not resized.",
            hint="Type in Python: model.resize_token_embeddings(len(tokenizer)), and save both.",
        )
    with _quiet():
        stated = _stated_context(model, tokenizer)
        verdict = try_model(model, config.name, _trial_ids(tokenizer), stated)
        context_tokens = _context_tokens(model, stated, letters[0])
    if not ends and newline is None:
        raise ModelError(f"{config.name} has no token that ends a text, nor one for a newline.")
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        config=config,
        device=device,
        dtype=dtype,
        context_tokens=context_tokens,
        hidden_size=int(hidden_size),
        begin_token_ids=begin,
        end_token_id=ends[0] if ends else int(newline or 0),
        newline_token_id=newline,
        stop_token_ids=holding | frozenset(ends),
        verdict=verdict,
        adds_leading_blank=_adds_leading_blank(tokenizer),
    )


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, formats, shapes and bytes of all weights: equal only when nothing moved.

    Takes about a second for each 500 MB.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
