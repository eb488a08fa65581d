"""The subprocess of a health check, where `mergecore.api.run_bounded` calls `check` to measure models."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Before the limit on memory is set. Models import the last, which takes 100 MB if scikit-learn is installed.
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin  # noqa: F401

from mergecore.api import Subject
from mergecore_eval.figures import TOKENS, Figures
from mergecore_eval.likelihood import encode, shared, start_ids
from mergecore_eval.subjects import Folder
from mergecore_eval.writing import written

SAMPLE = Path(__file__).with_name("sample.txt")
WRITTEN = 64
"""Maximum number of tokens in an answer."""
QUESTION, ANSWER = "Describe the sea in one sentence.", "The sea is wide, deep and never quite still."
BEGINNING = "The letter arrived on a rainy morning, and"
"""Text to continue if there is no chat template."""
TEXT_LENGTH, TEXT_SECONDS = 50_000, 5
"""Limits of what a chat template writes for one question, and of the time it takes."""


class Unbounded(Exception):
    """A chat template exceeds its limits. The message says which."""


class NotFinite(Exception):
    """The logits are NaN or infinite. The message is the name of the first module with such an output."""


@dataclass(frozen=True)
class Predictions:
    """The log-probabilities of all tokens at each position of a text, float32 of shape (positions, vocabulary)."""

    ids: list[int]
    vocabulary: Mapping[str, int]
    rows: Tensor


def losses(subject: Subject, merge: Predictions | None) -> tuple[Figures, Predictions]:
    """Return the losses of a model and its predictions. The divergence is measured against `merge`.

    Raises:
        NotFinite: The logits are NaN or infinite.
    """
    predictions, size = predict(subject)
    found = -predictions.rows.gather(1, torch.tensor(predictions.ids[1:])[:, None]).double()
    figures = Figures(
        name=subject.name,
        tokens=sum(token != subject.tokenizer.unk_token_id for token in predictions.ids[1:]),
        loss=float(found.mean()),
        loss_per_byte=float(found.sum()) / size,
        guess=math.log(predictions.rows.shape[1]),
        divergence=divergence(predictions, merge) if merge else None,
    )
    return figures, predictions


def with_answer(figures: Figures, subject: Subject) -> Figures:
    """Return a model's figures with those about its answer. Raise `NotFinite` as in `losses`."""
    try:
        (begun, end), prompt, trouble = _end_of_turn(subject.tokenizer), _prompt(subject.tokenizer), ""
    except Unbounded as error:
        begun, end, prompt, trouble = [], None, _beginning(subject.tokenizer), str(error)
    stops = _stop_ids(subject.model)
    answer = written(subject, prompt, WRITTEN)
    return replace(
        figures,
        repeated=repeated(answer),
        stop=None if end is None else float(_logits(subject.model, begun)[-1].softmax(-1)[end]),
        ends=None if end is None else end in stops,
        written=len(answer),
        stopped=bool(answer) and answer[-1] in stops,
        answer=str(subject.tokenizer.decode(answer)),
        trouble=trouble,
    )


def predict(subject: Subject) -> tuple[Predictions, float]:
    """Return a model's predictions at each position of the sample, and the number of bytes that they cover."""
    text = SAMPLE.read_text("utf-8")
    ids = [*start_ids(subject.tokenizer), *encode(subject.tokenizer, text)]
    most = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None) or TOKENS
    seen = ids[: min(TOKENS, most)]
    rows = _logits(subject.model, seen)[:-1].log_softmax(-1)
    size = len(text.encode()) * (len(seen) - 1) / (len(ids) - 1)
    return Predictions(seen, subject.tokenizer.get_vocab(), rows), size


def divergence(model: Predictions, merge: Predictions) -> float | None:
    """Return KL(model || merge) in nats, averaged over the positions, or None if the vocabularies differ.

    Padding rows beyond the smaller vocabulary are ignored.
    """
    if model.ids != merge.ids or model.vocabulary != merge.vocabulary:
        return None
    width = min(model.rows.shape[1], merge.rows.shape[1])
    total = 0.0
    for ours, theirs in zip(model.rows, merge.rows, strict=True):  # row by row to save memory
        p, q = (row[:width].double().log_softmax(-1) for row in (ours, theirs))
        total += float((p.exp() * (p - q)).sum())
    return total / len(model.rows)


def repeated(ids: Sequence[int]) -> float:
    """Return the share of 4-grams of ids that repeat an earlier one."""
    groups = list(zip(ids, ids[1:], ids[2:], ids[3:]))
    return 1 - len(set(groups)) / len(groups) if groups else 0.0


