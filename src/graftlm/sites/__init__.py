"""Architectures as tables, hosts and routing: the one room that knows module names."""

from graftlm.sites._acts import (
    PROMPT,
    Act,
    Branch,
    Param,
    Past,
    Select,
    Tensors,
    Tokens,
    kaiming_uniform,
    normal,
    ones,
    truncated_normal,
    uniform,
    zeros,
)
from graftlm.sites._attached import Attached
from graftlm.sites._bank import Bank
from graftlm.sites._dropout import keyed_dropout, row_keys
from graftlm.sites._half import halve
from graftlm.sites._mixing import mixed
from graftlm.sites._recording import recorded
from graftlm.sites._route import Route
from graftlm.sites._site import Attention, Site
from graftlm.sites._sites import Sites
from graftlm.sites._table import ROLES, SPANS, Head
from graftlm.sites._view import View

__all__ = [
    "PROMPT",
    "ROLES",
    "SPANS",
    "Act",
    "Attached",
    "Attention",
    "Bank",
    "Branch",
    "Head",
    "Param",
    "Past",
    "Route",
    "Select",
    "Site",
    "Sites",
    "Tensors",
    "Tokens",
    "View",
    "halve",
    "kaiming_uniform",
    "keyed_dropout",
    "mixed",
    "normal",
    "ones",
    "recorded",
    "row_keys",
    "truncated_normal",
    "uniform",
    "zeros",
]
