"""Every setting of a run, documented where it is declared.

A run is one YAML file (see ``configs/``). Unknown keys are refused with the nearest known one,
contradictions by both names. A field marked :func:`runtime` changes how fast something happens or
on what, never the result: such fields stay out of an artefact's fingerprint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sptar.errors import ConfigError

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvaluateConfig",
    "FilterConfig",
    "LanguageModelConfig",
    "PromptConfig",
    "RunConfig",
    "SelectConfig",
    "SplitConfig",
    "TrainConfig",
    "TuneConfig",
    "load_config",
    "parse_config",
    "result_settings",
]

METHODS = ("bm25", "zero_shot", "no_augmentation", "inpars", "inpars_gbq", "sptar")
"""Methods known to the pipeline, in the order in which a report shows them."""


def runtime(default: Any, description: str, **limits: Any) -> Any:
    """A field that never changes a result (batch sizes, devices, block sizes)."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"changes_results": False},
        **limits,
    )


def added(default: Any, description: str, **limits: Any) -> Any:
    """A field that came later: at its default it stays out of the fingerprint, so that artefacts
    made before it existed are still found.
    """
    return Field(
        default=default,
        description=description,
        json_schema_extra={"added_later": True},
        **limits,
    )


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataConfig(Section):
    """Where the collection comes from. Either ``source`` or ``corpus`` is needed."""

    source: str | None = Field(
        None,
        description="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv), `hf:NAME` or "
        "`ir:NAME`.",
    )
    corpus: str | None = Field(
        None, description="A CSV, TSV, JSONL or Parquet file with one document a row."
    )
    queries: str | None = Field(
        None,
        description="A file with one query a row. May be left out when the files in `qrels` carry "
        "the query text themselves.",
    )
    qrels: dict[str, str] = Field(
        default_factory=dict,
        description="Split name → file with the judgements of that split (TSV with a header, TREC, "
        "or a table). With `ir:` sources: split name → data set name.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Names of the columns in those files, for any of: doc_id, title, text, "
        "query_id, query, score. Without a doc_id column documents are numbered from 0, without a "
        "query_id column queries are numbered q0, q1, ….",
    )
    revision: str | None = Field(None, description="Revision of a Hugging Face data set.")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="`skip` leaves broken rows out, counts and reports them."
    )

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        known = ("doc_id", "title", "text", "query_id", "query", "score")
        for key in value:
            if key not in known:
                raise ValueError(f"unknown column '{key}'{_did_you_mean(key, known)}")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.source is None and self.corpus is None:
            raise ValueError("give either `source` or `corpus`")
        if self.source is not None and self.corpus is not None:
            raise ValueError("`source` and `corpus` contradict each other: give one of them")
        return self


