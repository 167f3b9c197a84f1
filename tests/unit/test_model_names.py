"""No path of a machine stands in what leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sptar.model_names import licence_of, public_name
from sptar.packaged import PLACES


def test_a_folder_is_known_by_its_hub_name_or_by_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert public_name(str(folder)) == "my-model"
    assert public_name(f"{folder}/") == "my-model"
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "org/first.model-1"}))
    assert public_name(str(folder)) == "org/first.model-1"
    # Where it was on another machine, it is a path like any other.
    for path in ("/home/somebody/models/first", "../models", str(tmp_path)):
        (folder / "config.json").write_text(json.dumps({"_name_or_path": path}))
        assert public_name(str(folder)) == "my-model"
    (folder / "config.json").write_text("[broken")
    assert public_name(str(folder)) == "my-model"


def test_a_snapshot_of_the_hub_has_the_hub_s_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--some-org--tiny.en-0.5B" / "snapshots" / "0123456789"
    folder.mkdir(parents=True)
    assert public_name(str(folder)) == "some-org/tiny.en-0.5B"


def test_a_model_of_the_package_is_named_as_its_card_names_it() -> None:
    assert public_name("starter:encoder") == "starter-encoder"
    assert public_name(str(PLACES["starter:encoder"])) == "starter-encoder"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: Apache-2.0\n---\n# Card\n", "apache-2.0"),
        ("---\nlicense: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# No card\n", None),
    ],
)
def test_the_licence_is_what_the_card_s_head_says(
    tmp_path: Path, card: str, licence: str | None
) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence


def test_without_a_card_no_licence_is_known(tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) is None
    assert licence_of("no/such-model-anywhere") is None
