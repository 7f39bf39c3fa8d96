"""What a template can do to a field: `{text:lower:strip_period}`."""

from collections.abc import Callable, Mapping

SHORTEN = "shorten"


def _strip_period(text: str) -> str:
    return text.rstrip().removesuffix(".").removesuffix("。")


FILTERS: Mapping[str, Callable[[str], str]] = {
    "lower": str.lower,
    "strip": str.strip,
    "strip_period": _strip_period,
    "first_lower": lambda text: text[:1].lower() + text[1:],
    "first_upper": lambda text: text[:1].upper() + text[1:],
    "drop_last": lambda text: text[:-1],  # LM-BFF's sent-_0, which drops the final character
    SHORTEN: lambda text: text,  # may be cut where there is no room; what is not marked never is
}
