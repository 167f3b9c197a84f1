"""Every setting of a run, documented where it is declared.

A run is one YAML file (see ``configs/``). Unknown keys are refused with the nearest known one,
contradictions by both names. A field marked :func:`runtime` changes how fast something happens or
on what, never the result: such fields stay out of an artefact's fingerprint.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from sptar.address import address_problem, masked_address
from sptar.errors import ConfigError
from sptar.methods import METHODS, method_named
from sptar.packaged import FilePlace, PathMark, Place, is_remote
from sptar.plain_yaml import LARGEST_INTEGER, MOST_CHARACTERS, read_plain_yaml

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvaluateConfig",
    "FilterConfig",
    "LanguageModelConfig",
    "PromptConfig",
    "RunConfig",
    "SearchConfig",
    "SelectConfig",
    "SplitConfig",
    "TrainConfig",
    "TuneConfig",
    "did_you_mean",
    "differences",
    "dump_config",
    "load_config",
    "parse_config",
    "problems_of",
    "result_settings",
    "shown",
]


SharedIds: TypeAlias = Literal["auto", "same", "separate"]


def runtime(default: Any, description: str, **limits: Any) -> Any:
    """A field that never changes a result (batch sizes, devices, block sizes)."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"changes_results": False},
        **limits,
    )


AUTO_FORMAT = (
    "`auto` takes bfloat16 where this machine is clearly faster with it (1.5 times, tried for "
    "some tenths of a second) and float32 elsewhere; a work folder keeps what it has begun with"
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


def _texts(value: Any) -> str:
    """All text in a plain value, keys included, one after the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_texts(key) + _texts(inside) for key, inside in value.items())
    if isinstance(value, list | tuple):
        return "".join(map(_texts, value))
    return ""


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """What pydantic would turn into a number and a later step would stumble over."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        takes_bool = bool in (annotation, *get_args(annotation))
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool) and not takes_bool:
                raise ValueError(f"{str(item).lower()} is no value of this setting")
            if isinstance(item, int) and abs(item) > LARGEST_INTEGER:
                raise ValueError("the number is too large")
        if "\0" in _texts(value):
            raise ValueError("the character U+0000 may not stand in a text")
        return value


