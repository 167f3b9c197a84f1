"""A soft prompt as extra words of a plain checkpoint, so that any engine can serve it.

Serving engines dropped soft prompts one after another, and prompt embeddings meet prefix caching
badly there. But an input embedding is all that a virtual token is: written into the embedding
table under a token id of its own, the soft prompt becomes ordinary token ids, and a plain engine
with prefix caching runs it once for all documents.

The new words must never be *written*. Where the output layer has a bias, theirs is set so low that
they cannot be. Elsewhere their output rows point away from where the model's last hidden states
lie, measured on sample prompts; ``suppress_tokens`` in the checkpoint's generation config rules
them out for engines that read it, and engines behind an interface get a ``logit_bias``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sptar.errors import ModelError
from sptar.io import read_json, write_json
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.types import Generation, GenerationRequest

__all__ = [
    "EXPORT_FILE",
    "ExportedGenerator",
    "VocabularyExport",
    "export_as_vocabulary",
    "load_export",
]

EXPORT_FILE = "sptar_prompt.json"
"""Written last: a folder with it is a whole export."""

_NAME = "<|soft_prompt_{}|>"
_LOWEST_BIAS = -1e4
_LOGIT_MARGIN = 20.0
"""How far below every other logit the new words are put on the sample prompts."""


@dataclass(frozen=True, slots=True)
class VocabularyExport:
    """What stands in an exported folder beside the checkpoint.

    Attributes:
        virtual_token_ids: the soft prompt as ids of the exported vocabulary, in order.
        virtual_token_names: how its tokenizer writes them.
        prefix_ids: everything in front of a document: virtual tokens, begin tokens, examples.
        stop_token_ids: a generated query ends at any of these.
        suppressed_by: ``bias``, ``direction`` (margin on the samples: ``margin``) or
            ``generation_config`` alone.
        margin: distance to the lowest other logit on the sample prompts, in logits.
        base_model: what the soft prompt was learned for.
        soft_prompt: digest of its matrix (:attr:`sptar.llm.soft_prompt.SoftPrompt.digest`).
    """

    virtual_token_ids: tuple[int, ...]
    virtual_token_names: tuple[str, ...]
    prefix_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    suppressed_by: str
    margin: float | None
    base_model: str
    soft_prompt: str


@torch.no_grad()
def export_as_vocabulary(
    language_model: LanguageModel,
    soft_prompt: SoftPrompt,
    folder: str | Path,
    *,
    prefix_ids: Sequence[int],
    sample_ids: Sequence[Sequence[int]] = (),
) -> VocabularyExport:
    """Write a checkpoint whose vocabulary holds the soft prompt.

    Args:
        language_model: the model that the prompt was learned for; it is not changed.
        soft_prompt: its virtual tokens.
        folder: where to; must not hold an export of something else.
        prefix_ids: ids that follow the virtual tokens in every prompt
            (:meth:`sptar.llm.template.PromptTemplate.prefix_ids`).
        sample_ids: prompts (ids behind the prefix) on which the new words' logits are measured.

    Raises:
        ModelError: the widths differ, the folder is taken, or the model makes its input embeddings
            in a way that a table of rows cannot hold.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / EXPORT_FILE).exists():
        raise ModelError(f"{folder} is not empty.", hint="Give a new folder for the export.")
    vectors = soft_prompt.embeddings(language_model)
    scale = _embedding_scale(language_model)
    tokenizer = copy.deepcopy(language_model.tokenizer)
    names = [_NAME.format(number) for number in range(soft_prompt.virtual_tokens)]
    ids = _add_words(tokenizer, names)
    model = copy.deepcopy(language_model.model)
    size = max(model.get_input_embeddings().weight.shape[0], max(ids) + 1)
    model.resize_token_embeddings(size, mean_resizing=False)
    _untie(model)
    rows = torch.tensor(ids, device=language_model.device)
    model.get_input_embeddings().weight[rows] = vectors / scale
    how, margin = _suppress(language_model, soft_prompt, model, rows, prefix_ids, sample_ids)
    if model.generation_config is not None:
        known = list(model.generation_config.suppress_tokens or [])
        model.generation_config.suppress_tokens = sorted({*known, *ids})
    model.config.name_or_path = ""
    tokenizer.name_or_path = ""
    (folder / EXPORT_FILE).unlink(missing_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
    export = VocabularyExport(
        virtual_token_ids=tuple(ids),
        virtual_token_names=tuple(names),
        prefix_ids=(*ids, *map(int, prefix_ids)),
        stop_token_ids=tuple(sorted(language_model.stop_token_ids)),
        suppressed_by=how,
        margin=margin,
        base_model=Path(soft_prompt.base_model).name,
        soft_prompt=soft_prompt.digest,
    )
    write_json(folder / EXPORT_FILE, asdict(export))
    return export


def load_export(folder: str | Path) -> VocabularyExport:
    """Read what lies beside an exported checkpoint.

    Raises:
        ModelError: the folder is no whole export.
    """
    path = Path(folder) / EXPORT_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no exported soft prompt ({EXPORT_FILE} is missing).",
            hint="Type: sptar export soft-prompt CONFIG --as-vocabulary FOLDER",
        )
    value = read_json(path)
    lists = ("virtual_token_ids", "virtual_token_names", "prefix_ids", "stop_token_ids")
    try:
        return VocabularyExport(**{**value, **{name: tuple(value[name]) for name in lists}})
    except (TypeError, KeyError) as error:
        raise ModelError(f"{path} is damaged: {error}.", hint="Export again.") from None


