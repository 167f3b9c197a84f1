"""Families of language models whose ways differ: right, or refused in a sentence, never wrong."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

# At the end: a script's name must never hide a library's.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from model_families import LONG_WINDOW, SHORT_WINDOW, examine

pytestmark = pytest.mark.filterwarnings("ignore")

RIGHT = {
    "bart": "positions that begin at 2, a cache for an encoder that is not there",
    "gpt_oss": "attention with a sink, windows",
    "deepseek_v3": "keys and values in fewer numbers, experts",
    "mixtral": "experts",
    "opt": "positions counted from the mask",
    "qwen3_next": "linear attention and attention",
    "xglm": "positions that are computed from 2 on",
    "xlm-roberta": "positions that begin behind the padding",
}

GENERATES_OTHERWISE = ("bart", "xlm-roberta")
"""``generate`` forces BART's last token to be an end, and counts RoBERTa's positions from 0, which
a plain pass, and so the model's training, does not."""

REFUSED = {
    "reformer": ("refused", "depends on how many tokens follow"),
    "gemma3n_text": ("soft prompt refused", "reads the token ids themselves"),
    "gemma4_text": ("soft prompt refused", "reads the token ids themselves"),
}


@pytest.mark.parametrize("family", RIGHT)
def test_generation_scores_and_tuning_equal_the_plain_model(family: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = examine(family)
    assert (row.status, row.detail) == ("right", "")
    assert family in GENERATES_OTHERWISE or not row.generate_differs


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_right_is_refused(family: str) -> None:
    row = examine(family)
    status, words = REFUSED[family]
    assert row.status == status
    assert words in row.detail


def test_a_cache_that_forgets_what_a_plain_pass_still_sees() -> None:
    # Moshi's plain pass looks at everything, its cache keeps a window.
    short, long = (examine("moshi", window=window) for window in (SHORT_WINDOW, LONG_WINDOW))
    assert short.status == long.status == "right"
