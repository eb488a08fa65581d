"""Error messages for problems with the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mergecore.errors import InputError, ModelError


class AwayError(ModelError):
    """The Hub cannot be reached or must not be used. Files in the cache might be enough.

    Args:
        reason: why the Hub is not available.
        cure: how to fix it.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; {cure}")
        self.reason, self.cure = reason, cure


@contextmanager
def explain_hub_errors(repo: str, revision: str = "main") -> Iterator[None]:
    """Convert errors raised by huggingface_hub to ModelError.

    Args:
        repo: the repository to access, as ``org/name``.
        revision: its branch, tag, or commit.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _explanation(_cause(error), repo, revision) from None


def endpoint() -> str:
    """Return the URL of the Hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def cache() -> str:
    """Return the cache folder for downloads from the Hub."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _cause(error: Exception) -> BaseException:
    """Return the underlying error if huggingface_hub reports a file that is neither on the Hub nor in the cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error


def _explanation(error: BaseException, repo: str, revision: str) -> ModelError:
    from huggingface_hub import errors

    hub = endpoint()
    said = (str(error).splitlines() or [""])[0]
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return AwayError(f"HF_HUB_OFFLINE does not allow requests to {hub} for {repo}", "unset it")
    if isinstance(error, errors.GatedRepoError):
        terms = f"accept its license at {hub}/{repo}, and set HF_TOKEN to your token (or run: hf auth login)"
        return ModelError(f"{repo}: is gated; {terms}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo}: has no revision {revision!r} at {hub}; use one of its branches, tags, or commits")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ModelError(f"{repo}: a listed file is missing at {hub} ({said}); try again")
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error.response.status_code, isinstance(error, errors.RepositoryNotFoundError), repo)
    if isinstance(error, OSError) and error.errno:
        return ModelError(f"{error.filename or cache()}: {error.strerror}; HF_HOME sets the folder for downloads")
    if isinstance(error, (ValueError, KeyError, TypeError, AttributeError, errors.FileMetadataError)):
        return ModelError(f"{hub}: does not respond like a Hub ({said}); check HF_ENDPOINT")
    return AwayError(f"{hub} cannot be reached for {repo} ({said})", "check your connection")


def _refusal(status: int, unknown: bool, repo: str) -> ModelError:
    """Return the error for an HTTP status other than 200."""
    hub = endpoint()
    if unknown or status == 404:
        return ModelError(
            f"{repo}: no such folder, and no such model at {hub}; use the path of a model folder or the"
            " org/name of a model, and set HF_TOKEN if the model is private"
        )
    if status in (401, 403):
        cure = "set HF_TOKEN to a different token (or run: hf auth login)"
        return ModelError(f"{repo}: {hub} does not accept the token for this model; {cure}")
    said = f"{hub} returned status {status} for {repo}"
    return AwayError(said, "try again later") if status >= 500 else ModelError(f"{said}; try again later")


__all__ = ["AwayError", "cache", "endpoint", "explain_hub_errors"]
