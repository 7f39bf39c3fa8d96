"""What methods with virtual tokens share: where the text starts behind them."""

from graftlm.core.errors import UserError
from graftlm.sites import Sites


def shift_of(position_shift: bool, length: int, sites: Sites) -> int:
    """`Tokens.position_shift`: the text follows its prompt's positions, or with −L keeps its own."""
    if position_shift:
        return 0
    if not sites.moves_tokens:
        why = "means nothing: its positions are relative" if sites.table else "needs a table, to know its positions"
        raise UserError(f'position_shift = false for "{sites.family}" {why}')
    return -length