class SplitConfig(Section):
    """Which labelled query plays which role. Each labelled query has one role at most."""

    mode: Literal["few_shot", "paper"] = Field(
        "few_shot",
        description="`few_shot`: the retriever trains on S_train + weak pairs and is chosen on "
        "S_eval, no other label is touched. `paper`: trains on S_train + S_eval + weak pairs and "
        "is chosen on the whole rest of the dev split.",
    )
    train_queries: int = Field(50, ge=1, description="X: distinct queries in S_train.")
    eval_queries: int = Field(100, ge=1, description="Y: distinct queries in S_eval.")
    train_from: str = Field("train", description="Split from which S_train is sampled.")
    eval_from: str | None = Field(
        None, description="Split from which S_eval is sampled; by default the one of S_train."
    )
    dev_from: str = Field("dev", description="Split that mode `paper` chooses its checkpoint on.")
    test_from: str = Field("test", description="Split that is kept for the end.")
    carve_from: str | None = Field(
        None,
        description="For a collection with labels in one split only: deal the queries of this "
        "split out to all roles (S_train, S_eval, dev, then the rest to test).",
    )
    carve_dev_queries: int = Field(
        0, ge=0, description="With `carve_from`: how many queries go to the retriever-dev role."
    )
    group_pattern: str | None = Field(
        None,
        description="With `carve_from`: a regular expression whose first group names the group of "
        "a query id; the queries of one group get the same role, e.g. `^([^_]+)_`.",
    )
    augment_from: Literal["unjudged", "not_evaluated"] = Field(
        "unjudged",
        description="Documents that may get a weak query. `unjudged`: those that no split's qrels "
        "name. `not_evaluated`: all but those judged for a dev, S_eval or test query.",
    )
    max_documents: int | None = Field(
        None, ge=1, description="How many documents to augment, sampled by seed; default all."
    )
    seed: int | None = Field(None, description="By default the seed of the run.")

    @field_validator("group_pattern")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
            if groups < 1:
                raise ValueError("the expression needs one group in parentheses")
        return value

    @model_validator(mode="after")
    def _no_contradiction(self) -> SplitConfig:
        if self.carve_from is None:
            if self.group_pattern is not None:
                raise ValueError("`group_pattern` works only with `carve_from`")
            if self.carve_dev_queries:
                raise ValueError("`carve_dev_queries` works only with `carve_from`")
        elif self.mode == "paper" and not self.carve_dev_queries:
            raise ValueError("mode `paper` with `carve_from` needs `carve_dev_queries` above 0")
        return self


class LanguageModelConfig(Section):
    """The frozen LLM: a folder, or a name on the Hugging Face hub."""

    name: str = Field(..., description="Folder or hub name of a causal language model.")
    revision: str | None = Field(None, description="Hub revision.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the weights; float32 is token-exact."
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only if you trust it."
    )
    device: str = runtime("auto", "`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")


class PromptConfig(Section):
    """The template around documents and queries (paper, section on soft prompt tuning)."""

    examples: int = Field(1, ge=0, description="M: example pairs in front of the document.")
    document_label: str = Field("Document:", description="Text in front of a document.")
    query_label: str = Field("Relevant Query:", description="Text in front of a query.")
    separator: str = Field(" \n ", description="Text between the parts.")
    max_document_words: int = Field(1024, ge=1, description="Words of a document that are read.")
    max_document_tokens: int | None = Field(
        None,
        ge=8,
        description="Token budget of each document in the prompt, the examples' included. By "
        "default the model's context is shared out evenly.",
    )
    max_query_tokens: int = Field(
        64, ge=1, description="Token budget of a query in training and in the examples."
    )


class TuneConfig(Section):
    """Soft prompt tuning (and LoRA, for comparison)."""

    method: Literal["soft_prompt", "lora"] = Field("soft_prompt", description="What is learned.")
    virtual_tokens: int = Field(50, ge=1, description="l_s: length of the soft prompt.")
    init: Literal["text", "vocabulary", "random"] = Field(
        "text",
        description="Start value: the embeddings of `init_text`, of tokens drawn from the "
        "vocabulary, or random numbers with the spread of the vocabulary.",
    )
    init_text: str = Field(
        "please generate query for this document",
        min_length=1,
        description="Repeated or cut to `virtual_tokens`.",
    )
    learning_rate: float = Field(3e-2, gt=0, description="AdamW, linear decay, no warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay.")
    batch_size: int = Field(1, ge=1, description="Training pairs in one forward pass.")
    gradient_accumulation: int = Field(1, ge=1, description="Forward passes before one step.")
    epochs: int = Field(100, ge=1, description="At most so many passes over S_train.")
    patience: int = Field(
        5, ge=1, description="Stop when S_eval's loss has not improved for more than this."
    )
    lora_learning_rate: float = Field(
        3e-4, gt=0, description="In place of `learning_rate`, for LoRA."
    )
    lora_rank: int = Field(8, ge=1, description="Rank of LoRA's update.")
    lora_alpha: float = Field(16.0, gt=0, description="Scale of LoRA's update.")
    lora_target_modules: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="Modules that LoRA changes."
    )
    adapter: str | None = Field(
        None,
        description="A folder with a finished soft prompt (PEFT format) to use instead of tuning.",
    )
    gradient_checkpointing: bool = runtime(False, "Trade time for memory with large models.")
    evaluation_batch_size: int = runtime(16, "Pairs scored together.", ge=1)


