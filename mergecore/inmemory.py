"""Merge tensors that are already in memory, for training code and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergecore.api import BLOCK, FLOAT8, FLOATS, Base, DeltaMethod, Input, Job, Method, TensorInfo, Tiles, torch_dtype
from mergecore.api.files import TORCH_NAMES, common_dtype
from mergecore.discovery import convert, declared
from mergecore.documents import Place
from mergecore.errors import InputError, RecipeError, nearest

if TYPE_CHECKING:
    from torch import Tensor


def merge_tensors(
    tensors: Sequence[Tensor],
    method: type[Method],
    parameters: Mapping[str, Any],
    *,
    base: int | None = None,
    name: str = "tensor",
    seed: int = 0,
) -> Tensor:
    """Merge tensors of the same shape on the CPU.

    Args:
        tensors: one tensor per model. Float tensors are merged in float32 (float64 if any is). Others must be equal.
        method: a method class.
        parameters: values by their names in recipes. A per-model parameter is one value for all models, or a sequence
            in the order of the models (without the base if the method subtracts it).
        base: index of the base model in `tensors`.
        name: name of the tensor in errors. Methods that draw random numbers use it as part of the seed.
        seed: seed for methods that draw random numbers.

    Returns:
        A new tensor in the dtype of the inputs, or float32 (float64 if any is) if they differ.

    Raises:
        InputError: if shapes differ, tensors that cannot be merged differ, or a parameter is invalid.
    """
    import torch

    if len({tensor.shape for tensor in tensors}) > 1:
        raise InputError(f"{name}: the tensors differ in shape: {', '.join(str(tuple(t.shape)) for t in tensors)}")
    order = list(range(len(tensors)))
    if method.base is Base.REQUIRED and base is None:
        raise InputError(f"{method.__name__} needs a base: set base= to the index of the base model")
    if method.base is not Base.INPUT and base is not None:
        order.insert(0, order.pop(base))
    infos = [TensorInfo(_name(tensors[i], name), tuple(tensors[i].shape)) for i in order]
    if any(info.dtype not in FLOATS for info in infos):
        if not all(torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
            raise InputError(f"{name}: {infos[0].dtype} tensors can only be copied, but the models' values differ")
        return tensors[0].clone()
    out = TensorInfo(common_dtype({info.dtype for info in infos}), infos[0].shape)
    subtracted = issubclass(method, DeltaMethod) and method.base is not Base.INPUT and base is not None
    count = len(tensors) - subtracted
    low, high = method.models
    if count < low or (high is not None and count > high):
        raise InputError(f"{method.__name__} takes {low} to {high or 'any number of'} models, not {count}")
    made = with_parameters(method, parameters, count)
    inputs = tuple(Input(i, name, info) for i, info in zip(order, infos))
    return _merge(Job(name, out, inputs, made, subtracted, seed), [tensors[i] for i in order])


def _merge(job: Job, tensors: Sequence[Tensor]) -> Tensor:
    dtype = torch_dtype(job.compute_dtype)
    pieces = job.pieces(job.info.elements + BLOCK)
    if not pieces:
        return tensors[0].to(torch_dtype(job.info.dtype), copy=True)
    values = [tensor.detach().to(dtype).reshape(pieces[0].shape).contiguous() for tensor in tensors]
    ctx = job.context(Tiles(job, pieces, lambda job, piece: values))
    return job.merge(values, ctx).reshape(job.info.shape).to(torch_dtype(job.info.dtype), copy=True)


def _name(tensor: Tensor, name: str) -> str:
    wanted = str(tensor.dtype).removeprefix("torch.")
    found = next((key for key, value in TORCH_NAMES.items() if value == wanted), None)
    if found is None or found in FLOAT8:
        raise InputError(f"{name}: {tensor.dtype} cannot be merged; convert it to a float dtype first")
    return found


def with_parameters(method: type[Method], parameters: Mapping[str, Any], count: int) -> Method:
    """Create a method with parameters as for `merge_tensors`, for `count` tensors.

    Raises:
        InputError: if a parameter is unknown, missing, or invalid, or the method rejects the combination.
    """
    known = declared(method)
    values = {}
    for name in parameters:
        if name not in known and name not in method.ignored:
            raise InputError(f"{method.__name__} has no parameter {name!r}{nearest(name, known)}")
    for name, item in known.items():
        if name not in parameters:
            if item.required:
                raise InputError(f"{method.__name__}: parameter {name!r} is missing")
            values[item.attribute] = (item.default,) * count if item.per_model else item.default
            continue
        given = parameters[name]
        single = not isinstance(given, Sequence) or isinstance(given, str)
        listed = [given] * count if single else list(given)
        if item.per_model and len(listed) != count:
            raise InputError(f"{method.__name__}: parameter {name!r} needs {count} values, not {len(listed)}")
        try:
            converted = tuple(convert(item, Place(value, (name,))) for value in (listed if item.per_model else [given]))
        except RecipeError as error:
            raise InputError(f"{method.__name__}: {error}") from None
        values[item.attribute] = converted if item.per_model else converted[0]
    return method(**values)


def merge_state_dicts(
    models: Sequence[Mapping[str, Tensor]],
    method: type[Method],
    parameters: Mapping[str, Any],
    *,
    base: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Merge state dicts with the same keys. The arguments are the same as for `merge_tensors`.

    Raises:
        InputError: if the keys differ, and as for `merge_tensors`.
    """
    for number, model in enumerate(models):
        if differing := sorted(set(model) ^ set(models[0])):
            raise InputError(f"only one of model 0 and model {number} has {differing[0]!r}; all need the same keys")
    return {
        name: merge_tensors([model[name] for model in models], method, parameters, base=base, name=name, seed=seed)
        for name in models[0]
    }