class DataConfig(Section):
    """Where the collection comes from. Either ``source`` or ``corpus`` is needed."""

    source: Place | None = Field(
        None,
        description="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv), `hf:NAME`, "
        "`ir:NAME`, or `starter:transport`, which lies inside the package.",
    )
    corpus: FilePlace | None = Field(
        None, description="A CSV, TSV, JSONL or Parquet file with one document a row."
    )
    queries: FilePlace | None = Field(
        None,
        description="A file with one query a row. May be left out when the files in `qrels` carry "
        "the query text themselves.",
    )
    qrels: dict[str, FilePlace] = Field(
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
    revision: str | None = Field(
        None,
        description="Revision of a Hugging Face data set; by default the commit that it has now, "
        "which is looked up and recorded.",
    )
    qrels_revision: str | None = added(
        None, "The same for its judgements, where these are a data set of their own (NAME-qrels)."
    )
    shared_ids: SharedIds = added(
        "auto",
        "What a document with a query's id is. `same`: the query itself, which is left out of its "
        "own results (collections whose queries are documents). `separate`: another thing, and the "
        "ids merely coincide. `auto`: separate where such a document is judged relevant.",
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="`skip` leaves broken rows out, counts and reports them."
    )

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        known = ("doc_id", "title", "text", "query_id", "query", "score")
        for key in value:
            if key not in known:
                raise ValueError(f"unknown column '{key}'{did_you_mean(key, known)}")
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
    carve_test_queries: int = added(
        0,
        "With `carve_from`: how many queries are the test; they stay the same when the sizes of "
        "the other roles change, and what is left over has no role. 0: all that is left.",
        ge=0,
    )
    group_pattern: str | None = Field(
        None,
        description="With `carve_from`: a regular expression whose first group names the group of "
        "a query id; the queries of one group get the same role, e.g. `^([^_]+)_`.",
    )
    augment_from: Literal["unjudged", "not_evaluated", "all"] = Field(
        "unjudged",
        description="Documents that may get a weak query. `unjudged`: those that no split's qrels "
        "name. `not_evaluated`: all but those judged for a dev, S_eval or test query. `all`: every "
        "document; weak queries that equal a test query are dropped all the same.",
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
            except (re.error, OverflowError, RecursionError) as error:
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
            if self.carve_test_queries:
                raise ValueError(
                    "`carve_test_queries` works only with `carve_from`: name the split that is "
                    "dealt out there, or leave `carve_test_queries` out"
                )
        elif self.mode == "paper" and not self.carve_dev_queries:
            raise ValueError("mode `paper` with `carve_from` needs `carve_dev_queries` above 0")
        return self


class LanguageModelConfig(Section):
    """The frozen LLM: a folder, or a name on the Hugging Face hub."""

    name: Place = Field(
        ...,
        description="Folder or hub name of a causal language model, or `starter:language-model`, "
        "which lies inside the package.",
    )
    revision: str | None = Field(None, description="Hub revision.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Number format of the weights. float32 is token-exact: texts depend neither "
        f"on the batch nor on the machine, but for near ties. {AUTO_FORMAT}.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only if you trust it."
    )
    device: str = runtime("auto", "`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")
    backend: Literal["transformers", "vllm", "openai"] = added(
        "transformers",
        "Who writes the weak queries. `vllm`: a vLLM server, with the soft prompt (tuning and "
        "selection stay here). `openai`: any server with that interface, with hard prompts only.",
    )
    interface: Literal["completions", "chat"] = added(
        "completions", "How an `openai` server is asked; hosted services often know only `chat`."
    )
    export: FilePlace | None = runtime(
        None,
        "For `vllm`: the folder that `sptar export soft-prompt --as-vocabulary` wrote and the "
        "server has loaded; without it prompt embeddings are sent.",
    )
    served_name: str | None = runtime(
        None, "Name under which the server knows the model; by default `export` or `name`."
    )
    base_url: str | None = runtime(
        None,
        "Address of the server, up to `/v1`. A user, a password and the values of a query in it "
        "are masked in whatever is written.",
        repr=False,
    )
    api_key_variable: str = runtime(
        "OPENAI_API_KEY", "Environment variable that holds the server's key, if it wants one."
    )
    concurrency: int = runtime(8, "Requests to the server under way at once.", ge=1)
    timeout: float = runtime(
        600.0,
        "Seconds that one answer of the server may take, from the request to its last byte.",
        gt=0,
        le=86_400,
    )

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        problem = None if value is None else address_problem(value)
        if problem is not None:
            raise ValueError(
                f"this is no address of a server: {problem}; give one such as "
                "http://127.0.0.1:8000/v1"
            )
        return value

    @field_validator("api_key_variable")
    @classmethod
    def _a_name(cls, value: str) -> str:
        long = len(value) >= 20 and any(c.islower() for c in value)
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value) or (
            long and any(c.isdigit() for c in value)
        ):
            raise ValueError(
                "this is the name of an environment variable, such as OPENAI_API_KEY, never the "
                "key itself"
            )
        return value

    @field_serializer("base_url")
    def _without_secrets(self, value: str | None) -> str | None:
        return None if value is None else masked_address(value)

    @model_validator(mode="after")
    def _one_engine(self) -> LanguageModelConfig:
        if self.backend == "vllm" and self.interface == "chat":
            raise ValueError(
                "`backend: vllm` and `interface: chat` contradict each other: a soft prompt is no "
                "message"
            )
        return self


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
    max_query_tokens: int | None = Field(
        None,
        ge=1,
        description="Token budget of a query in training and in the examples. By default the "
        "length of the longest query of S_train and S_eval, as far as the model's context goes.",
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
    pairs_per_query: int | None = added(
        4,
        "How many of a labelled query's relevant documents, drawn by seed, make pairs for tuning "
        "and for choosing the examples; `null`: all. Where queries have dozens of them, tuning "
        "would take days and read the same few queries again and again.",
        ge=1,
    )
    lora_learning_rate: float = Field(
        3e-4, gt=0, description="In place of `learning_rate`, for LoRA."
    )
    lora_rank: int = Field(8, ge=1, description="Rank of LoRA's update.")
    lora_alpha: float = Field(16.0, gt=0, description="Scale of LoRA's update.")
    lora_target_modules: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="Modules that LoRA changes."
    )
    adapter: FilePlace | None = Field(
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
    search: Literal["exhaustive", "halving"] = added(
        "exhaustive",
        "`exhaustive` scores every group on all pairs of S_eval. `halving` scores all groups on "
        "a few pairs, the better half of them on twice as many, and so on: a fraction of the work, "
        "and not always the same choice.",
    )
    halving_pairs: int = added(
        16, "Pairs of S_eval in the first round; only for `search: halving`.", ge=1
    )
    batch_size: int = runtime(16, "Pairs scored together.", ge=1)

    @field_validator("groups")
    @classmethod
    def _one_at_least(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("a number of groups is 1 or more")
        return value

    @model_validator(mode="after")
    def _worst_needs_all(self) -> SelectConfig:
        if self.choice == "worst" and self.search == "halving":
            raise ValueError(
                "`choice: worst` and `search: halving` contradict each other: halving drops bad "
                "groups early and does not find the worst; set `search: exhaustive`"
            )
        return self


class AugmentConfig(Section):
    """Soft prompt augmentor: one weak query for each document."""

    decoding: Literal["greedy", "sample"] = Field(
        "sample",
        description="`sample` draws at `temperature`, with one random stream for each (seed, "
        "document, number, attempt); `greedy` takes the likeliest token, as the published code "
        "in effect does.",
    )
    temperature: float = Field(0.7, gt=0, description="Only for `sample`.")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Token budget of a generated query. By default twice the length of the longest "
        "query of S_train and S_eval, 32 at least.",
    )
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
        True,
        description="Drop weak queries that equal a test query (case, spaces and punctuation "
        "aside).",
    )
    max_copied_share: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Drop a query of 12 words or more when it copies the document: the longest "
        "run of words shared with it is at least this share of the query.",
    )
    drop_unfinished: bool = added(
        True, "Drop queries whose answer ran into `augment.max_new_tokens` before its end."
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

    retriever: str = Field(
        "dpr",
        description="Row of the table of retrievers (`retrieval/specs.py`). What is not set here "
        "takes the value of that row; the defaults named here are those of `dpr`.",
    )
    start: Place = Field(
        "google-bert/bert-base-uncased",
        description="Folder or hub name of the start encoder, or `starter:encoder`, which lies "
        "inside the package.",
    )
    query_start: Place | None = Field(
        None,
        description="With separate towers: folder or hub name of the query encoder's start, where "
        "it is another one.",
    )
    revision: str | None = Field(None, description="Hub revision of the start encoder.")
    trust_remote_code: bool = Field(False, description="As for the LLM.")
    towers: Literal["shared", "separate"] = added(
        "shared", "One encoder for queries and documents, or one for each."
    )
    pooling: Literal["mean", "cls", "last"] = Field(
        "mean", description="For a start that has none."
    )
    max_tokens: int = Field(350, ge=8, description="Tokens of a document or query that are read.")
    max_query_tokens: int | None = added(
        None, "Tokens of a query that are read, where it is another number.", ge=4
    )
    query_prompt: str = Field("", description="Text in front of every query.")
    document_prompt: str = Field("", description="Text in front of every document.")
    scale: float = Field(20.0, gt=0, description="Factor on the similarity in the softmax.")
    batch_size: int = Field(32, ge=2, description="Pairs in a batch: in-batch negatives.")
    micro_batch_size: int | None = added(
        None,
        "Cached loss: embed so many texts at once and still take all pairs of the batch as "
        "negatives; needs the memory of a small batch and about a third more time.",
        ge=1,
    )
    epochs: int = Field(20, ge=1, description="Epochs: after each the retriever is tried on dev.")
    steps_per_epoch: Annotated[int, Field(ge=1)] | Literal["auto", "pass"] = Field(
        "auto",
        description="Batches of an epoch. `auto`: as many as a pass over the labels and over every "
        "weak query that could be kept would take, so that all methods train equally long; small "
        "training sets are passed several times. A number: that many. `pass`: one pass over the "
        "method's own pairs; the fewer a method has, the shorter it trains.",
    )
    learning_rate: float = Field(2e-5, gt=0, description="AdamW.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop after so many epochs without gain on dev; methods may then take "
        "different numbers of steps. By default none stops early.",
    )
    dev_negatives: int = Field(
        20, ge=0, description="Documents added to the reduced dev corpus for each labelled one."
    )
    keep: Literal["best", "best_or_start"] = Field(
        "best_or_start",
        description="`best_or_start` keeps the untrained start when no epoch beats it on dev; "
        "`best` always keeps an epoch. A cross-encoder's start cannot rank and is never kept.",
    )
    negatives: Literal["none", "random", "bm25", "dense"] = added(
        "none",
        "Where each pair's hard negatives come from: drawn from the corpus, from BM25's ranking "
        "or from the start encoder's. Documents known to answer the query are never taken.",
    )
    negatives_per_pair: int = added(1, "Hard negatives of each pair.", ge=1)
    mine_depth: int = added(100, "Negatives are drawn from so many best documents.", ge=1)
    mine_skip: int = added(0, "The best so many documents are left out: likely answers.", ge=0)
    mine_margin: float = added(
        0.05,
        "A document is no negative when its score is above (1 - margin) times that of the "
        "pair's own document: it may be an unlabelled answer.",
        ge=0,
        lt=1,
    )
    teacher: Place = added(
        "own",
        "Cross-encoder whose margins the student learns (tas_b): `own` trains one on the same "
        "pairs; a folder or hub name brings supervision from elsewhere.",
    )
    in_batch_teacher: Place = added(
        "own", "Late-interaction teacher of the other pairs of a batch; `none` for none."
    )
    in_batch_weight: float = added(0.75, "Weight of the in-batch teacher's loss.", ge=0)
    topics: int | None = added(
        None, "Clusters of queries; by default one for every two batches.", ge=1
    )
    margin_bins: int = added(10, "Bins of teacher margins that a batch draws from evenly.", ge=1)
    token_dimension: int = added(128, "Length of a token vector in late interaction.", ge=1)
    lora_rank: int = added(16, "Rank of the update of a bi-encoder trained by LoRA.", ge=1)
    lora_alpha: float = added(32.0, "Scale of that update.", gt=0)
    query_sparsity: float = added(
        5e-5, "Weight of the FLOPS regulariser on query vectors (splade).", ge=0
    )
    document_sparsity: float = added(
        3e-5, "Weight of the FLOPS regulariser on document vectors (splade).", ge=0
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="Number format of the products in training; the weights are float32. "
        f"{AUTO_FORMAT}.",
    )
    encode_dtype: Literal["auto", "float32", "bfloat16"] = added(
        "float32",
        "Number format in which a trained or start bi-encoder computes its vectors; bfloat16 moves "
        f"them by about 0.01 % in cosine. {AUTO_FORMAT}.",
    )
    device: str = runtime("auto", "As for the LLM.")
    processes: int = runtime(
        1,
        "Training processes of this machine, one for each GPU, through torchrun. Negatives span "
        "them all. With `micro_batch_size` the result is that of one process up to rounding; "
        "without it dropout draws other numbers, as with another seed.",
        ge=1,
    )
    encode_batch_size: int = runtime(32, "Texts encoded together.", ge=1)
    encode_block_size: int = runtime(4096, "Documents in one block of vectors.", ge=1)

    @model_validator(mode="after")
    def _mining_fits(self) -> TrainConfig:
        if self.mine_skip >= self.mine_depth:
            raise ValueError(
                f"`mine_skip` ({self.mine_skip}) and `mine_depth` ({self.mine_depth}) contradict "
                "each other: nothing is left between them"
            )
        if self.query_start is not None and self.towers == "shared":
            raise ValueError(
                "`query_start` and `towers: shared` contradict each other: set `towers: separate`"
            )
        return self


class SearchConfig(Section):
    """How trained retrievers answer queries."""

    rerank_depth: int = Field(
        1000, ge=1, description="BM25's best so many documents are reranked (bm25ce, bm25dpr)."
    )
    late_candidates: Literal["all", "bm25"] = Field(
        "all",
        description="Late interaction compares a query with every document, or only with BM25's "
        "best: for large corpora.",
    )
    late_candidate_depth: int = Field(1000, ge=1, description="How many of BM25's best.")
    fusion: Literal["rrf", "score"] = Field(
        "rrf",
        description="How `A+B` joins two runs: by reciprocal ranks, or by scores brought to 0 … 1 "
        "for each query.",
    )
    fusion_k: int = Field(60, ge=1, description="Constant of reciprocal rank fusion.")
    fusion_weight: float = Field(
        0.5, ge=0, le=1, description="Weight of the first run's score; the second has the rest."
    )


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
    bootstrap_samples: int = Field(
        10_000, ge=100, le=1_000_000, description="For the 95 % intervals."
    )


class RunConfig(Section):
    """One whole experiment."""

    name: str = Field(
        "run",
        description="Name of the run in the workspace: letters, digits, `_`, `.` and `-`, of which "
        "the last two do not come first.",
    )
    seed: int = Field(42, ge=0, description="Seed of everything that has none of its own.")
    note: str | None = Field(
        None, description="A sentence for the top of the report, such as a warning."
    )
    methods: list[str] = Field(
        [row.name for row in METHODS.values() if row.by_default],
        min_length=1,
        description=f"Of {', '.join(METHODS)}.",
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
    retrievers: list[str] = Field(
        default_factory=list,
        description="Rows of the table of retrievers that each method trains, and fusions such as "
        "`bm25+dpr`; by default the one of `train.retriever`.",
    )
    recipes: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Retriever → settings of `train` that differ for it.",
    )
    search: SearchConfig = Field(default_factory=SearchConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    equal_pairs: bool = Field(
        False,
        description="Give every method that augments the same number of weak pairs: the smallest "
        "number that any of them kept, sampled by seed.",
    )
    weak_queries: dict[str, FilePlace] = Field(
        default_factory=dict,
        description="Method → JSONL file with weak queries made elsewhere; they enter at the "
        "filter. A name that is no known method becomes a method of its own.",
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", value) or len(value.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"{shown(value)} is no name of a run: it begins with a letter, a digit or `_`, "
                f"goes on with these, `.` and `-`, and takes {_LONGEST_NAME} bytes at most"
            )
        return value

    @field_validator("retrievers")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        for number, name in enumerate(value):
            if name in value[:number]:
                raise ValueError(f"'{name}' is named twice")
            parts = name.split("+")
            if len(parts) > 2 or not all(parts):
                raise ValueError(f"'{name}' is neither a retriever nor a fusion `A+B` of two")
            if len(parts) == 2 and parts[0] == parts[1]:
                raise ValueError(f"'{name}' joins a retriever with itself")
            if name == "bm25":
                raise ValueError("'bm25' trains nothing: it is one of the `methods`")
        return value

    @field_validator("recipes")
    @classmethod
    def _known_settings(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        # The values themselves are checked against the retriever's row, with what it brings along.
        known = [name for name in TrainConfig.model_fields if name != "retriever"]
        for retriever, settings in value.items():
            for key in settings:
                if key not in known:
                    near = did_you_mean(key, known)
                    raise ValueError(f"unknown setting '{retriever}.{key}'{near}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        known = (*METHODS, *self.weak_queries)
        for method in self.methods:
            if method not in known:
                raise ValueError(f"unknown method '{method}'{did_you_mean(method, known)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is named twice in `methods`")
        for method in self.weak_queries:
            if not method_named(method).takes_weak_queries:
                raise ValueError(f"method '{method}' takes no weak queries")
            if not re.fullmatch(r"\w[\w.-]*", method):
                raise ValueError(f"'{method}' in `weak_queries` is not a plain name")
        writers = [
            method
            for method in self.methods
            if method_named(method).wording is not None and method not in self.weak_queries
        ]
        if writers and self.llm is None:
            raise ValueError(f"method '{writers[0]}' writes weak queries and needs `llm`")
        soft = next((method for method in writers if method_named(method).soft_prompt), None)
        if self.llm is not None and self.llm.backend == "openai" and soft is not None:
            hard = [row.name for row in METHODS.values() if row.wording and not row.soft_prompt]
            raise ValueError(
                f"method '{soft}' and `llm.backend: openai` contradict each other: a hosted model "
                "takes no soft prompt; serve the model with vLLM (`backend: vllm`), or use "
                + " or ".join(f"'{name}'" for name in hard)
            )
        if (
            writers
            and self.llm is not None
            and self.llm.backend == "openai"
            and self.llm.base_url is None
        ):
            raise ValueError(
                "`llm.backend: openai` needs `llm.base_url`: the address of its server, such as "
                "http://127.0.0.1:8000/v1"
            )
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
    """The settings of a section that change results, as plain JSON values.

    One that came later is left out at its default: artefacts from before it are still found.
    """
    kept = _result_values(section, leave_out=leave_out)
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("added_later") and kept.get(name) == field.default:
            kept.pop(name, None)
    return kept


def _result_values(section: BaseModel, *, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Every setting of a section but those that never change a result, as plain JSON values."""
    values = section.model_dump(mode="json")
    fields = type(section).model_fields
    return {
        name: value
        for name, value in values.items()
        if name not in leave_out
        and not (
            isinstance(extra := fields[name].json_schema_extra, dict)
            and extra.get("changes_results") is False
        )
    }


def differences(first: RunConfig, second: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that change results and differ: dotted name → both values, None where not set."""

    def flat(config: RunConfig) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in type(config).model_fields:
            value = getattr(config, name)
            if isinstance(value, BaseModel):
                # What is not set in `train` takes the value of the retriever's row.
                unset = set(type(value).model_fields) - value.model_fields_set
                settings = _result_values(value, leave_out=unset if name == "train" else ())
                found |= {f"{name}.{key}": own for key, own in settings.items()}
            elif name not in ("name", "note"):
                found[name] = value
        return found

    one, other = flat(first), flat(second)
    return {
        name: (one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    }


def _section_of(name: str) -> type[BaseModel] | None:
    """The section under a key of a config."""
    field = RunConfig.model_fields.get(name)
    for candidate in () if field is None else (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def dump_config(config: RunConfig) -> dict[str, Any]:
    """All settings as plain JSON values; :func:`parse_config` makes the same config of them.

    Of ``train`` only what was set is written: what was not set takes the value of the retriever's
    row, which a default written out would hide.
    """
    values: dict[str, Any] = config.model_dump(mode="json")
    values["train"] = config.train.model_dump(mode="json", exclude_unset=True)
    return values


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown word, with its mark: the nearest known one, else all.

    >>> did_you_mean("epoch", ["epochs", "seed"]), did_you_mean("x", ["epochs", "seed"])
    ("; did you mean 'epochs'?", '; known are: epochs, seed.')
    """
    near = difflib.get_close_matches(word[:_SHOWN], known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known are: {', '.join(known)}."


def _known_keys(location: Sequence[int | str]) -> list[str]:
    section = RunConfig if not location else _section_of(str(location[0]))
    return [] if section is None else list(section.model_fields)


_SHOWN = 60
_MOST_PROBLEMS = 12
_LONGEST_NAME = 150
"""Bytes of a run's name: file systems end at 255, and other words are put behind it."""

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _SHOWN
_shortened.maxlist = _shortened.maxdict = _shortened.maxlevel = 3


def shown(value: Any) -> str:
    """A value as a message shows it: at most a line of it."""
    try:
        return _shortened.repr(value)
    except ValueError:  # a whole number of thousands of digits has no text
        return "such a number"


def problems_of(error: ValidationError) -> str:
    """Every problem of a section or config in one sentence, each behind its key."""
    lines: list[str] = []
    for item in error.errors():
        location = [str(part)[:_SHOWN] for part in item["loc"]]
        key = ".".join(location) or "the config"
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            lines.append(f"unknown key '{key}'{did_you_mean(location[-1], known)}")
        elif item["type"] == "missing":
            lines.append(f"'{key}' is missing")
        elif item["type"] == "value_error":
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}")
        elif item["type"] in ("model_type", "dict_type", "model_attributes_type"):
            lines.append(f"{key}: a table of settings is needed, not {shown(item['input'])}")
        else:
            lines.append(
                f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]}, not {shown(item['input'])}"
            )
    if len(lines) > _MOST_PROBLEMS:
        more = len(lines) - _MOST_PROBLEMS
        lines = [*lines[:_MOST_PROBLEMS], f"and {more:,} more problems"]
    text = "; ".join(line.removesuffix(".") for line in lines)
    return text if text.endswith("?") else f"{text}."


def parse_config(values: Mapping[str, Any], *, where: str = "config") -> RunConfig:
    """Check plain values against :class:`RunConfig`.

    Raises:
        ConfigError: with every problem in one message.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {problems_of(error)}") from None


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {shown(assignment)} is not of the form a.b=c.",
            hint="Example: --set tune.epochs=20",
        )
    value = read_plain_yaml(text, f"--set {shown(assignment)}", lines=False)
    target: dict[str, Any] = values
    *parents, last = key.strip().split(".")
    for parent in parents:
        below: Any = target.setdefault(parent, {})
        if below is None:
            below = target[parent] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"--set {shown(assignment)}: '{parent}' has no settings below it.")
        target = below
    target[last] = value


def _holds_path(annotation: Any) -> bool:
    """Whether a setting of this type names a file, a folder or a model."""
    marks = getattr(annotation, "__metadata__", ())
    return any(isinstance(mark, PathMark) for mark in marks) or any(
        _holds_path(inside) for inside in get_args(annotation)
    )


def _path_settings(section: type[BaseModel]) -> list[str]:
    return [
        name
        for name, field in section.model_fields.items()
        if any(isinstance(mark, PathMark) for mark in field.metadata)
        or _holds_path(field.annotation)
    ]


_TEACHER_WORDS = {"teacher": ("own",), "in_batch_teacher": ("own", "none")}
"""What may stand there instead of a folder or hub name."""


def _beside(values: dict[str, Any], folder: Path) -> None:
    """Paths in a config file are relative to that file when such a file exists there."""

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolve(inside) for key, inside in value.items()}
        if not isinstance(value, str) or not value or "\0" in value or value.startswith("~"):
            return value
        kind, name = ("hf:", value[3:]) if value.startswith("hf:") else ("", value)
        if is_remote(value) and not kind:
            return value
        beside = folder / name
        if name and not Path(name).is_absolute() and beside.exists():
            return f"{kind}{beside}"
        return value

    def resolve_in(inside: Any, model: type[BaseModel]) -> None:
        if not isinstance(inside, dict):
            return
        for key in _path_settings(model):
            if key in inside and inside[key] not in _TEACHER_WORDS.get(key, ()):
                inside[key] = resolve(inside[key])

    resolve_in(values, RunConfig)
    for name in RunConfig.model_fields:
        section = _section_of(name)
        if section is not None:
            resolve_in(values.get(name), section)
    recipes = values.get("recipes")
    for recipe in recipes.values() if isinstance(recipes, dict) else ():
        resolve_in(recipe, TrainConfig)


def load_config(path: str | Path, assignments: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``a.b=c`` assignments to it.

    Relative paths in the file are looked for beside the file first, then in the current folder;
    those in assignments in the current folder alone.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    path = Path(path).expanduser()
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no config file {path}.",
            hint="configs/your_own_data.yaml in the repository is a commented one to start from.",
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a config is a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    values = read_plain_yaml(text, str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a table of sections, not a {type(values).__name__}."
        )
    _beside(values, path.parent)
    for assignment in assignments:
        _assign(values, assignment)
    return parse_config(values, where=str(path))