class SelectConfig(Section):
    """Soft prompt filter: which example pairs stand in the prompt."""

    groups: int | Literal["all"] = Field(
        "all",
        description="Candidate groups; `all` only for M = 1 (all pairs of S_train).",
    )
    choice: Literal["best", "worst", "first"] = Field(
        "best",
        description="`worst` for the ablation; `first` takes the first sampled group unscored.",
    )
    batch_size: int = runtime(16, "Pairs scored together.", ge=1)


class AugmentConfig(Section):
    """Soft prompt augmentor: one weak query for each document."""

    decoding: Literal["greedy", "sample"] = Field(
        "sample",
        description="`sample` draws at `temperature`, with one random stream for each (seed, "
        "document, number, attempt); `greedy` takes the likeliest token, as the published code "
        "in effect does.",
    )
    temperature: float = Field(0.7, gt=0, description="Only for `sample`.")
    max_new_tokens: int = Field(128, ge=1, description="Budget of a generated query.")
    queries_per_document: int = Field(1, ge=1, description="n: rows for each document.")
    max_attempts: int = Field(
        3, ge=1, description="Tries while the answer is empty; greedy decoding has only one."
    )
    cleaning: Literal["trim", "reference"] = added(
        "trim",
        "`trim` takes repeats, quotes and list markers off and keeps punctuation; `reference` "
        "deletes every full stop, comma and question mark, as the published code does.",
    )
    batch_size: int = runtime(16, "Documents generated together, at most.", ge=1)
    block_size: int = runtime(512, "Documents in one block, the unit of resuming.", ge=1)

    @model_validator(mode="after")
    def _no_repeats(self) -> AugmentConfig:
        if self.decoding == "greedy" and self.queries_per_document > 1:
            raise ValueError(
                "`decoding: greedy` and `queries_per_document` above 1 contradict each other: "
                "every query of a document would be the same; set `decoding: sample`"
            )
        return self


class FilterConfig(Section):
    """Weak data filter: is the source document among BM25's top k?"""

    k: int | list[int] | Literal["auto"] = Field(
        30,
        description="Cut-off; a list trains one retriever for each, `auto` tries `auto_k` and "
        "keeps the one that is best on retriever-dev.",
    )
    auto_k: list[int] = Field([10, 30, 70, 200], description="Cut-offs that `auto` tries.")
    k1: float = Field(0.9, ge=0, description="BM25's k1.")
    b: float = Field(0.4, ge=0, le=1, description="BM25's b.")
    language: str = Field("english", description="Stemmer and stop words; `none` for neither.")
    max_query_words: int = Field(50, ge=1, description="A weak query is cut to this many words.")
    drop_duplicates: bool = Field(
        True, description="Keep one of equal query texts: the one with the best rank."
    )
    drop_test_overlap: bool = Field(
        True, description="Drop weak queries that equal a test query (case and spaces aside)."
    )
    max_copied_share: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Drop a query of 12 words or more when it copies the document: the longest "
        "run of words shared with it is at least this share of the query.",
    )
    block_size: int = runtime(5000, "Queries ranked in one block.", ge=1)

    @field_validator("k", "auto_k")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value == "auto":
            return value
        values = value if isinstance(value, list) else [value]
        if not values or any(k < 1 for k in values) or len(set(values)) != len(values):
            raise ValueError("cut-offs are distinct whole numbers from 1")
        return value


