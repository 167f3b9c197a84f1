"""``python -m sptar.starter.toy OUT``: a toy collection and two toy models to try everything with.

Nothing made here is good for anything but running: the corpus has 156 documents, and the models
have read nothing else. **Scores that come from it mean nothing.** Written are ``OUT/collection``
(BEIR layout), ``OUT/language-model`` and ``OUT/encoder``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sptar.starter.collection import copy_toy_collection
from sptar.starter.encoder import train_toy_encoder
from sptar.starter.language_model import train_toy_language_model

__all__ = ["copy_toy_collection", "main", "train_toy_encoder", "train_toy_language_model"]

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write collection, language model and encoder below the folder named by the arguments."""
    from transformers.utils import logging as transformers_logging

    parser = argparse.ArgumentParser(
        prog="python -m sptar.starter.toy",
        description="Write a toy collection and train two toy models on it. Their scores mean "
        "nothing; they only show that everything runs.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of both models (default 0)")
    values = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    transformers_logging.disable_progress_bar()
    _log.info("These are toys: scores that come from them mean nothing.")
    _log.info("collection: %s", copy_toy_collection(values.out / "collection"))
    model = train_toy_language_model(values.out / "language-model", seed=values.seed)
    _log.info("language model: %s", model)
    _log.info("encoder: %s", train_toy_encoder(values.out / "encoder", seed=values.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
