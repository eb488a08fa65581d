"""Plan a mixture: determine where each weight comes from, reading only the headers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergecore.api import FLOATS, Input, Job, Method, ModelError, PluginError, TensorInfo
from mergecore.api.files import TORCH_NAMES, common_dtype
from mergecore.tooling import (
    Architecture,
    Checkpoint,
    Place,
    Plan,
    Recipe,
    Registry,
    Weight,
    model_input,
    parse_definition,
    parse_recipe,
    stored_name,
)
from mergecore_moe.config import Config, Expert
from mergecore_moe.families import PROJECTIONS, Family
from mergecore_moe.method import Moe
from mergecore_moe.models import LAYER, MLP, Models
from mergecore_moe.stacking import stacked

if TYPE_CHECKING:
    from torch import Tensor

COMMAND = "moe"


class Made:
    """A `mergecore.api.Reader` of tensors that this tool has computed."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.tensors = {name: TensorInfo("F32", tuple(value.shape)) for name, value in values.items()}
        self._values = values

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        out.copy_(self._values[name].reshape(-1)[start : start + len(out)])

    def close(self) -> None:
        """Do nothing, because no file is open."""


def recipe_of(config: Config) -> Recipe:
    """Convert the config to what the core expects: a recipe with only the base."""
    value = {
        "merge_method": COMMAND,
        "base_model": config.base,
        "models": [{"model": config.base}],
        "seed": config.seed,
    }
    return parse_recipe(Place(value), config.text)


