"""Extract an adapter from a fine-tune and its base, storing each difference as thin factors, whole, or not at all."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergecore.api import FLOATS, Budget, InputError, ModelError
from mergecore.tooling import Registry, class_name
from mergecore_lora.choices import Choices
from mergecore_lora.decomposing import Product, decompose, squared_norm
from mergecore_lora.experts import factored, laid_out, nest
from mergecore_lora.pairs import Entry, Kind, Pair, open_pair
from mergecore_lora.writing import TensorFile, peft_config, write_adapter

GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Suffixes of classes whose task PEFT has a name for. For other tasks PEFT would require the whole head, changed or
not, so they have no task name."""

TAKEN_FOR_EXPERTS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Module names that PEFT treats as experts in models with experts, unless they are listed as target parameters."""

ROOM = 3
"""Memory that a decomposition needs, as a multiple of the size of the matrix in float32."""


@dataclass(frozen=True)
class Outcome:
    """How a tensor was stored.

    Attributes:
        name: Name in transformers.
        how: ``lora``, ``save``, or ``drop``.
        rank: Rank of the factors, or 0 without factors.
        exact: Whether the factors come from a full singular value decomposition.
        error: Norm of the lost part, relative to the norm of the difference.
        norm: Frobenius norm of the difference.
    """

    name: str
    how: str
    rank: int
    exact: bool
    error: float
    norm: float


def extract(
    finetune: str,
    base: str,
    out: Path,
    choices: Choices,
    registry: Registry,
    *,
    memory: int,
    workers: int,
    force: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Any:
    """Write the adapter that turns `base` into `finetune`, and return its report (see `docs/lora.md`).

    Raises:
        InputError: The models do not match or are identical, or a tensor does not fit in memory.
    """
    pair = open_pair(finetune, base, registry, choices.added)
    try:
        pair = replace(pair, entries=tuple(laid_out(pair.entries)))
        _check(pair, memory)
        folders = [*pair.finetune.folders, *pair.base.folders]
        extractor = Extractor(pair, choices, Budget(memory), advance)
        stamps = {**pair.finetune.stamps, **pair.base.stamps}
        return write_adapter(out, folders, stamps, force, lambda file: extractor.fill(file, workers))
    finally:
        pair.close()


def _check(pair: Pair, memory: int) -> None:
    for entry in pair.entries:
        if (needed := _room(entry)) > memory:
            raise InputError(
                f"{entry.name}: its difference needs {needed / 1e6:.0f} MB of memory, more than the"
                f" {memory / 1e6:.0f} MB allowed; use --memory {needed // 10**6 + 1}MB"
            )


def _room(entry: Entry) -> int:
    return ROOM * 4 * entry.info.elements


@dataclass
class Extractor:
    """Process the tensors of a pair, several at a time."""

    pair: Pair
    choices: Choices
    budget: Budget
    advance: Callable[[int], None]

    def fill(self, file: TensorFile, workers: int) -> tuple[Any, Any]:
        """Add the adapter's tensors to a file. Return its config and the report."""
        largest = sorted(self.pair.entries, key=lambda entry: -entry.info.elements)
        stop = threading.Event()

        def work(entry: Entry) -> Outcome | None:
            if stop.is_set():
                return None
            try:
                with self.budget.hold(_room(entry)):
                    return self._outcome(entry, file)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = [outcome for outcome in pool.map(work, largest) if outcome is not None]
        outcomes = {outcome.name: outcome for outcome in sorted(found, key=lambda outcome: outcome.name)}
        if not outcomes:
            raise ModelError(f"{self.pair.finetune.reference}: identical to its base; there is nothing to extract")
        stacks = {entry.name for entry in self.pair.entries if entry.matrices}
        nest([name for name, found in outcomes.items() if found.how == "lora" and name in stacks], file.rename)
        rank = max((found.rank for found in outcomes.values() if found.how == "lora"), default=0)
        if rank and not self.choices.own_ranks:
            file.fill_up(rank)
        config = self._config(outcomes, self._save(outcomes, file), 0 if self.choices.own_ranks else rank)
        return config, self._report(outcomes)

    def _outcome(self, entry: Entry, file: TensorFile) -> Outcome | None:
        """Process a tensor, adding any factors to the file. Return None if it is the same in both models."""
        if entry.info.dtype not in FLOATS:
            self._check_same(entry)
            return None
        change = self.pair.difference(entry)
        total = squared_norm(change)
        if not math.isfinite(total):
            raise ModelError(f"{entry.name}: contains NaN or infinity in one of the models; fix the checkpoint first")
        how = self.choices.of(entry)
        norm = math.sqrt(total)
        self.advance(entry.info.nbytes)
        if not total and not entry.grown:
            return None
        if how != "lora":
            return Outcome(entry.name, how, 0, True, 0.0 if how == "save" else 1.0, norm)
        product, left = self._factors(entry, change, file)
        return Outcome(entry.name, "lora", product.rank, product.exact, math.sqrt(left / total), norm)

    def _factors(self, entry: Entry, change: Tensor, file: TensorFile) -> tuple[Product, float]:
        """Add the factors of a change to the file. Return them and the squared norm of the lost part."""
        if entry.matrices:
            a, b, product, left = factored(change, entry, self.choices.wanted, self.choices.dtype)
            file.add_factors(entry.name, a, b, matrices=len(change))
            return product, left
        plain = change.T.contiguous() if entry.transposed else change
        product, left = decompose(plain, self.choices.wanted, entry.name, self.choices.dtype)
        if entry.kind is Kind.EMBEDDING:
            file.add_factors(entry.module, product.left.T.contiguous(), product.right.T.contiguous(), embedding=True)
        else:
            file.add_factors(entry.module, product.right, product.left)
        return product, left

    def _check_same(self, entry: Entry) -> None:
        theirs = torch.empty_like(self.pair.value(entry))
        self.pair.base.read(entry.base, 0, theirs.view(-1))
        if not torch.equal(self.pair.value(entry), theirs):
            raise ModelError(f"{entry.name}: has different {entry.info.dtype} values, which an adapter cannot store")

    def _save(self, outcomes: dict[str, Outcome], file: TensorFile) -> list[str]:
        """Add whole tensors to the file. Return the modules that they are saved with."""
        factored = {name.rpartition(".")[0] for name, outcome in outcomes.items() if outcome.how == "lora"}
        saved = [e for e in self.pair.entries if e.name in outcomes and outcomes[e.name].how == "save"]
        owners = {entry.module for entry in saved if entry.kind is not Kind.BIAS}
        modules = sorted(name for name in owners if not any(name.startswith(f"{other}.") for other in owners))
        for module in modules:
            self._save_module(module, factored, file)
        for head, entry in ((self.pair.tied[e.name], e) for e in saved if e.name in self.pair.tied):
            file.add(head, self.pair.value(entry))  # PEFT saves both, tied or not
            modules.append(head.rpartition(".")[0])
        for entry in saved:
            if entry.kind is Kind.BIAS and not any(entry.name.startswith(f"{module}.") for module in modules):
                name = f"{entry.module}.base_layer.bias" if entry.module in factored else entry.name
                file.add(name, self.pair.value(entry))
        return modules

    def _save_module(self, module: str, factored: Iterable[str], file: TensorFile) -> None:
        """Add everything in a module to the file, because PEFT saves modules, not parameters."""
        inside = next((name for name in sorted(factored) if f"{name}.".startswith(f"{module}.")), None)
        if inside is not None or not module:
            what = f"next to {inside!r}" if module else "outside of all modules"
            raise ModelError(
                f"{module or self.pair.base.reference}: PEFT cannot store a changed parameter separately ({what});"
                " pass --keep drop to discard such changes"
            )
        for entry in self.pair.entries:
            if entry.name.startswith(f"{module}.") and entry.info.dtype in FLOATS:
                file.add(entry.name, self.pair.value(entry))

    def _config(self, outcomes: dict[str, Outcome], saved: list[str], rank: int) -> Any:
        """Return the adapter's config. `rank` is that of all factors, or 0 if every tensor has its own."""
        entries = {entry.name: entry for entry in self.pair.entries}
        every = [entry.module for entry in entries.values() if entry.name.endswith(".weight")]
        experts = any(entry.kind is Kind.EXPERTS for entry in entries.values())
        ranks, parameters = dict[str, int](), dict[str, int]()
        for name, found in outcomes.items():
            module = name.rpartition(".")[0]
            taken = experts and module.rpartition(".")[2] in TAKEN_FOR_EXPERTS
            if found.how == "lora" and (taken or entries[name].matrices):
                parameters[name] = rank or found.rank
            elif found.how == "lora":
                ranks[module] = rank or found.rank
        turned = any(entries[name].transposed and not entries[name].matrices
                     for name, found in outcomes.items() if found.how == "lora")  # fmt: skip
        biases = any(entries[name].kind is Kind.BIAS for name, found in outcomes.items() if found.how == "save")
        embedding = any(entries[name].kind is Kind.EMBEDDING for name in outcomes)
        class_ = class_name(self.pair.base.config, self.pair.base.reference)
        task = "SEQ_2_SEQ_LM" if self.pair.base.config.get("is_encoder_decoder") else "CAUSAL_LM"
        heads = any(entry.kind is Kind.HEAD for entry in entries.values())
        return peft_config(
            self.pair.base.reference,
            task if class_.endswith(GENERATES) else None,
            ranks,
            parameters,
            every,
            modules_to_save=saved or None,
            fan_in_fan_out=turned,
            bias="all" if biases else "none",
            ensure_weight_tying=embedding and not heads,
        )

    def _report(self, outcomes: dict[str, Outcome]) -> Any:
        total = math.fsum(found.norm**2 for found in outcomes.values())
        lost = math.fsum((found.error * found.norm) ** 2 for found in outcomes.values())
        return {
            "how": f"extracted from {self.pair.finetune.reference}",
            "base": self.pair.base.reference,
            "notes": self._notes(outcomes),
            "error": math.sqrt(lost / total) if total else 0.0,
            "tensors": [asdict(found) for found in outcomes.values()],
        }

    def _notes(self, outcomes: dict[str, Outcome]) -> list[str]:
        dropped = [name for name, found in outcomes.items() if found.how == "drop"]
        rank = max((found.rank or 0 for found in outcomes.values()), default=0)
        return [*self._of_tokens(), *self._of_heads(outcomes), *self.choices.program.notes(rank, dropped)]

    def _of_tokens(self) -> list[str]:
        rows = {entry.info.shape[0] for entry in self.pair.entries if entry.grown}
        return [
            f"the adapter is for {self.pair.base.reference} with {count} tokens: call resize_token_embeddings({count})"
            " on it before loading the adapter, and use the tokenizer of the fine-tune"
            for count in rows
        ]

    def _of_heads(self, outcomes: dict[str, Outcome]) -> list[str]:
        heads = any(entry.kind is Kind.HEAD for entry in self.pair.entries)
        embeddings = [e for e in self.pair.entries if e.kind is Kind.EMBEDDING and e.name in outcomes]
        if heads or not any(
            outcomes[e.name].how == "lora" and not e.module.endswith("embed_tokens") for e in embeddings
        ):
            return []
        return [
            f"{embeddings[0].name}: is also the head, which PEFT 0.21 changes only when it merges the adapter;"
            " call merge_and_unload()"
        ]
