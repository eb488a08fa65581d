"""Models on the Hugging Face Hub: resolve references to commits, and download small files first, others on demand."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mergecore.api import in_threads
from mergecore.errors import ModelError
from mergecore.models.hub_errors import AwayError, cache, endpoint, explain_hub_errors

REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>(?!/|.*\.\.)[^@\s~^:?*\[\\]+))?", re.ASCII)
"""``org/name`` or ``org/name@revision``. Characters that could point outside the cache are not allowed."""

COMMIT = re.compile(r"[0-9a-f]{40}")

SMALL = (
    "*.json", "*.txt", "*.md", "*.py", "*.jinja", "*.yaml", "*.yml", "LICENSE*", "LICENCE*", "NOTICE*",
    "*.model", "*.model.v*", "*.tiktoken", "*.spm", "*.codes", "*.tokenizer",
    "additional_chat_templates/*.jinja", "[0-9]*_*/*.json", "[0-9]*_*/*.txt", "[0-9]*_*/*.model",
)  # fmt: skip
"""Files to download when a model is opened: config, index, tokenizer, card, code, and the files of the numbered modules
of sentence-transformers."""

SMALL_LIMIT = 200_000_000
"""Maximum size of a small file in bytes."""

CONNECTIONS = 8
"""Number of files to download at a time."""

SECONDS = 30.0
"""Timeout of a request in seconds."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a model repository.

    Attributes:
        repo: the repository, as ``org/name``.
        commit: the commit hash.
        folder: folder of downloaded files, in the shared cache of huggingface_hub.
        sizes: size of every file by its path, or None if the Hub does not report it.
        note: why only files in the cache are used. Empty if the Hub responded.
    """

    repo: str
    commit: str
    folder: Path
    sizes: Mapping[str, int | None]
    note: str = ""

    def names_in(self, path: str) -> set[str]:
        """Return the names of its files in a folder, not including those in subfolders. The path "" is the root."""
        prefix = f"{path}/" if path else ""
        return {rest for name in self.sizes if name.startswith(prefix) and "/" not in (rest := name[len(prefix) :])}

    def label(self, name: str) -> str:
        """Return the display name of one of its files."""
        return f"{self.repo}@{self.commit[:8]}/{name}"

    def has(self, name: str) -> bool:
        """Return True if a file is already in the cache."""
        return (self.folder / name).is_file()

    def fetch(self, name: str, advance: Callable[[int], None]) -> Path:
        """Download a file unless it is in the cache, and return its path.

        Args:
            name: path of the file in the repository.
            advance: called with the number of bytes as they arrive. If it raises, the download stops.

        Raises:
            ModelError: if the download fails.
        """
        from huggingface_hub import hf_hub_download

        with explain_hub_errors(self.repo):
            return Path(hf_hub_download(self.repo, name, revision=self.commit, tqdm_class=_meter(advance)))

    def start_of(self, name: str, count: int) -> tuple[bytes, int]:
        """Download only the first `count` bytes of a file (or all, if it is shorter). Return them and the file's size.

        Raises:
            ModelError: if the download fails.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        wanted = {"Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        url, data = hf_hub_url(self.repo, name, revision=self.commit), bytearray()
        headers = {**build_hf_headers(), **wanted}
        with (
            explain_hub_errors(self.repo),
            http_stream_backoff("GET", url, headers=headers, timeout=SECONDS) as response,
        ):
            hf_raise_for_status(response)
            for chunk in response.iter_raw():
                data += chunk
                if len(data) >= count:  # a server without range support sends everything
                    break
            whole = response.headers.get("Content-Range", "").rpartition("/")[2]
            return bytes(data[:count]), int(whole or response.headers["Content-Length"])


def is_hub_reference(reference: str) -> bool:
    """Return True if a reference can name a model on the Hub."""
    match = REFERENCE.fullmatch(reference)
    return match is not None and is_repo_name(match["repo"])


def find_snapshot(reference: str) -> Snapshot:
    """Resolve a Hub reference to a commit and download its small files.

    If the Hub is not reachable or not allowed (``HF_HUB_OFFLINE``), use the commit in the cache.

    Raises:
        ModelError: if there is no such model or revision, or it cannot be downloaded.
    """
    match = REFERENCE.fullmatch(reference)
    assert match is not None
    repo, revision = match["repo"], match["revision"] or "main"
    try:
        with explain_hub_errors(repo, revision):
            commit, sizes = _listing(repo, revision)
    except AwayError as error:
        return _cached(repo, revision, error)
    small = [name for name, size in sizes.items() if _matches(name, SMALL) and (size or 0) <= SMALL_LIMIT]
    if not small:
        raise ModelError(f"{repo}: has no config.json at {endpoint()}, so it cannot be merged")
    with explain_hub_errors(repo, revision):
        folder = _note_revision(repo, revision, commit, small[0])
    snapshot = Snapshot(repo, commit, folder, sizes)
    fetch_in_parallel(small, lambda name, check: snapshot.fetch(name, lambda _: check()))
    return snapshot


def fetch_in_parallel(
    items: Iterable[Any], work: Callable[[Any, Callable[[], None]], object], threads: int = CONNECTIONS
) -> None:
    """Process items in several threads. Raise the first error after all threads have finished.

    Args:
        items: the items to process.
        work: called with an item and a check function. It should call `check` often, because `check` raises if another
            item failed.
        threads: number of threads.
    """
    queue, errors = deque(items), list[BaseException]()

    def check() -> None:
        if errors:
            raise errors[0]

    def worker() -> None:
        while not errors:
            try:
                item = queue.popleft()
            except IndexError:
                return
            work(item, check)

    in_threads([worker] * min(threads, len(queue)), errors)
    check()


def is_repo_name(repo: str) -> bool:
    """Return True if the Hub allows this repository name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def _listing(repo: str, revision: str) -> tuple[str, dict[str, int | None]]:
    """Return the commit of a revision, and its files with their sizes. Skip paths outside the repository."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=SECONDS)
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise ValueError(f"the commit of {revision!r} is {info.sha!r}")
    sizes = {item.rfilename: item.size for item in info.siblings or () if _is_inside(item.rfilename)}
    return info.sha, {name: size if isinstance(size, int) else None for name, size in sizes.items()}


def _is_inside(name: Any) -> bool:
    parts = name.split("/") if isinstance(name, str) and "\\" not in name and "\0" not in name else [""]
    return not {"", ".", ".."} & set(parts)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Return True if a path matches one of the patterns. A star does not match a slash."""
    parts = name.split("/")
    split = [pattern.split("/") for pattern in patterns]
    return any(len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)) for wanted in split)


def _note_revision(repo: str, revision: str, commit: str, name: str) -> Path:
    """Return the commit's folder in the cache. Download a file by revision so that it can be resolved offline."""
    from huggingface_hub import hf_hub_download

    for wanted in dict.fromkeys((revision, commit)):
        path = hf_hub_download(repo, name, revision=wanted, tqdm_class=_meter(lambda _: None))
    return Path(path).parents[name.count("/")]


def _cached(repo: str, revision: str, error: AwayError) -> Snapshot:
    """Return the snapshot of a model in the cache. Raise an error if there is none."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "adapter_config.json"):
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str) and COMMIT.fullmatch(Path(path).parent.name):
            folder = Path(path).parent
            files = {item.relative_to(folder).as_posix(): item for item in folder.rglob("*") if item.is_file()}
            note = f"{repo}: using commit {folder.name[:8]} from the cache, because {error.reason}"
            return Snapshot(repo, folder.name, folder, {n: item.stat().st_size for n, item in files.items()}, note)
    raise ModelError(
        f"{repo}: no such folder, not in {cache()}, and {error.reason}; {error.cure}, or use the path of a model folder"
    )


def _meter(advance: Callable[[int], None]) -> Any:
    """Return a replacement for the progress bars of huggingface_hub that reports bytes to `advance`."""
    from huggingface_hub.utils import tqdm

    class Meter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes transferred, because bytes of the file are counted instead."""

    return Meter
