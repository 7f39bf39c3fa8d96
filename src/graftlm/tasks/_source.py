"""Where the splits are: a folder of files or of what `datasets` saved, a file cut by fractions or whole, or a name."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import numpy as np

from graftlm.core.errors import UserError, unknown
from graftlm.core.hub import unreachable
from graftlm.core.settings import DataConfig
from graftlm.tasks._read import READERS, Table, first_line, hub_splits, read_file, read_hub, read_saved

ALIASES = {"dev": "validation", "valid": "validation", "val": "validation"}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
T = TypeVar("T")
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # what `datasets` writes beside a Dataset and a DatasetDict
SEED = 0  # of the cut by fractions: a later evaluation has to find the same test split
FIRST = ("train", "validation", "test")  # in a file that is cut, in this order whatever that of the fractions


@dataclass(frozen=True)
class Source:
    """`found`: the names of the splits; `read` gives the table of one of them."""

    path: str
    found: tuple[str, ...]
    read: Callable[[str], Table]

    def check(self, split: str) -> None:
        """Refuses a split that is not there, and names those that are."""
        if split in self.found:
            return
        near = get_close_matches(split, self.found, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else f"; there is {', '.join(self.found)}"
        raise UserError(f'no split "{split}" in {self.path}{hint}')


def canonical(split: str) -> str:
    """A split's name: dev, valid and val are validation."""
    return ALIASES.get(split, split)


def locate(config: DataConfig, asked: Collection[str] | None) -> Source:
    """The source that a config names. Only a file that is cut by fractions is read here.

    One file without fractions is one split: the one that is asked for if that is one alone, else "train".
    """
    path = Path(config.path)
    if (path / SAVED_SPLITS).is_file():
        return _saved(path)
    if (path / SAVED).is_file():
        file = _only_file(path)
        if config.split:
            raise UserError(f"split fractions cut one file, and {path} is a folder; name {file}")
        return _whole(file, asked)
    if path.is_file():
        return _cut(path, config.split) if config.split else _whole(path, asked)
    found = _folder(path) if path.is_dir() else _hub(config.path)
    if config.split:
        what = "has its splits already" if path.is_dir() else "is not a file"
        raise UserError(f"split fractions cut one file, and {path} {what}")
    return found


def _whole(path: Path, asked: Collection[str] | None) -> Source:
    name = canonical(next(iter(asked))) if asked and len(asked) == 1 else "train"
    return Source(str(path), (name,), lambda split: read_file(path))


def in_order(fractions: Mapping[str, float]) -> dict[str, float]:
    """The fractions by the names of splits, in the order that a file is cut in: other names stand behind ours."""
    given = _by_split(fractions.items(), "split fractions")
    return {name: given[name] for name in (*FIRST, *given) if name in given}


def _cut(path: Path, fractions: Mapping[str, float]) -> Source:
    """Shuffles the rows with a fixed seed and cuts them; fractions that add up to less than 1 leave the rest out."""
    parts_of = in_order(fractions)
    table = read_file(path)
    order = np.random.default_rng(SEED).permutation(len(table)).tolist()
    ends = [round(total * len(table)) for total in np.cumsum(list(parts_of.values())).tolist()]
    parts = {name: order[start:end] for name, start, end in zip(parts_of, [0, *ends], ends, strict=False)}
    for name, rows in parts.items():
        if not rows:
            raise UserError(f'split "{name}" = {parts_of[name]:g} of the {len(table)} rows in {path} is none')
    return Source(str(path), tuple(parts), lambda split: table.take(parts[split]))


def _folder(path: Path) -> Source:
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in READERS and file.is_file()]
    if not files:
        inside = sorted(file.name for file in path.iterdir())[:5]
        held = f"it holds {', '.join(inside)}" if inside else "it is empty"
        kinds = ", ".join(READERS)
        raise UserError(f"{path} has no train, validation or test file ({kinds}); {held}")
    by_split = _by_split(((file.stem, file) for file in files), str(path))
    return Source(str(path), tuple(by_split), lambda split: read_file(by_split[split]))


def _saved(path: Path) -> Source:
    """The splits in a folder that `datasets` saved a DatasetDict to."""
    by_split = _by_split(((folder.name, folder) for folder in sorted(path.iterdir()) if folder.is_dir()), str(path))
    return Source(str(path), tuple(by_split), lambda split: read_saved(by_split[split]))


def _only_file(path: Path) -> Path:
    """The file of a Dataset without splits that `datasets` saved to a folder."""
    files = sorted(path.glob("*.arrow"))
    if len(files) != 1:
        raise UserError(f"{path} holds one dataset in {len(files)} Arrow files; save it in one, or save its splits")
    return files[0]


def _by_split(named: Iterable[tuple[str, T]], where: str) -> dict[str, T]:
    by_split: dict[str, T] = {}
    for name, thing in named:
        split = canonical(name)
        if split in by_split:
            raise UserError(f'{where} has two "{split}" splits: {by_split[split]} and {thing}')
        by_split[split] = thing
    return by_split


def _hub(name: str) -> Source:
    """A `datasets` name; one that looks like a path is a missing file."""
    if HUB_NAME.fullmatch(name) is None or Path(name).suffix in READERS or _beside(Path(name)):
        raise missing(Path(name))
    offline = unreachable() is not None
    try:
        theirs = _by_split(((split, split) for split in hub_splits(name, offline)), name)
    except Exception as error:  # a network fails in many classes; all of them mean that the name gave nothing
        raise _unreachable(name, error) from None

    def read(split: str) -> Table:
        try:
            return read_hub(name, theirs[split], offline)
        except Exception as error:
            raise _unreachable(name, error) from None

    return Source(name, tuple(theirs), read)


def _beside(path: Path) -> bool:
    """Whether a missing path stands in a folder that exists, so that it cannot be meant as owner/name."""
    return len(path.parts) > 1 and path.parent.is_dir()


def _unreachable(name: str, error: Exception) -> UserError:
    if isinstance(error, ValueError) and "config" in str(error).lower():
        listed = next((line for line in str(error).splitlines() if ":" in line), first_line(error))
        return UserError(f"{name}: {listed.strip()}; {name.partition(':')[0]}:NAME picks one")
    return UserError(
        f"{missing(Path(name))}; nor could it be had as a dataset of the hub ({first_line(error)}); "
        f"a folder with train.jsonl, a file ({', '.join(READERS)}), or a dataset that is cached here would work"
    )


def missing(path: Path) -> UserError:
    """The error for a path that does not exist: names the nearest thing beside it."""
    folder, name = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, name = folder.parent, folder.name
    beside = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    near = get_close_matches(name, beside, n=1, cutoff=0.5)
    hint = f'; did you mean "{folder / near[0]}"?' if near else ""
    return UserError(f'no file or folder "{path}"{hint}')


def check_limits(limit: Mapping[str, int], source: Source) -> dict[str, int]:
    """Limits by split; one for a split that is nowhere is an error."""
    known = {*source.found, "train", "validation", "test"}
    for split in limit:
        if canonical(split) not in known:
            raise unknown("split", split, known)
    return {canonical(split): rows for split, rows in limit.items()}
