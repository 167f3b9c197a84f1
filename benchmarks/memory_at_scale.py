"""Peak memory of augmenting and filtering a large synthetic corpus, above that of the model.

    python benchmarks/memory_at_scale.py --documents 100000

The language model is tiny and has random weights: the question is what grows with the corpus.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import yaml

WORDS = 20_000


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_collection(folder: Path, documents: int, seed: int) -> None:
    """A BEIR folder of random words with a Zipf-like frequency."""
    draw = random.Random(seed)
    (folder / "qrels").mkdir(parents=True)
    vocabulary = [f"w{number:x}" for number in range(WORDS)]
    weights = [1.0 / (rank + 3) for rank in range(WORDS)]
    with (folder / "corpus.jsonl").open("w") as stream:
        for number in range(documents):
            text = " ".join(draw.choices(vocabulary, weights, k=draw.randint(40, 120)))
            stream.write(json.dumps({"_id": f"d{number}", "title": "", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as stream:
        for number in range(60):
            text = " ".join(draw.choices(vocabulary, weights, k=5))
            stream.write(json.dumps({"_id": f"q{number}", "text": text}) + "\n")
    for split, first, last in (("train", 0, 40), ("test", 40, 60)):
        rows = [f"q{number}\td{number}\t1" for number in range(first, last)]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text)


def write_model(folder: Path) -> None:
    """A LLaMA-shaped model of random weights with a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=vocabulary["</s>"],
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def main() -> None:
    """Make the corpus, run up to the filter, print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    from machine import describe_machine

    from sptar.config import load_config
    from sptar.pipeline import run
    from sptar.progress import SilentProgress
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    describe_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_collection(folder / "data", options.documents, options.seed)
        write_model(folder / "model")
        settings = {
            "methods": ["bm25", "sptar"],
            "data": {"source": str(folder / "data")},
            "split": {"train_queries": 20, "eval_queries": 20},
            "llm": {"name": str(folder / "model")},
            "prompt": {"max_document_tokens": 64, "max_query_tokens": 32},
            "tune": {"virtual_tokens": 8, "epochs": 1},
            "select": {"groups": 2},
            "augment": {"max_new_tokens": 12, "batch_size": 32},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        config = load_config(folder / "config.yaml")
        context = Context(Workspace(folder / "work"), SilentProgress())
        run(config, context, until=["select"])
        before = peak_bytes()
        print(f"peak with the model loaded, after tuning: {before / 1e9:.2f} GB")
        for step in ("augment", "filter"):
            begin = time.monotonic()
            run(config, context, until=[step])
            seconds = time.monotonic() - begin
            above = peak_bytes() - before
            print(
                f"after {step} of {options.documents:,} documents ({seconds:.0f} s): peak "
                f"{peak_bytes() / 1e9:.2f} GB, {above / 1e9:.2f} GB above"
            )


if __name__ == "__main__":
    main()
