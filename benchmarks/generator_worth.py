"""What a generator's weak queries are worth to a retriever, beside other generators'.

    python benchmarks/generator_worth.py --start FOLDER --work WORK \
        --generator doc2query-v0=../shared/models/doc2query-v0 --generator NAME=FOLDER \
        --imported llama7b=../shared/data/msmarco_mini/weak_llama7b/x500.jsonl

On msmarco_mini of ../shared/data: every generator writes one query for each of the same unlabelled
passages, behind one labelled example (or as many as ``--examples NAME=N`` says: some models copy
the only one that they see) and without a soft prompt; published queries stand beside them. Only
passages whose query the weak data filter keeps **from every one of them** count: so many pairs, for
the same documents, go with the labels into the training of a static-embedding retriever, once for
each generator and once without any, for as many steps. FOLDER is the encoder whose token table that
retriever starts from (all-MiniLM-L6-v2). Trainings differ by seed; split, documents and examples do
not. Scores are means over the seeds query by query; tests go over queries and are one Holm family.

The learning rate is below the retriever's default: a thousand pairs are learned by heart in one
epoch at 1e-2, and the dev score falls from there.

Artefacts that are in WORK already are reused: queries of an unchanged generator are not written
again. Another generator changes which documents are common to all, so all are trained anew.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe_machine

if TYPE_CHECKING:
    from sptar.evaluation.across import SeedMeans
    from sptar.evaluation.comparison import Contest
    from sptar.evaluation.family import FamilyComparison
    from sptar.pipeline import RunRecord
    from sptar.steps.base import Context

SHARED = Path(__file__).resolve().parents[2] / "shared"
LABELS_ONLY = "no_augmentation"
WRITES = "inpars"
"""The pipeline's method with labelled examples in the prompt and no soft prompt."""
MEASURES = ["nDCG@10", "R@100"]
SEED = 42
# The labels of train and of 100 dev queries are trained, the other dev queries choose.
SPLIT = {"mode": "paper", "train_queries": 49, "eval_queries": 100, "eval_from": "dev"}
RECORDED = (
    "documents",
    "examples",
    "decoding",
    "dtype",
    "learning_rate",
    "epochs",
    "steps",
    "seeds",
)
SHOWN = 12


@dataclass(frozen=True)
class Source:
    """Where weak queries come from: a language model's folder, or a file of written ones."""

    name: str
    place: Path
    writes: bool


@dataclass(frozen=True)
class Kept:
    """A source's queries that the filter kept.

    Attributes:
        queries: document → query.
        funnel: reason → number of queries, kept ones among them.
        written: number of queries before the filter.
        identity: of the language model or the file, by its content.
    """

    queries: Mapping[str, str]
    funnel: Mapping[str, int]
    written: int
    identity: str


def parse_source(text: str, *, writes: bool) -> Source:
    """``NAME=PLACE``.

    Raises:
        ValueError: it is not of this form, or the name is none that a method of a run can have.
    """
    name, equals, place = text.partition("=")
    if not equals or not place or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{text!r} is not NAME=PLACE with a plain name")
    if name in ("bm25", "zero_shot", LABELS_ONLY):
        raise ValueError(f"{name!r} is the name of a method that takes no weak queries")
    return Source(name, Path(place), writes)


def parse_examples(text: str) -> tuple[str, int]:
    """``NAME=N``.

    Raises:
        ValueError: it is not of this form, or N is less than 1.
    """
    name, equals, number = text.partition("=")
    if not name or not equals or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{text!r} is not NAME=N with N of at least 1")
    return name, int(number)


def common_documents(kept: Iterable[Collection[str]], pairs: int, seed: int) -> list[str]:
    """Documents that are in every collection, by id; of more than ``pairs`` a seeded sample."""
    first, *others = kept
    common = sorted(set(first).intersection(*others))
    if len(common) > pairs:
        common = sorted(random.Random(f"{seed}/common documents").sample(common, pairs))
    return common


def restricted(queries: Mapping[str, str], documents: Sequence[str]) -> list[dict[str, str]]:
    """Rows for these documents in their order, as the step ``import_weak`` reads them."""
    return [{"query_id": doc_id, "doc_id": doc_id, "text": queries[doc_id]} for doc_id in documents]


