"""LongRoPE (Ding et al., 2024) under positions that a run shifts: keys of the short factors are not kept past them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from graftlm.sites._router import Router

PREPARE = "prepare_inputs_for_generation"


def renewing(prepare: Callable[..., Any], router: Router, limit: int) -> Callable[..., Any]:
    """`prepare`, without the cache at the step whose furthest position is the first at or past `limit`."""

    @wraps(prepare)  # `generate` reads its parameters
    def prepared(input_ids: Tensor, past_key_values: Any = None, **given: Any) -> Any:
        mask, shift = given.get("attention_mask"), router.shift("")
        seen = past_key_values.get_seq_length() if past_key_values else 0
        if seen and shift is not None:
            lengths = input_ids.shape[1] if mask is None else mask.sum(1, keepdim=True)
            furthest = int(torch.as_tensor(lengths + shift).max())
            if furthest - (input_ids.shape[1] - seen) <= limit < furthest:
                past_key_values, given["next_sequence_length"] = None, None
        return prepare(input_ids, past_key_values=past_key_values, **given)

    return prepared
