"""Whether Hugging Face's hub can be asked: one short look, since its client retries a dead line for half a minute."""

from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 3.0


def unreachable() -> str | None:
    """Why the hub cannot be asked, or None where it answers."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set"
    except Exception:  # each client has errors of its own; all of them mean that nothing came back
        return f"{constants.ENDPOINT} does not answer"
    return None


@contextmanager
def cache_only(offline: bool) -> Iterator[None]:
    """Has the hub's client look at its cache alone while the block runs; for callers that cannot be told to."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
