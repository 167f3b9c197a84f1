"""Every family of causal language models that the installed transformers can build tiny, tried.

    python benchmarks/model_families.py --out benchmarks/results/model_families.json [FAMILY ...]

Each family gets a tiny model of random weights, is saved, and loaded as a user's model would be.
Then it is compared with the plain model, which reads every prompt whole, alone and without a cache:

- greedy texts with a soft prompt and without (without, ``model.generate`` is asked too),
- losses of given queries, as example selection computes them,
- the tuning loss of a batch and its gradient at the soft prompt.

A family is *right*, or *refused* with a sentence before anything runs, or *wrong*. With ``--out`` a
run that was stopped goes on where it stopped. Exit code 1 if a family is wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from random_model import Texts

from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig
from sptar.errors import ModelError
from sptar.io import write_json
from sptar.llm.engine.generation import PromptedGenerator
from sptar.llm.engine.scoring import PromptedScorer
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.query_loss import PromptRow, prompt_row, query_losses
from sptar.types import Document, GenerationRequest, Pair, Query

VOCABULARY = 512
MOST_PARAMETERS = 10_000_000
SECONDS = 400
NEW_TOKENS = 8
VIRTUAL_TOKENS = 4
WORDS_OF_DOCUMENTS = (9, 30, 3, 17, 30, 22)
SHORT_WINDOW, LONG_WINDOW = 24, 250
LOSS_ERROR = 1e-3
"""Losses are about 6; float32 leaves 1e-5 of the logits, which these weights make large."""
GRADIENT_ERROR = 1e-2
TIE = 1e-3
"""Two logits that are closer than this may change places with the order of sums."""

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "moe_latent_size"), 32),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner"), 64
    ),
    **dict.fromkeys(("ffn_hidden_size", "dff", "dim_ff", "mlp_hidden_size"), 64),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16
    ),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(
        ("decoder_layers", "encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(
        (
            "decoder_attention_heads",
            "encoder_attention_heads",
            "num_decoder_attention_heads",
            "num_encoder_attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 256
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "o_lora_rank"), 8),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 8),
    # Attention that looks at so many tokens at most; no prompt of ours is longer.
    **{"index_topk": 250, "unpadded_vocab_size": VOCABULARY},
    **dict.fromkeys(("sliding_window", "attention_window_size", "local_attention"), SHORT_WINDOW),
    **dict.fromkeys(("window_size", "attention_chunk_size"), SHORT_WINDOW),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("n_mamba_heads", "index_n_heads", "linear_num_key_heads"), 2),
    **{"linear_num_value_heads": 4, "hidden_size_per_layer_input": 8, "laurel_rank": 4},
    **{"vocab_size_per_layer_input": VOCABULARY, "altup_num_inputs": 2},
    **{"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None},
    **{"is_decoder": True},
}
"""What a config is told of what it knows."""

MORE: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "reformer": {"axial_pos_embds": False, "attention_head_size": 8, "pad_token_id": 0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba2": {"mamba_headdim": 16, "n_mamba_heads": 4, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    "prophetnet": {"num_hidden_layers": None},
    "xlnet": {"max_position_embeddings": None},
    "roberta": {"pad_token_id": 1},
    "dbrx": {"attn_config": {"kv_n_heads": 2}},
    "dots3_note_text": {"kv_lora_rank": 16},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
}
"""What else a family needs to be built; ``None`` leaves a setting out."""


@dataclass(frozen=True)
class Row:
    """One family: ``status`` is right, refused, wrong or not built; ``road`` how prompts run."""

    family: str
    status: str
    detail: str = ""
    road: str = ""
    generate_differs: bool = False
    seconds: float = 0.0


def families() -> list[str]:
    """All names under which transformers knows a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_model(family: str, *, window: int = SHORT_WINDOW, seed: int = 0) -> Any:
    """A tiny model of random weights, in evaluation mode.

    Raises whatever its config or model raises where these sizes do not suit it.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family])
    text_class = type(CONFIG_MAPPING[family]().get_text_config(decoder=True))
    if model_class.config_class is not text_class:
        raise ValueError(f"its config is a {model_class.config_class.__name__}")
    settings = _settings(text_class, window) | MORE.get(family, {})
    settings = {
        name: value
        for name, value in settings.items()
        if value is not None or name == "pad_token_id"
    }
    try:
        return _built(model_class, text_class(**settings), seed)
    except Exception:
        # Some want every token named.
        return _built(model_class, text_class(**settings | {"pad_token_id": 2}), seed)


def _built(model_class: Any, config: Any, seed: int) -> Any:
    with torch.device("meta"):
        size = sum(weight.numel() for weight in model_class(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        _scatter(model, 0.2)
        logits = model(input_ids=torch.arange(10, 60)[None], use_cache=False).logits
        if not torch.isfinite(logits).all():
            _scatter(model, 0.05)
    return model


@torch.no_grad()
def _scatter(model: Any, spread: float) -> None:
    """Random weights; vectors too, some of which begin as zero and switch whole branches off."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, spread)
        elif weight.is_floating_point():
            weight.add_(torch.randn_like(weight) * spread / 2)