class TrainConfig(Section):
    """The dense retriever and its recipe."""

    retriever: Literal["dpr"] = Field("dpr", description="Row of the table of retrievers.")
    start: str = Field(
        "google-bert/bert-base-uncased", description="Folder or hub name of the start encoder."
    )
    revision: str | None = Field(None, description="Hub revision of the start encoder.")
    trust_remote_code: bool = Field(False, description="As for the LLM.")
    pooling: Literal["mean", "cls"] = Field("mean", description="For a start that has none.")
    max_tokens: int = Field(350, ge=8, description="Tokens of a document or query that are read.")
    query_prompt: str = Field("", description="Text in front of every query.")
    document_prompt: str = Field("", description="Text in front of every document.")
    scale: float = Field(20.0, gt=0, description="Factor on the cosine in the softmax.")
    batch_size: int = Field(32, ge=2, description="Pairs in a batch: in-batch negatives.")
    epochs: int = Field(20, ge=1, description="At most so many passes.")
    min_steps_per_epoch: int = Field(
        0,
        ge=0,
        description="Passes over small training sets are joined until an epoch has this many "
        "steps (0: never).",
    )
    learning_rate: float = Field(2e-5, gt=0, description="AdamW.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps.")
    patience: int = Field(10, ge=1, description="Epochs without gain on dev before stopping.")
    dev_negatives: int = Field(
        20, ge=0, description="Documents added to the reduced dev corpus for each labelled one."
    )
    keep: Literal["best", "best_or_start"] = Field(
        "best",
        description="`best_or_start` keeps the untrained start when no epoch beats it on dev.",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="For training.")
    device: str = runtime("auto", "As for the LLM.")
    encode_batch_size: int = runtime(32, "Texts encoded together.", ge=1)
    encode_block_size: int = runtime(4096, "Documents in one block of vectors.", ge=1)


class EvaluateConfig(Section):
    """Measures and tests."""

    measures: list[str] = Field(
        ["nDCG@10", "RR@10", "R@100", "AP@1000"],
        min_length=1,
        description="Measures by their ir-measures names; the first is the one of the verdict.",
    )
    relevance_level: int = Field(
        1, ge=1, description="Lowest grade that counts as relevant in the binary measures."
    )
    top_k: int = Field(1000, ge=1, description="Documents retrieved for each query.")
    alpha: float = Field(0.05, gt=0, lt=1, description="Level of the corrected tests.")
    bootstrap_samples: int = Field(10_000, ge=100, description="For the 95 % intervals.")


