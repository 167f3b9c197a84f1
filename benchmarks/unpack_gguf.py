"""A language model out of a GGUF file, as a folder that every command here loads.

    pip install gguf
    python benchmarks/unpack_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf FOLDER

transformers reads such a file and undoes its quantisation, but does not save what it read. The
folder gets bfloat16 weights in safetensors and the tokenizer. What four bits lost stays lost.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sptar.starter.saving import whole_folder

_OF_THE_FILE = ("quantization_config", "_name_or_path", "dtype", "architectures")
"""Parts of a configuration that speak of the file and not of the model."""


def unpack(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file to ``folder``, whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    quantised = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    values = quantised.config.to_dict()
    config = type(quantised.config)(
        **{name: value for name, value in values.items() if name not in _OF_THE_FILE}
    )
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    with whole_folder(folder) as unfinished:
        model.to(torch.bfloat16).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def main() -> None:
    """Unpack a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    unpack(options.file, options.folder)


if __name__ == "__main__":
    main()
