"""Chat templates: found by name, file or text, tried on a conversation, and put where the tokenizer has its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from mergecore.api import InputError, TokenizerRequest
from mergecore_tokenizer.files import as_json, read_json

SAMPLE = [
    {"role": "user", "content": "Which is larger, 2 or 3?"},
    {"role": "assistant", "content": "3 is."},
    {"role": "user", "content": "Thanks."},
]
"""Without a system message: some templates refuse one."""

FILE_NAME_LENGTH = 255


def apply(request: TokenizerRequest, folders: Sequence[Path], files: dict[str, bytes]) -> list[str]:
    """Put the template that the recipe asks for among the tokenizer's files; returns notes.

    Raises:
        InputError: there is no such template, or it does not work.
    """
    wanted = request.chat_template
    if not wanted:
        return []
    template = _most_frequent(folders) if wanted == "auto" else _find(wanted, request.folder)
    if template is None:
        return ["chat_template: none of the models has one, so there is none"]
    settings: dict[str, Any] = json.loads(files.get("tokenizer_config.json", b"{}"))
    check(template, settings)
    _put(template, settings, files)
    return []


def bundled() -> dict[str, Any]:
    """The templates that come with this package, by name."""
    folder = resources("mergecore_tokenizer") / "templates"
    return {item.name.removesuffix(".jinja"): item for item in sorted(folder.iterdir(), key=lambda item: item.name)}


def template_of(folder: Path) -> str | None:
    """The chat template of a model folder; of several, the one called default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = read_json(folder / name).get("chat_template")
        if isinstance(value, list):
            named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
            value = named.get("default")
        if isinstance(value, str):
            return value
    return None


def _most_frequent(folders: Sequence[Path]) -> str | None:
    """The template that most of the models have, of equally many the first."""
    found = Counter(template.strip() for folder in folders if (template := template_of(folder)))
    return max(found, key=found.__getitem__) if found else None


def _find(wanted: str, folder: Path) -> str:
    """A template by the name of a bundled one, by a file's name relative to the recipe, or as it is."""
    known = bundled()
    if wanted in known:
        return str(known[wanted].read_text("utf-8"))
    if len(wanted) <= FILE_NAME_LENGTH and "\n" not in wanted and "{" not in wanted:
        path = folder / Path(wanted).expanduser()
        if path.is_file():
            try:
                return path.read_text("utf-8")
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: cannot be read as text: {error}") from None
    if "{" not in wanted:
        names = ", ".join(["auto", *known])
        raise InputError(f"{wanted!r} is neither a file nor Jinja text nor one of {names}")
    return wanted


def check(template: str, settings: dict[str, Any]) -> None:
    """Try a template on a conversation, as transformers would.

    Raises:
        InputError: it fails there, or says nothing of what was said.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refused(Exception):
        """What a template raises of its own."""

    def raise_exception(message: str) -> None:
        raise Refused(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: form}
    tokens = {role: _text(settings.get(role)) for role in ("bos_token", "eos_token", "pad_token", "unk_token")}
    try:
        text = environment.from_string(template).render(messages=SAMPLE, add_generation_prompt=True, **tokens)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the template is not valid Jinja, line {error.lineno}: {error.message}") from None
    except Exception as error:
        raise InputError(f"the template fails on a conversation of user and assistant: {error}") from None
    if SAMPLE[0]["content"] not in text:
        raise InputError("the template leaves out what the user says; it must use messages")


def _text(token: Any) -> str:
    """A special token as tokenizer_config.json gives it: text, or an entry with its content."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _put(template: str, settings: dict[str, Any], files: dict[str, bytes]) -> None:
    """Where the tokenizer has its own template; in a file of its own where it has none."""
    if "chat_template.json" in files:
        files["chat_template.json"] = as_json({"chat_template": template})
    own = settings.get("chat_template")
    if own is None or "chat_template.jinja" in files:
        files["chat_template.jinja"] = template.encode("utf-8")
        return
    others = [item for item in own if item.get("name") != "default"] if isinstance(own, list) else []
    named = [{"name": "default", "template": template}, *others] if others else template
    files["tokenizer_config.json"] = as_json({**settings, "chat_template": named})
