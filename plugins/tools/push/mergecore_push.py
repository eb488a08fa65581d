"""Upload a merged model or adapter to the Hugging Face Hub in one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from mergecore.api import InputError
from mergecore.tooling import (
    LOCK_NAME,
    Registry,
    explain_hub_errors,
    open_adapter,
    open_model,
    printable,
    read_lock,
    say,
    warn,
)

LEFT = [".*", "*.lock", "*.partial"]
"""Patterns of files and folders to skip: hidden ones, and leftovers of unfinished runs."""

REPLACED = ["*.safetensors", "*.safetensors.index.json"]
"""Patterns of repository files to delete if OUT has no file of that name: weights of an earlier result."""


def push(
    out: Annotated[Path, typer.Argument(help="The output folder of mergecore run or lora.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="The repository as org/name, created if needed.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a newly created repository private.")] = False,
    revision: Annotated[str, typer.Option(help="The branch, created if needed.")] = "main",
    message: Annotated[str, typer.Option(help="The commit message.")] = "Upload a merged model",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files to upload, and upload nothing.")] = False,
) -> None:
    """Upload the finished folder OUT to the Hugging Face Hub in one commit. Set HF_TOKEN to authenticate."""
    from huggingface_hub import HfApi

    check_name(repo)
    check_finished(out)
    files = chosen(out)
    for name, path in files.items():
        say(f"{path.stat().st_size / 1e6:12,.1f} MB  {printable(name)}")
    if dry_run:
        return
    hub = HfApi()
    with explain_hub_errors(repo, revision), TemporaryDirectory() as staged:
        stage(files, Path(staged))
        hub.create_repo(repo, private=private, exist_ok=True)
        if revision != "main":
            hub.create_branch(repo, branch=revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo, folder_path=staged, revision=revision, commit_message=message, delete_patterns=REPLACED
        )
    say(f"{out}: uploaded to {repo} at commit {commit.oid}")
    typer.echo(commit.commit_url)


def chosen(out: Path) -> dict[str, Path]:
    """Return the files to upload by their path in the repository. Leftovers and hidden files are skipped."""
    found = {path.relative_to(out): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in found.items()
        if not any(fnmatch(part, pattern) for part in name.parts for pattern in LEFT)
    }


def stage(files: Mapping[str, Path], folder: Path) -> None:
    """Link the files into a folder. The lock file there is a copy without the local paths, which are private."""
    for name, path in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = read_lock(path) if name == LOCK_NAME else None
        if lock:
            place.write_text(json.dumps(public_lock(lock.value), indent=2) + "\n", "utf-8")
        else:
            place.symlink_to(path.absolute())


def public_lock(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a lock file with names in place of local paths."""

    def public(item: Mapping[str, Any]) -> dict[str, Any]:
        # The files of adapters are outside the model's folder. Keep the name of the adapter's folder and of the file.
        files = {"/".join(PurePosixPath(name).parts[-2:]) if name.startswith("../") else name: value
                 for name, value in item["files"].items()}  # fmt: skip
        adapters = [PurePosixPath(folder).name for folder in item["adapters"]]
        return {**item, "folder": None, "adapters": adapters, "files": files}

    recipe_file = PurePosixPath(lock["recipe_file"]).name
    return {**lock, "recipe_file": recipe_file, "inputs": [public(item) for item in lock["inputs"]]}


def check_name(repo: str) -> None:
    """Raise InputError unless the Hub allows this repository name and it names an owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo if "/" in repo else "")
    except HFValidationError:
        raise InputError(f"{repo}: not a valid Hub repository name; use org/name") from None


def check_finished(out: Path) -> None:
    """Reject an incomplete model or adapter: that of an unfinished run, or one with missing or truncated weights.

    Raises:
        InputError: The folder is not a finished output.
    """
    if any(part.endswith(".partial") for part in out.absolute().parts):
        raise InputError(f"{out}: belongs to an unfinished run; run its recipe again to finish it, then push OUT")
    if not out.is_dir():
        raise InputError(f"{out}: there is no such folder; pass the output folder of mergecore run")
    is_adapter = (out / "adapter_config.json").is_file() and not (out / "config.json").exists()
    opened = open_adapter(out, Registry(warn)) if is_adapter else open_model(str(out), Registry(warn))
    opened.close()