def contests(names: Sequence[str]) -> list[Contest]:
    """Every source against labels only and each source named before it: each two of them once."""
    from sptar.evaluation.comparison import Contest

    return [Contest(name, (LABELS_ONLY, *names[:position])) for position, name in enumerate(names)]


def shared_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What writing, filter and training have in common."""
    return {
        "seed": SEED,
        "data": {"source": str(options.collection)},
        "split": {**SPLIT, "seed": SEED, "max_documents": options.documents},
        "filter": {"k": 30},
    }


def writing(source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """The config of a source up to the filter."""
    values = shared_settings(options) | {"name": f"worth_write_{source.name}"}
    if not source.writes:
        files = {source.name: str(source.place)}
        return values | {"methods": [source.name], "weak_queries": files}
    examples = options.examples.get(source.name, 1)
    if examples > 1:
        # Pairs can be tried one by one, larger groups are sampled; without tuning one is drawn.
        values["select"] = {"groups": 4}
    return values | {
        "methods": [WRITES],
        "llm": {"name": str(source.place), "dtype": options.dtype},
        "prompt": {"examples": examples, "max_document_tokens": 160, "max_query_tokens": 40},
        "augment": {"decoding": options.decoding, "max_new_tokens": 32, "block_size": 256},
    }


def training(files: Mapping[str, Path], options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The config of the trainings of one seed."""
    return shared_settings(options) | {
        "name": f"worth_train_{seed}",
        "seed": seed,
        "methods": [LABELS_ONLY, *files],
        "weak_queries": {name: str(file) for name, file in files.items()},
        "retrievers": ["static"],
        "train": {
            "start": str(options.start),
            "learning_rate": options.learning_rate,
            "epochs": options.epochs,
            "steps_per_epoch": options.steps,
            "dev_negatives": 5,
        },
        "evaluate": {"top_k": 100, "measures": MEASURES},
    }


def filtered(source: Source, options: argparse.Namespace, context: Context) -> Kept:
    """Have the queries written (or read), ranked and filtered, and return the kept ones."""
    from sptar.config import parse_config
    from sptar.io import read_jsonl
    from sptar.pipeline import run

    config = parse_config(writing(source, options))
    graph, record = run(config, context, until=["filter"])
    method = graph.method(config.methods[0])
    decisions = record.artefact(context.workspace, method.name, "filter")
    rows = [row for _, row in read_jsonl(decisions.path("decisions.jsonl"))]
    assert method.weak is not None
    return Kept(
        {row["doc_id"]: row["text"] for row in rows if row["kept"]},
        decisions.manifest.summary["funnel"],
        len(rows),
        method.weak.settings["llm" if source.writes else "content"],
    )


def histories(record: RunRecord, pairs: int, context: Context) -> dict[str, Any]:
    """Method → what its training was; every source's must have had all its pairs."""
    wanted = ("pairs", "steps", "start_dev_score", "best_dev_score", "best_epoch")
    found = {}
    for method in record.methods:
        weak = record.artefact(context.workspace, method, "pairs").manifest.summary["weak"]
        assert weak == (0 if method == LABELS_ONLY else pairs), f"{method} lost some: {weak}"
        manifest = record.artefact(context.workspace, method, "train").manifest
        found[method] = {key: manifest.summary[key] for key in wanted}
    return found


def figures(means: SeedMeans, family: FamilyComparison) -> dict[str, Any]:
    """Means, their spread over the seeds, and all tests, printed and as plain values."""
    rows = {}
    print(f"\n| queries of | {' | '.join(MEASURES)} |\n|---|{'---:|' * len(MEASURES)}")
    for name, scores in means.scores.items():
        rows[name] = {
            measure: {"mean": scores.mean(measure), "sd_over_seeds": spread}
            for measure, spread in zip(MEASURES, means.spread[name], strict=True)
        }
        cells = (f"{r['mean']:.4f} ± {r['sd_over_seeds'] or 0:.4f}" for r in rows[name].values())
        print(f"| {name} | {' | '.join(cells)} |")
    tests = []
    for item in family.comparisons:
        for test in item.differences:
            tests.append({"system": item.target, **asdict(test), "measure": str(test.measure)})
            print(
                f"- {item.target} minus {test.other}, {test.measure}: {test.difference:+.4f} "
                f"({test.low:+.4f} to {test.high:+.4f}; corrected p = {test.p_holm:.2g})"
            )
    return {"systems": rows, "notes": list(means.notes), "tests": tests}