@dataclass(frozen=True)
class Mixture:
    """A config, its models, and the family that it is written as."""

    config: Config
    recipe: Recipe
    models: Models
    family: Family

    @property
    def layers(self) -> int:
        return int(self.models.dense.config["num_hidden_layers"])

    @property
    def hidden(self) -> int:
        return int(self.models.dense.config["hidden_size"])

    @cached_property
    def gated(self) -> bool:
        """Whether the gate of the shared expert comes from prompts."""
        shared = self.config.shared
        return bool(self.config.prompted and self.family.shared_gate and shared and shared[0].positive)

    @property
    def prompted(self) -> tuple[Expert, ...]:
        """The experts with rows in the routers. A shared one with prompts comes last."""
        return (*self.config.experts, *(self.config.shared if self.gated else ()))

    @property
    def dtype(self) -> str:
        """Dtype of all float tensors of the result."""
        found = {info.dtype for info in self.models.base.tensors.values() if info.dtype in FLOATS}
        return self.config.dtype or common_dtype(found)

    def plan(self, gates: Tensor, registry: Registry) -> Plan:
        """Return the plan with the given router weights.

        Args:
            gates: Float32 tensor of shape (layers, experts, hidden size). If `gated`, the shared expert's row is last.
            registry: The plugins.

        Raises:
            PluginError: The family lists weights that are not in the definition of its class.
        """
        made = self._made(gates)
        base = self.models.base
        reader, pieces = Made(made), self._pieces()
        stacks = stacked(pieces, len(self.config.experts), self.models.checkpoints)
        shown = replace(
            base,
            tensors={**base.tensors, **reader.tensors, **stacks.tensors},
            readers={**base.readers, **dict.fromkeys(reader.tensors, reader), **dict.fromkeys(stacks.tensors, stacks)},
            made_of=_digest(made, pieces, self.models.checkpoints),
        )
        checkpoints = (shown, *self.models.checkpoints[1:])
        jobs = tuple(self._jobs(shown))
        every = (jobs, *pieces.values())
        used = {(item.model, item.tensor) for made in every for job in made for item in job.inputs}
        result = self._settings()
        architecture = _architecture(self.family, registry, result, {job.name for job in jobs})
        return Plan(
            recipe=self.recipe,
            method=Moe,
            architecture=architecture,
            checkpoints=checkpoints,
            config_source=0,
            jobs=jobs,
            config=result,
            dropped=sum(len(checkpoint.tensors) for checkpoint in checkpoints) - len(used),
            notes=(*self.models.notes, *self.family.notes(self.models.dense, self.config), *self._notes()),
            command=COMMAND,
        )

    def _settings(self) -> dict[str, Any]:
        config = self.models.dense.config
        keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
        return {
            **config,
            **self.family.settings(self.models.dense, self.config),
            **dict.fromkeys(keys, TORCH_NAMES[self.dtype]),
            "architectures": [self.family.model_class],
            "model_type": self.family.model_type,
        }

    def _made(self, gates: Tensor) -> dict[str, Tensor]:
        """Return routers, gates of shared experts, and weights that only the family has, by output name."""
        import torch

        found: dict[str, Tensor] = {}
        experts = len(self.config.experts)
        for layer in range(self.layers):
            prefix = LAYER.format(layer=layer)
            found[prefix + self.family.router] = gates[layer, :experts].contiguous()
            if self.family.shared_gate:  # 0 without prompts, so that the sigmoid is 1/2 for every token
                row = gates[layer, experts:] if self.gated else torch.zeros(1, self.hidden)
                found[prefix + self.family.shared_gate] = row.contiguous()
            for name, shape in self.family.zeros(self.models.dense, self.config).items():
                found[prefix + name] = torch.zeros(shape)
        return found

    def _jobs(self, base: Checkpoint) -> Iterator[Job]:
        """Yield all weights in the base's order, with experts and computed weights in place of each layer's MLP."""
        dense = self.models.dense
        places = {MLP.format(layer=layer, projection=name): (layer, name) for layer in range(self.layers)
                  for name in PROJECTIONS}  # fmt: skip
        made = [name for name in base.tensors if name not in self.models.base.tensors]
        for weight in self.models.architecture.weights(dense.config, dense.reference):
            layer, projection = places.get(weight.name, (0, ""))
            if projection == PROJECTIONS[0]:
                prefix = LAYER.format(layer=layer)
                yield from (self._copy(name, base, name) for name in made if name.startswith(prefix))
                yield from (job for name, job in self._experts(layer) if job.name == name)
            elif not projection:
                yield from self._dense(weight, base)

    def _dense(self, weight: Weight, base: Checkpoint) -> Iterator[Job]:
        name = stored_name(base, weight)
        if name is None and not weight.may_lack:
            raise ModelError(f"{base.folder}: has no {weight.name!r}; download the checkpoint again")
        if name is not None and not weight.name.endswith("rotary_emb.inv_freq"):  # computed when loading
            yield self._copy(weight.name, base, name)

    def _copy(self, name: str, base: Checkpoint, tensor: str) -> Job:
        info = base.tensors[tensor]
        dtype = self.dtype if info.dtype in FLOATS else info.dtype
        return Job(name, TensorInfo(dtype, info.shape), (model_input(0, base, tensor),), None)

    def _pieces(self) -> dict[str, list[Job]]:
        """Return the jobs for the matrices in each weight that holds all experts."""
        found: dict[str, list[Job]] = {}
        for layer in range(self.layers):
            for name, job in self._experts(layer):
                if job.name != name:
                    found.setdefault(name, []).append(job)
        return found

    def _experts(self, layer: int) -> Iterator[tuple[str, Job]]:
        """Yield a job for each matrix of a layer's experts, with the name of the weight that it is or is part of."""
        halved = self.family.shared_gate and not self.gated
        listed = [(number, expert, self.family.expert, expert.scale)
                  for number, expert in enumerate(self.config.experts)]  # fmt: skip
        listed += [(number, expert, self.family.shared, expert.scale * (2 if halved else 1))
                   for number, expert in enumerate(self.config.shared)]  # fmt: skip
        for number, expert, names, scale in listed:
            model = self.models.positions[expert.model]
            for projection, name in zip(PROJECTIONS, names):
                written = LAYER.format(layer=layer) + name.format(expert=number)
                alone = "{expert}" in name or names is self.family.shared
                source = MLP.format(layer=layer, projection=projection)
                info = self.models.checkpoints[model].tensors[source]
                factor = scale if projection == PROJECTIONS[-1] else 1.0
                method: Method | None = Moe(noise=expert.noise, scale=factor)
                method = method if expert.noise or factor != 1.0 else None
                label = written if alone else f"{written}/{number}/{projection}"
                made, inputs = TensorInfo(self.dtype, info.shape), (Input(model, source, info),)
                yield written, Job(label, made, inputs, method, seed=self.config.seed)

    def _notes(self) -> Iterator[str]:
        """Yield notes on anything unusual about the experts."""
        experts, shared = self.config.experts, self.config.shared
        if len({self.models.positions[expert.model] for expert in experts}) == 1 and len(experts) > 1:
            yield f"all {len(experts)} experts are the same model, so the result behaves like it until you train it"
        scales = {expert.scale for expert in experts}
        total = sum(expert.scale for expert in shared) + max(scales)
        if shared and not self.gated and len(scales) == 1 and abs(total - 1) > 1e-6:
            yield (
                f"the residual_scale of the experts ({max(scales):g}) and the shared one ({total - max(scales):g}) add"
                f" up to {total:g}, so MLP outputs are {total:g} times as large as in {self.models.base.reference}"
            )


def _digest(made: Mapping[str, Tensor], pieces: Mapping[str, Sequence[Job]], checkpoints: Sequence[Checkpoint]) -> str:
    """Return a digest of everything not stored in files: computed tensors, and the jobs that produce fused experts."""
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in made.values()))
    if pieces:
        digest.update(repr([pieces, [checkpoint.origin for checkpoint in checkpoints]]).encode())
    return digest.hexdigest()


def _architecture(family: Family, registry: Registry, config: Mapping[str, Any], names: set[str]) -> Architecture:
    """Return the definition of the result's class, which must list every weight, or an empty one if there is none."""
    definition = registry.provide("architectures", family.model_class)
    if definition is None:
        return Architecture(family.model_class, {})
    bound = parse_definition(family.model_class, definition, "installed").bind(config, "the mixture", names)
    weights = list(bound.weights(config, "the mixture"))
    unknown = names - {name for weight in weights for name in (weight.name, *weight.aliases)}
    missing = [weight.name for weight in weights if weight.name not in names and not weight.may_lack]
    if unknown or missing:
        wrong = f"{min(unknown)!r} is unknown" if unknown else f"{missing[0]!r} is missing"
        raise PluginError(
            f"the family {family.name!r} does not match {family.model_class}: {wrong}; report this to its author"
        )
    return bound
