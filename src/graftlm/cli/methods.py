"""`graftlm methods`: what can be trained."""


def methods() -> None:
    """List the methods.

    Each with the way it acts, what it trains, and whether it can be merged into the base.

    \b
    Example:
      graftlm methods
    """
    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.registry import facts

    rows = [
        [
            name,
            str(row.get("KIND", "")),
            str(row.get("TRAINS", "")),
            _yes(row.get("MERGEABLE")),
            str(row.get("PAPER", "")),
        ]
        for name, row in facts("graftlm.methods").items()
    ]
    ConsoleReporter().table("methods", ["name", "acts by", "trains", "mergeable", "paper"], rows)


def _yes(value: object) -> str:
    return "yes" if value else "no"