class RunConfig(Section):
    """One whole experiment."""

    name: str = Field("run", pattern=r"^[\w.-]+$", description="Name of the run in the workspace.")
    seed: int = Field(42, ge=0, description="Seed of everything that has none of its own.")
    note: str | None = Field(
        None, description="A sentence for the top of the report, such as a warning."
    )
    methods: list[str] = Field(
        [*METHODS[:4], "sptar"], min_length=1, description=f"Of {', '.join(METHODS)}."
    )
    data: DataConfig
    split: SplitConfig = Field(default_factory=SplitConfig)
    llm: LanguageModelConfig | None = Field(
        None, description="Needed by every method that writes weak queries."
    )
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    tune: TuneConfig = Field(default_factory=TuneConfig)
    select: SelectConfig = Field(default_factory=SelectConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    filter: FilterConfig = Field(default_factory=FilterConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    equal_pairs: bool = Field(
        False,
        description="Give every method that augments the same number of weak pairs: the smallest "
        "number that any of them kept, sampled by seed.",
    )
    weak_queries: dict[str, str] = Field(
        default_factory=dict,
        description="Method → JSONL file with weak queries made elsewhere; they enter at the "
        "filter. A name that is no known method becomes a method of its own.",
    )

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        known = (*METHODS, *self.weak_queries)
        for method in self.methods:
            if method not in known:
                raise ValueError(f"unknown method '{method}'{_did_you_mean(method, known)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is named twice in `methods`")
        for method in self.weak_queries:
            if method in ("bm25", "zero_shot", "no_augmentation"):
                raise ValueError(f"method '{method}' takes no weak queries")
            if not re.fullmatch(r"\w[\w.-]*", method):
                raise ValueError(f"'{method}' in `weak_queries` is not a plain name")
        writers = [
            method
            for method in self.methods
            if method in METHODS[3:] and method not in self.weak_queries
        ]
        if writers and self.llm is None:
            raise ValueError(f"method '{writers[0]}' writes weak queries and needs `llm`")
        if self.prompt.examples != 1 and self.prompt.examples > 0 and self.select.groups == "all":
            raise ValueError(
                "`select.groups: all` and `prompt.examples` above 1 contradict each other: give "
                "the number of groups to sample"
            )
        return self

    @property
    def split_seed(self) -> int:
        """Seed of the split."""
        return self.seed if self.split.seed is None else self.split.seed


def result_settings(section: BaseModel, *, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a section that change results, as plain JSON values."""
    values = section.model_dump(mode="json")
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if name in leave_out:
            continue
        if isinstance(extra, dict):
            if extra.get("changes_results") is False:
                continue
            if extra.get("added_later") and values[name] == field.default:
                continue
        kept[name] = values[name]
    return kept


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known are: {', '.join(known)}"


def _known_keys(location: Sequence[int | str]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = next(
            (
                candidate
                for candidate in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            ),
            None,
        )
        if model is None:
            return []
    return list(model.model_fields)


def _explain(error: ValidationError, where: str) -> ConfigError:
    lines: list[str] = []
    for item in error.errors():
        location = item["loc"]
        key = ".".join(str(part) for part in location) or "the config"
        if item["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            lines.append(f"unknown key '{key}'{_did_you_mean(str(location[-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"'{key}' is missing")
        elif item["type"] == "value_error":
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(
                f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]}, not {item['input']!r}"
            )
    return ConfigError(f"{where}: " + "; ".join(lines) + ".")


def parse_config(values: Mapping[str, Any], *, where: str = "config") -> RunConfig:
    """Check plain values against :class:`RunConfig`.

    Raises:
        ConfigError: with every problem in one message.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where) from None


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {assignment!r} is not of the form a.b=c.", hint="Example: --set tune.epochs=20"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {assignment!r}: the value is not valid YAML.") from None
    target: dict[str, Any] = values
    *parents, last = key.strip().split(".")
    for parent in parents:
        below: Any = target.setdefault(parent, {})
        if below is None:
            below = target[parent] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"--set {assignment!r}: '{parent}' has no settings below it.")
        target = below
    target[last] = value


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Paths in a config file are relative to that file when such a file exists there."""

    def resolve(value: Any) -> Any:
        if isinstance(value, str) and ":" not in value:
            beside = (folder / value).expanduser()
            if beside.exists() and not Path(value).is_absolute():
                return str(beside)
        return value

    def section(name: str) -> dict[str, Any]:
        found = values.get(name)
        return found if isinstance(found, dict) else {}

    for name, keys in {
        "data": ("source", "corpus", "queries"),
        "llm": ("name",),
        "train": ("start",),
        "tune": ("adapter",),
    }.items():
        inside = section(name)
        for key in keys:
            if key in inside:
                inside[key] = resolve(inside[key])
    for files in (section("data").get("qrels"), values.get("weak_queries")):
        if isinstance(files, dict):
            for key in files:
                files[key] = resolve(files[key])


def load_config(path: str | Path, assignments: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``a.b=c`` assignments to it.

    Relative paths in the file are looked for beside the file first, then in the current folder.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no config file {path}.",
            hint="configs/your_own_data.yaml in the repository is a commented one to start from.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "the text cannot be parsed"
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}.") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a table of sections, not a {type(values).__name__}."
        )
    for assignment in assignments:
        _assign(values, assignment)
    _resolve_paths(values, path.parent)
    return parse_config(values, where=str(path))
