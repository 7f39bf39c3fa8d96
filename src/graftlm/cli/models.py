"""`graftlm models`: bases that are a pip install away."""


def models() -> None:
    """List the models that pip can install.

    Any local folder in Transformers' format, and any hub name, works too.

    \b
    Example:
      graftlm models
    """
    from graftlm.cli._console import ConsoleReporter
    from graftlm.core.aliases import ALIASES

    rows = []
    for name, alias in ALIASES.items():
        path = alias.path()
        rows.append([name, alias.about, "yes" if path is not None and path.exists() else "no", alias.command])
    ConsoleReporter().table("models", ["name", "what it is", "installed", "to install"], rows)