def main() -> None:
    """Write, filter, train, compare; keep the figures."""
    options = arguments()

    from sptar.cli.output import TerminalProgress
    from sptar.config import parse_config
    from sptar.evaluation.across import mean_over_seeds
    from sptar.evaluation.family import compare_family
    from sptar.evaluation.systems import parse_system
    from sptar.io import write_json, write_jsonl
    from sptar.pipeline import run
    from sptar.report.runs import RunPlace, read_run
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    sources: list[Source] = [*options.generator, *options.imported]
    names = [source.name for source in sources]
    assert len(set(names)) == len(names) > 0, "give sources, each with a name of its own"
    options.examples = dict(options.examples)
    generators = {source.name for source in options.generator}
    assert options.examples.keys() <= generators, "--examples is for names of --generator"
    context = Context(Workspace(options.work), TerminalProgress())
    kept = {source.name: filtered(source, options, context) for source in sources}
    documents = common_documents([own.queries for own in kept.values()], options.pairs, SEED)
    print(f"{len(documents)} documents; kept: {[(n, len(k.queries)) for n, k in kept.items()]}")
    files = {name: options.work / "common" / f"{name}.jsonl" for name in names}
    for name, file in files.items():
        write_jsonl(file, restricted(kept[name].queries, documents))
    by_seed, trainings = {}, {}
    for seed in options.seeds:
        config = parse_config(training(files, options, seed))
        graph, record = run(config, context)
        trained = graph.method(LABELS_ONLY).train
        assert trained is not None
        start = trained.settings["start"]
        trainings[str(seed)] = histories(record, len(documents), context)
        systems = read_run(RunPlace(options.work, config.name)).systems
        by_seed[seed] = {parse_system(name).row: scores for name, scores in systems.items()}
    means = mean_over_seeds(by_seed)
    family = compare_family(means.scores, contests(names), MEASURES)
    write_json(
        options.out,
        {
            "machine": describe_machine(),
            "settings": {key: getattr(options, key) for key in RECORDED},
            "start": start,
            "pairs": len(documents),
            "sources": {
                name: {
                    "identity": own.identity,
                    "written": own.written,
                    "kept": len(own.queries),
                    "funnel": dict(own.funnel),
                }
                for name, own in kept.items()
            },
            **figures(means, family),
            "trainings": trainings,
            "queries": {
                doc_id: {name: own.queries[doc_id] for name, own in kept.items()}
                for doc_id in documents[:SHOWN]
            },
        },
    )


def arguments() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    generator = partial(parse_source, writes=True)
    imported = partial(parse_source, writes=False)
    add("--start", type=Path, required=True, help="encoder whose token table is the start")
    add("--work", type=Path, required=True)
    add("--generator", type=generator, action="append", default=[], metavar="NAME=FOLDER")
    add("--imported", type=imported, action="append", default=[], metavar="NAME=FILE")
    add("--examples", type=parse_examples, action="append", default=[], metavar="NAME=N")
    add("--collection", type=Path, default=SHARED / "data" / "msmarco_mini")
    add("--documents", type=int, default=1500, help="passages to write for")
    add("--pairs", type=int, default=1059, help="at most so many common documents")
    add("--decoding", choices=["greedy", "sample"], default="greedy", help="sample: at 0.7")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the generators")
    add("--learning-rate", type=float, default=3e-4)
    add("--epochs", type=int, default=10)
    add("--steps", type=int, default=18, help="in an epoch, of every training")
    add("--seeds", type=int, nargs="+", default=[42, 43, 44])
    add("--out", type=Path, default=Path(__file__).parent / "results" / "generator_worth.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