def _settings(config_class: type, window: int) -> dict[str, Any]:
    known = config_class()
    settings = {}
    for name, value in SIZES.items():
        aliases = getattr(config_class, "attribute_map", None) or {}
        declared = getattr(config_class, aliases.get(name, name), None)
        if isinstance(declared, property) and declared.fset is None:
            continue
        try:
            there = hasattr(known, name)
        except Exception:  # a setting that differs from layer to layer is there
            there = True
        if there:
            settings[name] = window if value is SHORT_WINDOW else value
    # An alias and what it stands for would contradict each other.
    for alias, name in (getattr(config_class, "attribute_map", None) or {}).items():
        if name in settings:
            settings.pop(alias, None)
    if "kv_lora_rank" in settings and "num_key_value_heads" in settings:
        settings["num_key_value_heads"] = settings.get("num_attention_heads", 4)
    aliases = getattr(config_class, "attribute_map", None) or {}
    declared = getattr(config_class, aliases.get("layer_types", "layer_types"), None)
    settable = not (isinstance(declared, property) and declared.fset is None)
    kinds = list(dict.fromkeys(getattr(known, "layer_types", None) or ()))
    if kinds and settable:
        settings["layer_types"] = kinds if len(kinds) > 1 else kinds * 2
        for name in ("num_hidden_layers", "n_layer", "num_layers"):
            if name in settings:
                settings[name] = len(settings["layer_types"])
    return settings


