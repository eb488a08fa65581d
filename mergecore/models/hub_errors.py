"""What goes wrong with the Hugging Face Hub, as sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mergecore.errors import InputError, ModelError


class AwayError(ModelError):
    """The Hub cannot be reached, or must not be; what the cache has may do.

    Args:
        reason: why not.
        cure: what to do about it.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; {cure}")
        self.reason, self.cure = reason, cure


@contextmanager
def explained(repo: str, revision: str = "main") -> Iterator[None]:
    """Turn what huggingface_hub raises into a ModelError.

    Args:
        repo: whose files are asked for, as ``org/name``.
        revision: of which branch, tag or commit.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _explanation(_cause(error), repo, revision) from None


def endpoint() -> str:
    """The address of the Hub that is asked."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def cache() -> str:
    """The folder where what comes from it is kept."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _cause(error: Exception) -> BaseException:
    """What lies beneath huggingface_hub's saying that neither the Hub nor the cache has a file."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error


def _explanation(error: BaseException, repo: str, revision: str) -> ModelError:
    from huggingface_hub import errors

    hub = endpoint()
    said = (str(error).splitlines() or [""])[0]
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return AwayError(f"HF_HUB_OFFLINE forbids to ask {hub} for {repo}", "unset it")
    if isinstance(error, errors.GatedRepoError):
        terms = f"accept its licence at {hub}/{repo}, and set HF_TOKEN to a token of yours (or: hf auth login)"
        return ModelError(f"{repo}: is gated; {terms}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo}: has no revision {revision!r} at {hub}; write one of its branches, tags or commits")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ModelError(f"{repo}: a file that it lists is not there at {hub} ({said}); try again")
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error.response.status_code, isinstance(error, errors.RepositoryNotFoundError), repo)
    if isinstance(error, OSError) and error.errno:
        return ModelError(f"{error.filename or cache()}: {error.strerror}; HF_HOME says where models are kept")
    if isinstance(error, (ValueError, KeyError, TypeError, AttributeError, errors.FileMetadataError)):
        return ModelError(f"{hub}: does not answer as a Hub does ({said}); see to HF_ENDPOINT")
    return AwayError(f"{hub} cannot be reached for {repo} ({said})", "see to the connection")


def _refusal(status: int, unknown: bool, repo: str) -> ModelError:
    """What another status than 200 means."""
    hub = endpoint()
    if unknown or status == 404:
        return ModelError(
            f"{repo}: there is no such folder, and no such model at {hub}; give the path of a model folder or the"
            " org/name of a model, and set HF_TOKEN if it is a private one"
        )
    if status in (401, 403):
        cure = "set HF_TOKEN to another (or: hf auth login)"
        return ModelError(f"{repo}: {hub} does not accept the token for this; {cure}")
    said = f"{hub} answers with status {status} for {repo}"
    return AwayError(said, "try again later") if status >= 500 else ModelError(f"{said}; try again later")


__all__ = ["AwayError", "cache", "endpoint", "explained"]
