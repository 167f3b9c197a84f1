"""Encoding against the plain library, exact search against faiss.

    python benchmarks/encode_and_search.py --encoder my-encoder --threads 1

Encoding: every variant encodes the same texts in each round; the first is
``SentenceTransformer.encode`` as it comes, and vectors are compared with those it gives.
Search: each method answers in a process of its own, which measures its peak memory. faiss
(``pip install faiss-cpu``) holds all vectors; sptar reads them from the files in which it keeps
them. Where faiss cannot be imported, only sptar is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 50_000


def texts_of_mixed_lengths(count: int, seed: int) -> list[str]:
    """Texts of 10 to 250 words; a word's frequency falls with its rank."""
    from random_model import random_words

    draw = random.Random(seed)
    words = random_words(4000, seed=1)
    weights = [1 / (rank + 5) for rank in range(len(words))]
    return [" ".join(draw.choices(words, weights, k=draw.randint(10, 250))) for _ in range(count)]


def random_encoder(
    folder: Path, texts: list[str], *, width: int = 384, layers: int = 6, vocabulary: int = 30_522
) -> Path:
    """A BERT with random weights, by default of all-MiniLM-L6-v2's size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        **{f"{name}_token": token for name, token in names.items()},
    ).save_pretrained(folder)
    BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            intermediate_size=4 * width,
        )
    ).save_pretrained(folder)
    return folder


def measure_encoding(options: argparse.Namespace) -> dict[str, Any]:
    """Documents each second of every variant."""
    import torch
    from machine import as_record, spread

    import sptar.retrieval.dense.encoder as encoding
    from sptar.config import TrainConfig
    from sptar.tensors.products import PackedLayers

    texts = texts_of_mixed_lengths(options.texts, options.seed)
    with tempfile.TemporaryDirectory() as name:
        start = options.encoder or str(random_encoder(Path(name), texts))
        config = TrainConfig(start=start, encode_batch_size=options.batch_size, device="cpu")
        rough_config = config.model_copy(update={"encode_dtype": "bfloat16"})
        encoder = encoding.load_encoder(None, config)
        rough = encoding.load_encoder(None, rough_config)

    def library() -> Any:
        return encoder.model.encode(
            texts,
            batch_size=options.batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )

    def library_packed() -> Any:
        with PackedLayers(encoder.model).in_use():
            return library()

    def library_bfloat16() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return library()

    def unpacked() -> Any:
        known, encoding._PACKED_FROM = encoding._PACKED_FROM, sys.maxsize
        try:
            return encoder.encode_texts(texts, "document")
        finally:
            encoding._PACKED_FROM = known

    variants: dict[str, Callable[[], Any]] = {
        "sentence-transformers": library,
        "sentence-transformers, packed weights": library_packed,
        "sptar's token budget, weights not packed": unpacked,
        "sptar": lambda: encoder.encode_texts(texts, "document"),
        "sentence-transformers, bfloat16 autocast": library_bfloat16,
        "sptar, encode_dtype: bfloat16": lambda: rough.encode_texts(texts, "document"),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    vectors: dict[str, Any] = {}
    kept, texts = texts, texts[: options.batch_size]
    for work in variants.values():
        work()  # warms up
    texts = kept
    for _ in range(options.rounds):
        for name, work in variants.items():
            begin = time.perf_counter()
            vectors[name] = work()
            rates[name].append(len(texts) / (time.perf_counter() - begin))
    base = "sentence-transformers"
    rows = []
    for name, found in rates.items():
        cosines = (vectors[name].astype(np.float64) * vectors[base]).sum(axis=1)
        rows.append(
            {
                "variant": name,
                "documents_per_second": as_record(spread(found)),
                "times_the_library": as_record(
                    spread([own / plain for own, plain in zip(found, rates[base], strict=True)])
                ),
                "largest_difference": float(np.abs(vectors[name] - vectors[base]).max()),
                "largest_cosine_distance": max(0.0, float(1 - cosines.min())),
            }
        )
    tokens = [len(ids) for ids in encoder.model.tokenizer(texts, truncation=True)["input_ids"]]
    return {
        "encoder": Path(options.encoder).name if options.encoder else "random, size of MiniLM",
        "texts": len(texts),
        "mean_tokens": round(float(np.mean(tokens)), 1),
        "batch_size": options.batch_size,
        "rows": rows,
    }


def write_vectors(folder: Path, count: int, queries: int, dimension: int, seed: int) -> None:
    """Random vectors of length 1: documents in blocks, queries in one file."""

    def directions(rows: int, stream: int) -> Any:
        generator = np.random.default_rng([seed, stream])
        drawn = generator.standard_normal((rows, dimension), dtype=np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    for number, first in enumerate(range(0, count, BLOCK), start=1):
        np.save(folder / f"block-{number:04d}.npy", directions(min(BLOCK, count - first), number))
    np.save(folder / "queries.npy", directions(queries, 0))


class NumberedIds:
    """Ids that name a position."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __contains__(self, doc_id: object) -> bool:
        return False

    def position(self, doc_id: str) -> int:
        """Position of an id."""
        return int(doc_id[1:])

    def doc_id(self, position: int) -> str:
        """Id at a position."""
        return f"d{position:09d}"


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    try:
        # The other figure begins with the size of the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def search_once(method: str, folder: Path, top_k: int, threads: int) -> None:
    """One search in this process; its answer goes to a file, its figures to standard output."""
    import torch

    torch.set_num_threads(threads)
    files = sorted(folder.glob("block-*.npy"))
    queries = np.load(folder / "queries.npy")
    count = sum(np.load(file, mmap_mode="r").shape[0] for file in files)
    before = peak_bytes()
    if method == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        before = peak_bytes()
        begin = time.perf_counter()
        flat = faiss.IndexFlatIP(queries.shape[1])
        for file in files:
            flat.add(np.load(file))
        prepared = time.perf_counter()
        _, found = flat.search(queries, top_k)
        done = time.perf_counter()
    else:
        from sptar.retrieval.dense.index import DenseIndex
        from sptar.types import Query

        asked = [Query(f"q{number}", "") for number in range(len(queries))]
        begin = time.perf_counter()
        ids = NumberedIds(count)
        index = DenseIndex(files, ids)
        prepared = time.perf_counter()
        run = index.search(queries, asked, top_k)
        done = time.perf_counter()
        found = np.array([[ids.position(doc) for doc in ranking] for ranking in run.values()])
    np.save(folder / f"found-{method}.npy", found)
    figures = {
        "prepare_seconds": prepared - begin,
        "search_seconds": done - prepared,
        "bytes_before": before,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(figures))