def small_tokenizer() -> Any:
    """Byte-level, of :data:`VOCABULARY` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = Texts(seed=2)
    built.train_from_iterator((texts.words(100) for _ in range(30)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="</s>")


def save(family: str, folder: Path, *, window: int = SHORT_WINDOW) -> None:
    """Save a tiny model with its tokenizer; raises as :func:`tiny_model` does."""
    tiny_model(family, window=window).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)


def loaded(folder: Path) -> LanguageModel:
    """A tiny model, loaded as a user's is; it also stops at every ninth token.

    Raises:
        ModelError: it is refused.
    """
    model = load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))
    more = frozenset(range(0, VOCABULARY, 9))
    return replace(model, stop_token_ids=model.stop_token_ids | more)


class Comparison:
    """The engine of this package and the plain model on the same prompts."""

    def __init__(self, model: LanguageModel, *, soft: bool) -> None:
        texts = Texts(seed=5)
        self.model = model
        documents = [
            Document(f"d{number}", texts.words(words))
            for number, words in enumerate(WORDS_OF_DOCUMENTS)
        ]
        self.pairs = [
            Pair(Query(f"q{number}", texts.words(2 + number % 4)), document)
            for number, document in enumerate(documents)
        ]
        self.example = Pair(Query("example", texts.words(3)), Document("e", texts.words(8)))
        self.soft_prompt = None
        if soft:
            table = model.model.get_input_embeddings().weight
            stream = torch.Generator().manual_seed(3)
            noise = torch.randn(VIRTUAL_TOKENS, model.hidden_size, generator=stream)
            self.soft_prompt = SoftPrompt(noise * float(table.std()), "tiny", {})
            self.soft_prompt.check_fits(model)
        self.template = PromptTemplate(
            model,
            PromptConfig(examples=1, max_document_tokens=60, max_query_tokens=16),
            virtual_tokens=VIRTUAL_TOKENS if soft else 0,
            max_new_tokens=NEW_TOKENS,
        )

    def plain_logits(self, ids: Sequence[int], virtual: torch.Tensor | None) -> torch.Tensor:
        """[tokens, vocabulary] of one whole prompt, alone, without a cache."""
        given = torch.tensor([list(ids)])
        if virtual is None:
            return self.model.model(input_ids=given, use_cache=False).logits[0]
        embedded = self.model.model.get_input_embeddings()(given)
        values = torch.cat([virtual[None], embedded], dim=1)
        return self.model.model(inputs_embeds=values, use_cache=False).logits[0]

    def _virtual(self) -> torch.Tensor | None:
        return None if self.soft_prompt is None else self.soft_prompt.matrix

    @torch.no_grad()
    def texts_differ(self) -> tuple[str, bool]:
        """What is wrong with the greedy texts, and whether ``generate`` writes others."""
        config = AugmentConfig(decoding="greedy", max_new_tokens=NEW_TOKENS, batch_size=4)
        engine = PromptedGenerator(
            self.model, self.template, self.soft_prompt, [self.example], config, seed=0
        )
        answers = engine.generate([GenerationRequest(pair.document) for pair in self.pairs])
        prefix = self.template.prefix_ids([self.example])
        generate_differs = False
        for pair, answer in zip(self.pairs, answers, strict=True):
            ids = [*prefix, *self.template.document_ids(pair.document).ids]
            new: list[int] = []
            closest = float("inf")
            while len(new) < NEW_TOKENS and not self.model.stop_token_ids & set(new[-1:]):
                last = self.plain_logits([*ids, *new], self._virtual())[-1].float()
                first, second = last.topk(2).values.tolist()
                closest = min(closest, (first - second) / max(1.0, float(last.std())))
                new.append(int(last.argmax()))
            if answer.raw != self.template.decode(new) and closest > TIE:
                return f"text of {pair.document.doc_id} differs", generate_differs
            if self.soft_prompt is None:
                generate_differs |= self._generated(ids) != new and closest > TIE
        return "", generate_differs

    def _generated(self, ids: Sequence[int]) -> list[int]:
        given = torch.tensor([list(ids)])
        try:
            written = self.model.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=sorted(self.model.stop_token_ids),
                pad_token_id=0,
            )
        except Exception:
            return []
        return [int(token) for token in written[0, len(ids) :]]

    @torch.no_grad()
    def losses_differ(self) -> str:
        """What is wrong with the losses of given queries."""
        scorer = PromptedScorer(self.model, self.template, self.soft_prompt, 4)
        found = scorer.query_losses([self.example], self.pairs)
        for pair, loss in zip(self.pairs, found, strict=True):
            row = prompt_row(self.template, [self.example], pair)
            expected = float(self.plain_loss(row, self._virtual())) * row.targets
            if not abs(loss.total - expected) <= LOSS_ERROR * max(1.0, abs(expected)):
                return f"score of {pair.query.query_id}: {loss.total:.5f} for {expected:.5f}"
        return ""

    def plain_loss(self, row: PromptRow, virtual: torch.Tensor | None) -> torch.Tensor:
        """Mean loss of a row's targets."""
        logits = self.plain_logits(row.ids, virtual)
        read = logits[-row.targets - 1 : -1].float()
        return torch.nn.functional.cross_entropy(read, torch.tensor(row.ids[-row.targets :]))

    def tuning_differs(self) -> str:
        """What is wrong with the loss of a batch, or with its gradient at the soft prompt."""
        rows = [prompt_row(self.template, [self.example], pair) for pair in self.pairs[:4]]
        values = []
        for losses_of in (
            lambda virtual: query_losses(self.model, virtual, rows),
            lambda virtual: torch.stack([self.plain_loss(row, virtual) for row in rows]),
        ):
            virtual = self._virtual()
            if virtual is not None:
                virtual = virtual.clone().requires_grad_()
            losses = losses_of(virtual)
            gradient = torch.zeros(1)
            if virtual is not None:
                (gradient,) = torch.autograd.grad(losses.mean(), virtual)
            values.append((losses.detach(), gradient))
        (found, gradient), (expected, plain_gradient) = values
        if not bool(((found - expected).abs() <= LOSS_ERROR * expected.abs().clamp(min=1)).all()):
            return f"tuning losses {found.tolist()} for {expected.tolist()}"
        norm = float(plain_gradient.norm())
        if not float((gradient - plain_gradient).norm()) <= GRADIENT_ERROR * max(norm, 1e-6):
            return f"gradient of norm {float(gradient.norm()):.4g} for {norm:.4g}"
        return ""


