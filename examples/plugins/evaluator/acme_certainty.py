"""Evaluator that measures how certain a model is about random tokens. It needs no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergecore.api import Evaluator, Score, Subject, param


@dataclass(frozen=True, kw_only=True)
class Certainty(Evaluator):
    """Mean probability of the most likely next token after random tokens.

    Random tokens are hard to predict, so a high value means that the model ignores its input.
    """

    sequences: int = param(16, "Number of random sequences.", minimum=2)
    length: int = param(8, "Tokens per sequence.", minimum=1)
    seed: int = param(0, "Random seed of the tokens.", minimum=0)

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        import torch  # imported here to keep listing plugins fast

        model = subject.model
        source = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(model.config.vocab_size, (self.sequences, self.length), generator=source)
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device)).logits[:, -1]
        likeliest = logits.double().softmax(-1).amax(-1)
        error = likeliest.std() / self.sequences**0.5
        return [Score("certainty", likeliest.mean().item(), error.item(), self.sequences)]
