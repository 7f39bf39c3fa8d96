"""Whether Hugging Face's hub can be asked: one short look, since its client retries a dead line for half a minute."""

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