@torch.inference_mode()
def _logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Return the logits as float32 on the CPU, of shape (ids, vocabulary)."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits: Tensor = model(batch, use_cache=False).logits[0].float().cpu()
    if not bool(logits.isfinite().all()):
        raise NotFinite(_first_not_finite(model, batch))
    return logits


def _first_not_finite(model: Any, batch: Tensor) -> str:
    found: list[str] = []

    def look(name: str, _module: Any, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and not bool(first.isfinite().all()):
            found.append(name)

    for name, module in model.named_modules():
        module.register_forward_hook(partial(look, name))
    model(batch, use_cache=False)
    return next(iter(found), "the logits")


def _chat(tokenizer: Any, messages: Sequence[tuple[str, str]], **options: Any) -> str | None:
    """Render a chat with the tokenizer's template, or return None if it has none or rejects the chat.

    Raises:
        Unbounded: The template takes too much time or memory, or writes too much.
    """
    try:
        turns = [{"role": role, "content": content} for role, content in messages]
        with _limited(TEXT_SECONDS):
            text = str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Unbounded:
        raise
    except MemoryError:
        raise Unbounded("its chat template needs too much memory") from None
    except Exception:  # templates can raise anything
        return None
    if len(text) > TEXT_LENGTH:
        raise Unbounded(f"its chat template writes {len(text)} characters for one question")
    return text


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise `Unbounded` in Python code that takes longer. Only the limits of the process stop a single call into C."""

    def stop(_number: int, _frame: Any) -> None:
        raise Unbounded(f"its chat template takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _prompt(tokenizer: Any) -> list[int]:
    text = _chat(tokenizer, [("user", QUESTION)], add_generation_prompt=True)
    return encode(tokenizer, text) if text else _beginning(tokenizer)


def _beginning(tokenizer: Any) -> list[int]:
    return [*start_ids(tokenizer), *encode(tokenizer, BEGINNING)]


def _end_of_turn(tokenizer: Any) -> tuple[list[int], int | None]:
    """Return a chat up to the end of an answer, and the special token that the template adds there, if any."""
    text = _chat(tokenizer, [("user", QUESTION), ("assistant", ANSWER)]) or ""
    before, _, _ = text.rpartition(ANSWER)
    ids = encode(tokenizer, text)
    begin = shared(encode(tokenizer, before + ANSWER), ids)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Some templates put a space or a newline before it.
    end = next((place for place in range(begin, min(begin + 3, len(ids))) if ids[place] in special), None)
    return (ids, None) if end is None or not before else (ids[:end], ids[end])


def _stop_ids(model: Any) -> list[int]:
    found = model.generation_config.eos_token_id
    return [] if found is None else found if isinstance(found, list) else [found]


def _of_its_class(folder: Folder) -> Folder:
    """Load the model. Raise `ValueError` if it cannot generate text, like BERT, which transformers loads anyway."""
    kind, stated = type(folder.model).__name__, folder.model.config.architectures
    if stated and kind not in stated:
        raise ValueError(f"it is a {stated[0]}, which cannot generate text")
    return folder


def _words(error: Exception, folder: Folder) -> str:
    """Return the text of an error without the path of the model folder, which is private."""
    text = str(error) or type(error).__name__
    if "trust_remote_code" in f"{error.__cause__}":
        return "it needs custom code, which is never run"
    return text.replace(str(folder.folder), folder.name).removeprefix(f"{folder.name}: ")


def check(request: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
    """Measure the models in a request, starting with the merge. Yield what is known about a model, with its number.

    That is what it is ``doing``, the ``figures`` as soon as the loss is known and again when they are complete, the
    module where ``nonfinite`` numbers start, or an ``error``.
    """
    merge = None
    for number, item in enumerate(request):
        subject = Folder(Path(item["folder"]), item["name"], item["dtype"], guarded=False)
        try:
            yield {"model": number, "doing": "using its tokenizer"}
            encode(subject.tokenizer, SAMPLE.read_text("utf-8"))
            yield {"model": number, "doing": "loading its weights"}
            _of_its_class(subject)
            yield {"model": number, "doing": "measuring its loss"}
            figures, predictions = losses(subject, merge)
            yield {"model": number, "doing": "writing an answer", "figures": asdict(figures)}
            yield {"model": number, "figures": asdict(with_answer(figures, subject))}
            merge = merge or predictions
        except NotFinite as place:
            yield {"model": number, "nonfinite": str(place)}
        except MemoryError:
            raise
        except Exception as error:  # transformers can raise anything on an unusual model
            yield {"model": number, "error": _words(error, subject)}
        if merge is None:
            return
        del subject
        gc.collect()  # one model at a time
