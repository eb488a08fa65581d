"""Uploads a finished result to the Hugging Face Hub, in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergecore.cli.console import say, warn
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError
from mergecore.models.adapters import open_model
from mergecore.models.hub import is_name
from mergecore.models.hub_errors import explained

LEFT = [".*", ".*/*", "*.lock", "*.partial", "*.partial/*"]
"""Patterns of what stays behind: what systems, editors and unfinished runs leave."""

REPLACED = ["*.safetensors", "*.safetensors.index.json"]
"""Patterns of the repository's files that go when OUT has none of that name: weights of another result."""


def push(
    out: Annotated[Path, typer.Argument(help="A folder that mergecore run has made.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Where to, as org/name; made if it is not there.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one.")] = False,
    revision: Annotated[str, typer.Option(help="The branch; made if it is not there.")] = "main",
    message: Annotated[str, typer.Option(help="The commit's message.")] = "Upload a merged model",
) -> None:
    """Upload the finished folder OUT to the Hugging Face Hub, in one commit; HF_TOKEN says who you are."""
    from huggingface_hub import HfApi

    if "/" not in repo or not is_name(repo):
        raise InputError(f"{repo}: is no name of a repository on the Hub; write org/name")
    check_finished(out)
    hub = HfApi()
    with explained(repo, revision):
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
    say(f"{out}: is now {repo} at commit {commit.oid}")
    typer.echo(commit.commit_url)


def check_finished(out: Path) -> None:
    """Refuse what is no whole model: an unfinished run's folder, or one whose weights are missing or cut.

    Raises:
        InputError: it is no finished output.
    """
    if any(part.endswith(".partial") for part in out.absolute().parts):
        raise InputError(f"{out}: is what an unfinished run keeps; run its recipe again to finish it, and push OUT")
    if not out.is_dir():
        raise InputError(f"{out}: there is no such folder; give one that mergecore run has made")
    open_model(str(out), Registry(warn)).close()
