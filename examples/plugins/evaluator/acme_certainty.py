"""How sure a model is of noise, which needs no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergecore.api import Evaluator, Score, Subject, param


@dataclass(frozen=True, kw_only=True)
class Certainty(Evaluator):
    """Mean probability of the likeliest next token after random ones.

    There is little to be sure of: a model that says the same whatever it reads shows here.
    """

    sequences: int = param(16, "Sequences of random tokens.", minimum=2)
    length: int = param(8, "Tokens of each.", minimum=1)
    seed: int = param(0, "Of the tokens.", minimum=0)

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        import torch  # imported here, so that lists of plugins stay quick

        model = subject.model
        source = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(model.config.vocab_size, (self.sequences, self.length), generator=source)
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device)).logits[:, -1]
        likeliest = logits.double().softmax(-1).amax(-1)
        error = likeliest.std() / self.sequences**0.5
        return [Score("certainty", likeliest.mean().item(), error.item(), self.sequences)]
