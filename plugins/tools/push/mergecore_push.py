"""Upload a merged model to the Hugging Face Hub in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergecore.api import InputError
from mergecore.tooling import Registry, explain_hub_errors, open_model, say, warn

LEFT = [".*", ".*/*", "*.lock", "*.partial", "*.partial/*"]
"""Patterns of files to skip: leftovers of the system, editors, and unfinished runs."""

REPLACED = ["*.safetensors", "*.safetensors.index.json"]
"""Patterns of repository files to delete if OUT has no file of that name: weights of an earlier result."""


def push(
    out: Annotated[Path, typer.Argument(help="The output folder of mergecore run.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="The repository as org/name, created if needed.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a newly created repository private.")] = False,
    revision: Annotated[str, typer.Option(help="The branch, created if needed.")] = "main",
    message: Annotated[str, typer.Option(help="The commit message.")] = "Upload a merged model",
) -> None:
    """Upload the finished folder OUT to the Hugging Face Hub in one commit. Set HF_TOKEN to authenticate."""
    from huggingface_hub import HfApi

    check_name(repo)
    check_finished(out)
    hub = HfApi()
    with explain_hub_errors(repo, revision):
        hub.create_repo(repo, private=private, exist_ok=True)
        if revision != "main":
            hub.create_branch(repo, branch=revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo,
            folder_path=out,
            revision=revision,
            commit_message=message,
            ignore_patterns=LEFT,
            delete_patterns=REPLACED,
        )
    say(f"{out}: uploaded to {repo} at commit {commit.oid}")
    typer.echo(commit.commit_url)


def check_name(repo: str) -> None:
    """Raise InputError unless the Hub allows this repository name and it names an owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo if "/" in repo else "")
    except HFValidationError:
        raise InputError(f"{repo}: not a valid Hub repository name; use org/name") from None


def check_finished(out: Path) -> None:
    """Reject an incomplete model: the folder of an unfinished run, or one with missing or truncated weights.

    Raises:
        InputError: The folder is not a finished output.
    """
    if any(part.endswith(".partial") for part in out.absolute().parts):
        raise InputError(f"{out}: belongs to an unfinished run; run its recipe again to finish it, then push OUT")
    if not out.is_dir():
        raise InputError(f"{out}: there is no such folder; pass the output folder of mergecore run")
    open_model(str(out), Registry(warn)).close()
