"""What all tests share: no network, few threads, tiny models made once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# They hold no examples, and as modules of one name they cannot all be imported.
collect_ignore_glob = ["*conftest.py"]

# The verdict depends on neither luck nor load: every run tries the same examples, however long
# they take. `pytest --hypothesis-profile=search` looks for new ones.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("search", deadline=None, max_examples=1000, suppress_health_check=_SLOW)
settings.load_profile("same")

# A shell that runs the tests in the background makes them deaf to interrupts, and with them the
# processes that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start find the helpers, and the same source as the tests themselves.
_OWN = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_OWN, os.environ.get("PYTHONPATH")]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--newest", action="store_true", help="the newest packages are meant to be installed"
    )


@pytest.fixture(autouse=True)
def _trials_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last work folder keeps its trials is forgotten after each test."""
    monkeypatch.setenv("SPTAR_TRIALS", "")
    monkeypatch.delenv("SPTAR_TRIALS")


@pytest.fixture
def packing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed products are used whatever a trial on this processor would say."""
    monkeypatch.setattr("sptar.trials.kept", lambda name, trial: {"packed": True})


@pytest.fixture
def newest(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--newest"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shape → folder of a tiny causal language model, made once for all tests."""
    from tiny import LANGUAGE_MODEL_SHAPES, causal_lm

    folder = tmp_path_factory.mktemp("language_models")
    return {shape: causal_lm(shape, folder / shape) for shape in LANGUAGE_MODEL_SHAPES}


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny encoder, made once for all tests."""
    from tiny import encoder

    return encoder(tmp_path_factory.mktemp("encoder") / "bert")