def examine(family: str, *, window: int = SHORT_WINDOW) -> Row:
    """Build, load and compare one family."""
    started = time.perf_counter()

    def row(status: str, detail: str = "", **more: Any) -> Row:
        return Row(family, status, detail, seconds=round(time.perf_counter() - started, 1), **more)

    with tempfile.TemporaryDirectory() as folder:
        try:
            save(family, Path(folder) / "model", window=window)
        except Exception as error:
            return row("not built", f"{type(error).__name__}: {_first_line(error)}")
        try:
            model = loaded(Path(folder) / "model")
        except ModelError as error:
            return row("refused", error.message.replace(folder, "…"))
        refused, generate_differs = "", False
        for soft in (False, True):
            try:
                comparison = Comparison(model, soft=soft)
            except ModelError as error:
                refused = error.message.replace(folder, "…")
                continue
            text, differs = comparison.texts_differ()
            generate_differs |= differs
            wrong = text or comparison.losses_differ() or comparison.tuning_differs()
            if wrong:
                kind = "soft prompt" if soft else "hard prompt"
                return row("wrong", f"{kind}: {wrong}", road=model.verdict.road)
    status = "soft prompt refused" if refused else "right"
    return row(status, refused, road=model.verdict.road, generate_differs=generate_differs)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:150]


def _stop_slow(*_: object) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


def main() -> int:
    """Examine families and print a table; the exit code says whether one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="all, unless named")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    describe_machine(threads=1)
    rows: dict[str, Row] = {}
    if options.out and options.out.is_file():
        known = json.loads(options.out.read_text(encoding="utf-8"))
        if known.get("transformers") == transformers.__version__:
            rows = {row["family"]: Row(**row) for row in known["rows"]}
    signal.signal(signal.SIGALRM, _stop_slow)
    for family in options.families or families():
        for name, window in ((family, SHORT_WINDOW), (f"{family}, long window", LONG_WINDOW)):
            if name in rows and not options.families:
                continue
            if window == LONG_WINDOW and not _has_window(family):
                continue
            signal.alarm(SECONDS)
            try:
                row = examine(family, window=window)
            except Exception as error:
                row = Row(family, "wrong", f"{type(error).__name__}: {_first_line(error)}")
            finally:
                signal.alarm(0)
            rows[name] = replace(row, family=name)
            print(f"{name:32} {row.status:20} {row.seconds:6.1f} s  {row.detail}", flush=True)
            if options.out:
                _save(options.out, transformers.__version__, rows)
    counts = dict.fromkeys(("right", "soft prompt refused", "refused", "wrong"), 0)
    for row in rows.values():
        counts[row.status] = counts.get(row.status, 0) + 1
    print(f"transformers {transformers.__version__}: {counts}")
    return int(counts["wrong"] > 0)


def _has_window(family: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with suppress(Exception):
        settings = _settings(type(CONFIG_MAPPING[family]().get_text_config(decoder=True)), -1)
        return -1 in settings.values()
    return False


def _save(path: Path, version: str, rows: dict[str, Row]) -> None:
    counts: dict[str, int] = {}
    for row in rows.values():
        counts[row.status] = counts.get(row.status, 0) + 1
    write_json(
        path,
        {
            "transformers": version,
            "torch": torch.__version__,
            "counts": counts,
            "rows": [asdict(row) for row in rows.values()],
        },
    )


if __name__ == "__main__":
    sys.exit(main())