def _add_words(tokenizer: Any, names: list[str]) -> list[int]:
    from tokenizers import AddedToken

    taken = [name for name in names if name in tokenizer.get_vocab()]
    if taken:
        raise ModelError(
            f"The tokenizer already has a token {taken[0]}: this checkpoint is an export itself.",
            hint="Export from the original model.",
        )
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return [int(token_id) for token_id in tokenizer.convert_tokens_to_ids(names)]


def _embedding_scale(language_model: LanguageModel) -> float:
    """By what the embedding module multiplies the rows of its table (Gemma 3 does)."""
    table = language_model.model.get_input_embeddings().weight
    row = table[:64].float()
    made = language_model.embed(torch.arange(len(row))).float()
    squares = float((row * row).sum())
    scale = float((row * made).sum()) / squares if squares else 1.0
    tolerance = 1e-2 * float(made.abs().max()) + 1e-6
    if scale == 0 or not torch.allclose(row * scale, made, atol=tolerance):
        raise ModelError(
            f"{language_model.config.name} makes its input embeddings in a way that a table of "
            "rows cannot hold.",
            hint="Serve it with the built-in engine.",
        )
    return scale


def _untie(model: Any) -> None:
    """Give the output layer a table of its own: a virtual token has no output row."""
    output = model.get_output_embeddings()
    if output.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr():
        output.weight = torch.nn.Parameter(output.weight.detach().clone())
    if getattr(output, "bias", None) is not None:
        # BERT keeps its bias under two names that are tied along with the table.
        output.bias = torch.nn.Parameter(output.bias.detach().clone())
    configs: list[Any] = [model.config]
    text = model.config.get_text_config()
    if text is not model.config:
        configs.append(text)
    for config in configs:
        config.tie_word_embeddings = False


def _suppress(
    language_model: LanguageModel,
    soft_prompt: SoftPrompt,
    model: Any,
    rows: torch.Tensor,
    prefix_ids: Sequence[int],
    sample_ids: Sequence[Sequence[int]],
) -> tuple[str, float | None]:
    output = model.get_output_embeddings()
    output.weight[rows] = 0
    bias = getattr(output, "bias", None)
    if bias is not None:
        bias[rows] = _LOWEST_BIAS
        return "bias", None
    if not sample_ids:
        return "generation_config", None
    hidden, lowest = _last_states(language_model, soft_prompt, prefix_ids, sample_ids)
    direction = hidden.mean(dim=0)
    along = hidden @ direction
    if float(along.min()) <= 0:
        return "generation_config", None
    # Twice what the samples need: other prompts lie near them, not on them.
    factor = 2.0 * float(((_LOGIT_MARGIN - lowest) / along).max())
    if factor <= 0:
        factor = 2.0 * _LOGIT_MARGIN / float(along.min())
    output.weight[rows] = (-factor * direction).to(output.weight.dtype)
    return "direction", float((lowest + factor * along).min())


def _last_states(
    language_model: LanguageModel,
    soft_prompt: SoftPrompt,
    prefix_ids: Sequence[int],
    sample_ids: Sequence[Sequence[int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the output layer reads at every place of the samples, and the lowest logit there."""
    seen: list[torch.Tensor] = []
    lowest: list[torch.Tensor] = []
    output = language_model.model.get_output_embeddings()

    def remember(_: Any, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
        seen.append(inputs[0][0].float())
        lowest.append(logits[0].float().min(dim=-1).values)

    hook = output.register_forward_hook(remember)
    soft = soft_prompt.embeddings(language_model)[None]
    try:
        for ids in sample_ids:
            text = torch.tensor([[*prefix_ids, *ids]], device=language_model.device)
            embedded = torch.cat([soft, language_model.embed(text)], dim=1)
            language_model.model(inputs_embeds=embedded)
    finally:
        hook.remove()
    return torch.cat(seen), torch.cat(lowest)


class ExportedGenerator:
    """Greedy text of an exported checkpoint, by the plain library and token ids alone.

    It checks an export where no server runs; it is slow, one whole prompt after another.
    """

    def __init__(self, folder: str | Path, template: PromptTemplate) -> None:
        from transformers import AutoModelForCausalLM

        self._export = load_export(folder)
        self._template = template
        dtype = template.language_model.dtype
        self._model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True
        )
        self._model.to(template.language_model.device).eval()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer for each request, in the order of the requests; no log-probabilities."""
        return [self._one(request) for request in requests]

    @torch.no_grad()
    def _one(self, request: GenerationRequest) -> Generation:
        document = self._template.document_ids(request.document)
        prompt = [*self._export.prefix_ids, *document.ids]
        ids = torch.tensor([prompt], device=self._model.device)
        made = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._template.max_new_tokens,
            do_sample=False,
            eos_token_id=list(self._export.stop_token_ids),
            pad_token_id=self._export.stop_token_ids[0],
        )[0, len(prompt) :].tolist()
        return Generation(
            raw=self._template.decode(made),
            log_probability=None,
            tokens=len(made),
            stopped=made[-1] in self._export.stop_token_ids,
            cut_tokens=document.cut_tokens,
        )
