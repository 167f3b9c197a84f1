"""Settings files, and errors as sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import run_command
from language_model import Settings
from settings import read_settings

from sptar.errors import ConfigError

TOOLS = Path(__file__).parents[3] / "tools" / "starter"


def test_numbers_may_be_written_as_yaml_has_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("steps: 3\nlearning_rate: 3e-4\nstyles: {title: 1}\n")
    found = read_settings(path, Settings)
    assert found.learning_rate == 3e-4
    assert (found.most_pairs, found.reworded_share) == (3, 0.0)
    path.write_text("steps: 3\nreworded_share: 1\nmost_pairs: 1\nstyles: {title: 1}\n")
    found = read_settings(path, Settings)
    assert (found.most_pairs, found.reworded_share) == (1, 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 3\nstyles: {title: 1}\nspeed: 2\n", "unknown settings: speed"),
        ("steps: 3\n", "missing settings: styles"),
        ("steps: 3\nstyles: {title: 1}\nlearning_rate: fast\n", "`learning_rate: fast`"),
        ("steps: 3\nstyles: {title: 1}\nmost_pairs: 0\n", "`most_pairs: 0` must be at least 1"),
        ("steps: 3\nstyles: {title: 1}\nreworded_share: 1.5\n", "`reworded_share: 1.5` between 0"),
        ("steps: 3\nstyles: {title: 1}\nreworded_share: -0.1\n", "`reworded_share: -0.1` between"),
        ("steps: 3\nstyles: {title: 1}\nvalidation_sequences: 0\n", "`validation_sequences: 0`"),
        ("- 3\n", "holds no settings"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_settings(tmp_path / "a.yaml", Settings)


def test_a_script_ends_with_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise ConfigError("Something is wrong.", hint="Do this.")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "Something is wrong. Do this.\n"
    run_command(lambda: None)