def measure_search(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, memory and answers of both methods, each in processes of its own."""
    from machine import as_record, spread

    methods = ["sptar"]
    if importlib.util.find_spec("faiss") is None:
        print("faiss: left out, it cannot be imported")
    else:
        methods.append("faiss")
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_vectors(folder, options.vectors, options.queries, options.dimension, options.seed)
        variables = {f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL")}
        environment = {**os.environ, **dict.fromkeys(variables, str(options.threads))}
        for _ in range(options.rounds):
            for method in methods:
                command = [sys.executable, __file__, "--only-search", method, "--folder", name]
                command += ["--top-k", str(options.top_k), "--threads", str(options.threads)]
                done = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                )
                seen[method].append(json.loads(done.stdout.splitlines()[-1]))
        answers = {method: np.load(folder / f"found-{method}.npy") for method in methods}
    rows = [
        {
            "method": method,
            "search_seconds": as_record(spread([one["search_seconds"] for one in figures])),
            "prepare_seconds": as_record(spread([one["prepare_seconds"] for one in figures])),
            "peak_mib": round(max(one["peak_bytes"] for one in figures) / 2**20),
            "peak_mib_above_the_imports": round(
                max(one["peak_bytes"] - one["bytes_before"] for one in figures) / 2**20
            ),
        }
        for method, figures in seen.items()
    ]
    result: dict[str, Any] = {
        "vectors": options.vectors,
        "dimension": options.dimension,
        "queries": options.queries,
        "top_k": options.top_k,
        "vectors_mib": round(options.vectors * options.dimension * 4 / 2**20),
        "rows": rows,
    }
    if "faiss" in answers:
        pairs = list(zip(answers["sptar"].tolist(), answers["faiss"].tolist(), strict=True))
        result["documents_that_only_one_found"] = sum(
            len(set(own) - set(other)) for own, other in pairs
        )
        result["queries_in_another_order"] = sum(own != other for own, other in pairs)
        result["faiss_takes_times"] = as_record(
            spread(
                [
                    other["search_seconds"] / own["search_seconds"]
                    for own, other in zip(seen["sptar"], seen["faiss"], strict=True)
                ]
            )
        )
    return result


def main() -> None:
    """Measure both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default=None, help="folder or hub name; default: random")
    parser.add_argument("--texts", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="where the vectors are kept meanwhile")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only", choices=("encoding", "search"), default=None)
    parser.add_argument("--only-search", choices=("sptar", "faiss"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_search is not None:
        search_once(options.only_search, Path(options.folder), options.top_k, options.threads)
        return
    import torch
    from machine import describe_machine

    from sptar.io import write_json

    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "benchmark": "encoding and exact search",
        "rounds": options.rounds,
        "machine": describe_machine(),
    }
    if options.only != "search":
        result["encoding"] = measure_encoding(options)
    if options.only != "encoding":
        result["search"] = measure_search(options)
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
