"""Models on the Hugging Face Hub: the commit that a reference means, its small files, any other file on demand."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mergecore.builtin import in_threads
from mergecore.errors import ModelError
from mergecore.models.hub_errors import AwayError, cache, endpoint, explained

REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>(?!/|.*\.\.)[^@\s~^:?*\[\\]+))?", re.ASCII)
"""``org/name`` or ``org/name@revision``; what names and revisions cannot hold could lead out of the cache."""

COMMIT = re.compile(r"[0-9a-f]{40}")

SMALL = (
    "*.json", "*.txt", "*.md", "*.py", "*.jinja", "*.yaml", "*.yml", "LICENSE*", "LICENCE*", "NOTICE*",
    "*.model", "*.model.v*", "*.tiktoken", "*.spm", "*.codes", "*.tokenizer",
    "additional_chat_templates/*.jinja", "[0-9]*_*/*.json", "[0-9]*_*/*.txt",
)  # fmt: skip
"""Files that are fetched when a model is opened: config, index, tokenizer, card, code, and those of the modules that
sentence-transformers numbers."""

HEADS = ("[0-9]*_*/model.safetensors", "[0-9]*_*/pytorch_model.bin")
"""Weights of such modules: they are copied beside merged ones, so they are fetched with those."""

SMALL_LIMIT = 200_000_000
"""Bytes beyond which no file is small."""

CONNECTIONS = 8
"""Files that are fetched at one time."""

SECONDS = 30.0
"""How long to wait for an answer."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a model repository.

    Attributes:
        repo: as ``org/name``.
        commit: its hash.
        folder: where its files are once they are fetched: in the cache that all users of huggingface_hub share.
        sizes: the length of every file by its path, as far as the Hub says it.
        note: why the files are those of the cache alone; empty: the Hub answered.
    """

    repo: str
    commit: str
    folder: Path
    sizes: Mapping[str, int | None]
    note: str = ""

    @property
    def names(self) -> set[str]:
        """The names of its files outside of subfolders."""
        return {name for name in self.sizes if "/" not in name}

    @property
    def heads(self) -> list[str]:
        """Weight files that are carried over, not merged."""
        return [name for name in self.sizes if _matches(name, HEADS)]

    def label(self, name: str) -> str:
        """What to call one of its files in messages."""
        return f"{self.repo}@{self.commit[:8]}/{name}"

    def has(self, name: str) -> bool:
        """Whether a file is here already."""
        return (self.folder / name).is_file()

    def fetch(self, name: str, advance: Callable[[int], None]) -> Path:
        """The place of a file, which is downloaded unless it is here.

        Args:
            name: its path in the repository.
            advance: told of bytes as they arrive; what it raises ends the download.

        Raises:
            ModelError: it cannot be had.
        """
        from huggingface_hub import hf_hub_download

        with explained(self.repo):
            return Path(hf_hub_download(self.repo, name, revision=self.commit, tqdm_class=_meter(advance)))

    def start_of(self, name: str, count: int) -> tuple[bytes, int]:
        """The first `count` bytes of a file, fewer where it ends before, and its whole length; no more is read.

        Raises:
            ModelError: they cannot be had.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        wanted = {"Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        url, data = hf_hub_url(self.repo, name, revision=self.commit), bytearray()
        headers = {**build_hf_headers(), **wanted}
        with explained(self.repo), http_stream_backoff("GET", url, headers=headers, timeout=SECONDS) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_raw():
                data += chunk
                if len(data) >= count:  # a server that knows no ranges sends everything
                    break
            whole = response.headers.get("Content-Range", "").rpartition("/")[2]
            return bytes(data[:count]), int(whole or response.headers["Content-Length"])


def find(reference: str) -> Snapshot | None:
    """The commit that a reference means now, its small files fetched; None: it cannot be one to the Hub.

    Where the Hub cannot be reached, or must not be (``HF_HUB_OFFLINE``), it is the commit that the cache knows.

    Raises:
        ModelError: there is no such model or revision, or it cannot be had.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None or not is_name(match["repo"]):
        return None
    repo, revision = match["repo"], match["revision"] or "main"
    try:
        with explained(repo, revision):
            commit, sizes = _listing(repo, revision)
    except AwayError as error:
        return _cached(repo, revision, error)
    small = [name for name, size in sizes.items() if _matches(name, SMALL) and (size or 0) <= SMALL_LIMIT]
    if not small:
        raise ModelError(f"{repo}: has no config.json at {endpoint()}, so it is no model that can be merged")
    with explained(repo, revision):
        folder = _note_revision(repo, revision, commit, small[0])
    snapshot = Snapshot(repo, commit, folder, sizes)
    each(small, lambda name, check: snapshot.fetch(name, lambda _: check()))
    return snapshot


def each(items: Iterable[Any], work: Callable[[Any, Callable[[], None]], object], threads: int = CONNECTIONS) -> None:
    """Do some work on each item, several at one time; raises the first error when all threads have ended.

    Args:
        items: what to work on.
        work: called with an item and a function, which it calls often: it raises once something has failed elsewhere.
        threads: items that are worked on at one time.
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


def is_name(repo: str) -> bool:
    """Whether the Hub would let a repository be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def _listing(repo: str, revision: str) -> tuple[str, dict[str, int | None]]:
    """The commit of a revision, and its files with their lengths; those that would lie outside of it are left out."""
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
    """Whether a path is one of the patterns, where a star stands for no slash."""
    parts = name.split("/")
    split = [pattern.split("/") for pattern in patterns]
    return any(len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)) for wanted in split)


def _note_revision(repo: str, revision: str, commit: str, name: str) -> Path:
    """The commit's folder in the cache; a file is fetched by the revision, so that the cache knows it when offline."""
    from huggingface_hub import hf_hub_download

    for wanted in dict.fromkeys((revision, commit)):
        path = hf_hub_download(repo, name, revision=wanted, tqdm_class=_meter(lambda _: None))
    return Path(path).parents[name.count("/")]


def _cached(repo: str, revision: str, error: AwayError) -> Snapshot:
    """What the cache has of a model; raises the error where that is nothing."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "adapter_config.json"):
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str) and COMMIT.fullmatch(Path(path).parent.name):
            folder = Path(path).parent
            files = {item.relative_to(folder).as_posix(): item for item in folder.rglob("*") if item.is_file()}
            note = f"{repo}: commit {folder.name[:8]} of the cache is taken, because {error.reason}"
            return Snapshot(repo, folder.name, folder, {n: item.stat().st_size for n, item in files.items()}, note)
    raise ModelError(
        f"{repo}: there is no such folder, it is not in {cache()}, and {error.reason}; {error.cure}, or give the path"
        " of a model folder"
    )


def _meter(advance: Callable[[int], None]) -> Any:
    """What huggingface_hub tells of bytes that have arrived, in the place of its own bars."""
    from huggingface_hub.utils import tqdm

    class Meter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes of the wire are not counted beside those of the file."""

    return Meter
