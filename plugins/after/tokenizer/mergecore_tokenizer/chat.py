"""Chat templates: find one by name, file, or text, test it on a conversation, and add it to the tokenizer files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from mergecore.api import InputError, TokenizerRequest, run_bounded
from mergecore_tokenizer.files import as_json, read_bytes, read_optional

SAMPLE = [
    {"role": "user", "content": "Which is larger, 2 or 3?"},
    {"role": "assistant", "content": "3 is."},
    {"role": "user", "content": "Thanks."},
]
"""Has no system message, because some templates reject one."""

FILE_NAME_LENGTH = 255
SECONDS, MEMORY = 10, 3 * 10**8
"""Limits of the process that renders the sample, and of its memory in bytes."""


def apply(request: TokenizerRequest, folders: Sequence[Path], files: dict[str, bytes]) -> tuple[list[str], str | None]:
    """Add the template that the recipe requests to the tokenizer's files.

    Returns:
        Notes, and what the output's template puts after the assistant's answer, or None without a working template.

    Raises:
        InputError: the requested template does not exist or does not work.
    """
    wanted = request.chat_template
    settings: dict[str, Any] = json.loads(files.get("tokenizer_config.json", b"{}"))
    notes = []
    if wanted:
        template, where = _most_frequent(folders) if wanted == "auto" else (_find(wanted, request.folder), "")
        if template is not None:
            after = check(template, settings, where)
            _put(template, settings, files)
            return [], after
        notes = ["chat_template: none of the models has a chat template, so the result has none"]
    own = _template_in(files, settings)
    try:
        return notes, check(own, settings) if own is not None else None
    except InputError:
        return notes, None  # the template is the model's own, and nobody asked for it


def bundled() -> dict[str, Any]:
    """Return the templates bundled with this package, by name."""
    folder = resources("mergecore_tokenizer") / "templates"
    return {item.name.removesuffix(".jinja"): item for item in sorted(folder.iterdir(), key=lambda item: item.name)}


def template_of(folder: Path) -> str | None:
    """Return the chat template of a model folder. If there are several, return the one called default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return read_bytes(path).decode("utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (template := _default(read_optional(folder / name).get("chat_template"))) is not None:
            return template
    return None


def _default(value: Any) -> str | None:
    """Return the template that a file lists, or the one called default."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _most_frequent(folders: Sequence[Path]) -> tuple[str | None, str]:
    """Return the template that most models have, and the start of messages about it. The first one wins a tie."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        if template := template_of(folder):
            found.setdefault(template.strip(), []).append(folder)
    if not found:
        return None, ""
    best = max(found, key=lambda template: len(found[template]))
    return best, f"{found[best][0]}: "


def _find(wanted: str, folder: Path) -> str:
    """Return a template, given its bundled name, a file name relative to the recipe, or its text."""
    known = bundled()
    if wanted in known:
        return str(known[wanted].read_text("utf-8"))
    if len(wanted) <= FILE_NAME_LENGTH and "\n" not in wanted and "{" not in wanted:
        path = folder / Path(os.path.expanduser(wanted))
        if path.is_file():
            try:
                return read_bytes(path).decode("utf-8")
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: cannot be read as text: {error}") from None
    if "{" not in wanted:
        names = ", ".join(["auto", *known])
        raise InputError(f"{wanted!r} is not a file, not Jinja text, and not one of {names}")
    return wanted


def check(template: str, settings: dict[str, Any], where: str = "") -> str:
    """Check a template by rendering a sample conversation, in a process with limits on memory and time.

    Returns:
        What the template puts after the assistant's answer.

    Raises:
        InputError: it fails, or its output omits what the user said.
    """
    request = {"template": template, "settings": settings}
    done = run_bounded("mergecore_tokenizer.chat:rendered", request, memory=MEMORY, seconds=SECONDS)
    if done.cause:
        raise InputError(f"{where}the template cannot be rendered: {done.cause}; choose another one")
    problem, *rest = done.values
    if problem:
        raise InputError(f"{where}{problem}")
    return str(rest[0])


def turn_notes(after: str, ids: Mapping[str, int], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note if generation does not stop at the token that ends an answer in the output's chat template.

    Args:
        after: what the template puts after the assistant's answer.
        ids: the ID of every token.
        configs: contents of generation_config.json and config.json. The first that lists stop tokens counts.
    """
    stops = next((value for config in configs if (value := config.get("eos_token_id")) is not None), None)
    if stops is None:
        return []
    end = max((token for token in ids if token and after.lstrip().startswith(token)), key=len, default=None)
    numbers = stops if isinstance(stops, list) else [stops]
    if end is None or ids[end] in numbers:
        return []
    return [
        f"answers end with {end!r} (ID {ids[end]}) in the chat template, but generation stops only at ID"
        f" {', '.join(map(str, numbers))}; add it to eos_token_id in generation_config.json"
    ]


def _template_in(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str | None:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    return _default(settings.get("chat_template"))


def rendered(request: Mapping[str, Any]) -> Iterator[str]:
    """Render the sample as transformers would. Yield what is wrong with the template, or an empty string and what
    follows the answer."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refused(Exception):
        """Raised by the template itself."""

    def raise_exception(message: str) -> None:
        raise Refused(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: form}
    roles = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {role: _text(request["settings"].get(role)) for role in roles}
    try:
        template = environment.from_string(request["template"])
        text = template.render(messages=SAMPLE, add_generation_prompt=True, **tokens)
        yield "" if SAMPLE[0]["content"] in text else "the template omits what the user says; it must use `messages`"
        yield text.partition(SAMPLE[1]["content"])[2]
    except MemoryError:
        raise
    except jinja2.TemplateSyntaxError as error:
        yield f"the template is not valid Jinja (line {error.lineno}): {error.message}"
    except Exception as error:
        yield f"the template fails on a conversation between user and assistant: {error}"


def _text(token: Any) -> str:
    """Return the text of a special token in tokenizer_config.json, which is a string or an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _put(template: str, settings: dict[str, Any], files: dict[str, bytes]) -> None:
    """Replace the tokenizer's template in place, or add it as a separate file if there is none."""
    if "chat_template.json" in files:
        files["chat_template.json"] = as_json({"chat_template": template})
    own = settings.get("chat_template")
    if own is None or "chat_template.jinja" in files:
        files["chat_template.jinja"] = template.encode("utf-8")
        return
    others = [item for item in own if item.get("name") != "default"] if isinstance(own, list) else []
    named = [{"name": "default", "template": template}, *others] if others else template
    files["tokenizer_config.json"] = as_json({**settings, "chat_template": named})
