"""What a base's folder may not hold: pickles in place of weights, shards that lie elsewhere, an adapter of PEFT's."""

from pathlib import Path

from graftlm.core.errors import UserError
from graftlm.core.files import read_json

INDEX, ADAPTER = "model.safetensors.index.json", "adapter_config.json"


def check_folder(folder: Path) -> None:
    """Refuses what Transformers would read beside safetensors, or in their place."""
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder} holds an adapter beside the model ({ADAPTER}), which Transformers would load with it; take the "
            "file out of the folder, or merge the adapter in PEFT first"
        )
    _refuse_pickles(folder)
    _check_shards(folder / INDEX)


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors*")):
        raise UserError(
            f"{pickles[0]} is a pickle, which could run code, and is not read; load it in Transformers where you trust "
            "it, and save_pretrained there writes model.safetensors"
        )


def _check_shards(index: Path) -> None:
    """Transformers unpickles a shard whose name ends otherwise, and follows one out of the folder."""
    if not index.exists():
        return
    body = read_json(index, "index of weights")
    shards = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(shards, dict):
        raise UserError(f"{index} does not say which file holds which tensor")
    for shard in shards.values():
        if not (isinstance(shard, str) and shard == Path(shard).name and shard.endswith(".safetensors")):
            raise UserError(f'{index} names "{str(shard)[:80]}", which is no safetensors file in its folder')
