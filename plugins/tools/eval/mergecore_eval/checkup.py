"""The process of a health check: measures a merge and then its parents, a line of JSON for each."""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergecore.api import Subject
from mergecore_eval.figures import TOKENS, Figures
from mergecore_eval.likelihood import encode, shared, start_ids
from mergecore_eval.subjects import Folder
from mergecore_eval.writing import written

SAMPLE = Path(__file__).with_name("sample.txt")
WRITTEN = 64
"""Tokens of an answer."""
QUESTION, ANSWER = "Describe the sea in one sentence.", "The sea is wide, deep and never quite still."
BEGINNING = "The letter arrived on a rainy morning, and"
"""What is gone on with where there is no chat template."""


class NotFinite(Exception):
    """The logits are NaN or infinite; its text is the first module whose output is."""


@dataclass(frozen=True)
class Predictions:
    """The log-probabilities of all tokens at each place of a text, float32 of shape (places, vocabulary)."""

    ids: list[int]
    vocabulary: Mapping[str, int]
    rows: Tensor


def measure(subject: Subject, merge: Predictions | None) -> tuple[Figures, Predictions]:
    """The figures of a model and what it predicts; `merge` is what the divergence is from.

    Raises:
        NotFinite: it predicts nothing.
    """
    predictions, size = predict(subject)
    losses = -predictions.rows.gather(1, torch.tensor(predictions.ids[1:])[:, None]).double()
    begun, end = _end_of_turn(subject.tokenizer)
    stops = _stop_ids(subject.model)
    answer = written(subject, _prompt(subject.tokenizer), WRITTEN)
    figures = Figures(
        name=subject.name,
        loss=float(losses.mean()),
        loss_per_byte=float(losses.sum()) / size,
        guess=math.log(predictions.rows.shape[1]),
        divergence=divergence(predictions, merge) if merge else None,
        repeated=repeated(answer),
        stop=None if end is None else float(_logits(subject.model, begun)[-1].softmax(-1)[end]),
        ends=None if end is None else end in stops,
        written=len(answer),
        stopped=bool(answer) and answer[-1] in stops,
        answer=str(subject.tokenizer.decode(answer)),
    )
    return figures, predictions


def predict(subject: Subject) -> tuple[Predictions, float]:
    """What a model predicts at each place of the sample, and the bytes of what it predicts there."""
    text = SAMPLE.read_text("utf-8")
    ids = [*start_ids(subject.tokenizer), *encode(subject.tokenizer, text)]
    most = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None) or TOKENS
    seen = ids[: min(TOKENS, most)]
    rows = _logits(subject.model, seen)[:-1].log_softmax(-1)
    size = len(text.encode()) * (len(seen) - 1) / (len(ids) - 1)
    return Predictions(seen, subject.tokenizer.get_vocab(), rows), size


def divergence(model: Predictions, merge: Predictions) -> float | None:
    """KL(model || merge), mean over the places in nats; None where the ids do not mean the same.

    Rows beyond the smaller vocabulary, which are there for padding, are left out.
    """
    if model.ids != merge.ids or model.vocabulary != merge.vocabulary:
        return None
    width = min(model.rows.shape[1], merge.rows.shape[1])
    total = 0.0
    for ours, theirs in zip(model.rows, merge.rows, strict=True):  # row by row: in float64 all would be large
        p, q = (row[:width].double().log_softmax(-1) for row in (ours, theirs))
        total += float((p.exp() * (p - q)).sum())
    return total / len(model.rows)


def repeated(ids: Sequence[int]) -> float:
    """Share of the groups of four ids that were there before."""
    groups = list(zip(ids, ids[1:], ids[2:], ids[3:]))
    return 1 - len(set(groups)) / len(groups) if groups else 0.0


@torch.inference_mode()
def _logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Float32 on the CPU, of shape (ids, vocabulary)."""
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
    """A chat as the tokenizer's template renders it; None: there is no template, or it refuses such a chat."""
    try:
        turns = [{"role": role, "content": content} for role, content in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Exception:  # templates raise whatever they like
        return None


def _prompt(tokenizer: Any) -> list[int]:
    text = _chat(tokenizer, [("user", QUESTION)], add_generation_prompt=True)
    return encode(tokenizer, text) if text else [*start_ids(tokenizer), *encode(tokenizer, BEGINNING)]


def _end_of_turn(tokenizer: Any) -> tuple[list[int], int | None]:
    """A chat up to the end of an answer, and the special token that the template puts there; None: it puts none."""
    text = _chat(tokenizer, [("user", QUESTION), ("assistant", ANSWER)]) or ""
    before, _, _ = text.rpartition(ANSWER)
    ids = encode(tokenizer, text)
    begin = shared(encode(tokenizer, before + ANSWER), ids)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Some templates have a space or a line's end before it.
    end = next((place for place in range(begin, min(begin + 3, len(ids))) if ids[place] in special), None)
    return (ids, None) if end is None or not before else (ids[:end], ids[end])


def _stop_ids(model: Any) -> list[int]:
    found = model.generation_config.eos_token_id
    return [] if found is None else found if isinstance(found, list) else [found]


def _of_its_class(folder: Folder) -> Folder:
    """The model, loaded; ValueError if transformers took it for one that writes text, such as BERT, which does not."""
    kind, stated = type(folder.model).__name__, folder.model.config.architectures
    if stated and kind not in stated:
        raise ValueError(f"it is a {stated[0]}, which does not write text on")
    return folder


def _words(error: Exception, folder: Folder) -> str:
    """An error without the way to the model's folder, which is nobody's business."""
    text = str(error) or type(error).__name__
    if "trust_remote_code" in f"{error.__cause__}":
        return "it needs code of its own, which is never run"
    return text.replace(str(folder.folder), folder.name).removeprefix(f"{folder.name}: ")


def main() -> None:
    """Answer the request on standard input; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    merge = None
    for item in json.load(sys.stdin):
        subject = Folder(Path(item["folder"]), item["name"], item["dtype"])
        answer: dict[str, Any]
        try:
            figures, predictions = measure(_of_its_class(subject), merge)
            merge, answer = merge or predictions, {"figures": asdict(figures)}
        except NotFinite as place:
            answer = {"nonfinite": str(place)}
        except Exception as error:  # of transformers, whatever a model leads it to
            answer = {"error": _words(error, subject)}
        print(json.dumps(answer), file=answers, flush=True)
        if merge is None:
            return
        del subject
        gc.collect()  # one model at a time
