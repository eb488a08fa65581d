"""Merge tensors that are already in memory, for training code and notebooks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from mergecore.api import BLOCK, FLOAT8, FLOATS, Base, DeltaMethod, Input, Job, Method, TensorInfo, Tiles, torch_dtype
from mergecore.api.files import TORCH_NAMES, common_dtype
from mergecore.discovery import convert, declared, find_plugin, load_plugin
from mergecore.documents import Place
from mergecore.errors import InputError, RecipeError, nearest
from mergecore.plain_values import plain, type_name
from mergecore.running import is_finite

if TYPE_CHECKING:
    from torch import Tensor


def find_method(name: str) -> type[Method]:
    """Return an installed method.

    Raises:
        InputError: if there is none of that name, or it is not a name.
    """
    if not isinstance(name, str):
        raise InputError(f"the method must be a name such as 'linear', not {type_name(name)}")
    method: type[Method] = load_plugin(find_plugin("methods", name))
    return method


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
        tensors: one tensor per model. Float tensors are merged in float32 (float64 if any is). Of whole numbers and
            booleans, the base's are copied, or else the first model's.
        method: a method class.
        parameters: values by their names in recipes. A per-model parameter is one value for all models, or a sequence
            in the order of the models (without the base if the method subtracts it).
        base: index of the base model in `tensors`.
        name: name of the tensor in errors. Methods that draw random numbers use it as part of the seed.
        seed: seed for methods that draw random numbers.

    Returns:
        A new tensor in the dtype of the inputs, or float32 (float64 if any is) if they differ.

    Raises:
        InputError: if an argument has the wrong type, shapes differ, a dtype cannot be merged, or a parameter is
            invalid.
    """
    _check_list(tensors, "tensors", base)
    for number, tensor in enumerate(tensors):
        _check_tensor(tensor, f"{name} of model {number}")
    if len({tensor.shape for tensor in tensors}) > 1:
        raise InputError(f"{name}: the tensors differ in shape: {', '.join(str(tuple(t.shape)) for t in tensors)}")
    order = list(range(len(tensors)))
    if method.base is Base.REQUIRED and base is None:
        raise InputError(f"{method.__name__} needs a base: set base= to the index of the base model")
    if method.base is not Base.INPUT and base is not None:
        order.insert(0, order.pop(base))
    infos = [TensorInfo(_name(tensors[i], name), tuple(tensors[i].shape)) for i in order]
    if any(info.dtype not in FLOATS for info in infos):
        if len(kinds := dict.fromkeys(info.dtype for info in infos)) > 1:
            raise InputError(f"{name}: the models have different dtypes: {' and '.join(kinds)}")
        return tensors[0 if base is None else base].clone()
    out = TensorInfo(common_dtype({info.dtype for info in infos}), infos[0].shape)
    subtracted = issubclass(method, DeltaMethod) and method.base is not Base.INPUT and base is not None
    count = len(tensors) - subtracted
    low, high = method.models
    if count < low or (high is not None and count > high):
        raise InputError(f"{method.__name__} takes {low} to {high or 'any number of'} models, not {count}")
    made = with_parameters(method, parameters, count)
    inputs = tuple(Input(i, name, info) for i, info in zip(order, infos))
    return _merge(Job(name, out, inputs, made, subtracted, seed), [tensors[i] for i in order])


def _check_list(models: Any, kind: str, base: Any) -> None:
    """Raise `InputError` if the models are not a list of at least one, or the base is not the index of one."""
    if not isinstance(models, Sequence) or isinstance(models, str):
        raise InputError(f"the models must be a list of {kind}, not {type_name(models)}")
    if not models:
        raise InputError(f"the list of {kind} is empty; there is nothing to merge")
    index = isinstance(base, int) and not isinstance(base, bool) and 0 <= base < len(models)
    if base is not None and not index:
        raise InputError(f"base={base!r} is not the index of a model; use 0 to {len(models) - 1}")


def _check_tensor(value: Any, where: str) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        cure = "; convert it with torch.from_numpy" if type_name(value) == "numpy.ndarray" else ""
        raise InputError(f"{where}: must be a torch.Tensor, not {type_name(value)}{cure}")
    if value.is_meta or value.layout is not torch.strided:
        raise InputError(f"{where}: has no values that can be merged ({value.device}, {value.layout})")


def _check_state_dict(value: Any, number: int) -> None:
    if isinstance(value, Mapping):
        return
    cure = ""
    if hasattr(value, "state_dict"):
        cure = "; use its state_dict()"
    elif isinstance(value, (str, PathLike)):
        cure = "; load it first, or merge folders with mergecore.run"
    raise InputError(f"model {number} must be a state dict, not {type_name(value)}{cure}")


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
    """Create a method for `count` tensors, with the parameters of `merge_tensors`.

    Raises:
        InputError: if a parameter is unknown, missing, or invalid, or the method rejects the combination.
    """
    known = declared(method)
    values = {}
    if not isinstance(parameters, Mapping):
        raise InputError(f"the parameters must be a mapping such as {{'weight': 0.5}}, not {type_name(parameters)}")
    try:
        parameters = plain(parameters)
    except RecipeError as error:
        raise InputError(f"{method.__name__}: {error}") from None
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
    allow_nonfinite: bool = False,
) -> dict[str, Tensor]:
    """Merge state dicts with the same keys. The arguments are the same as for `merge_tensors`.

    Args:
        allow_nonfinite: return tensors that contain NaN or infinity instead of stopping.

    Raises:
        InputError: if the keys differ, a result contains NaN or infinity, or for the reasons listed in `merge_tensors`.
    """
    _check_list(models, "state dicts", base)
    for number, model in enumerate(models):
        _check_state_dict(model, number)
        if differing := sorted(set(model) ^ set(models[0]), key=str):
            raise InputError(f"only one of model 0 and model {number} has {differing[0]!r}; all need the same keys")
    merged, differing = {}, []
    for name in models[0]:
        tensors = [model[name] for model in models]
        merged[name] = merge_tensors(tensors, method, parameters, base=base, name=name, seed=seed)
        if not allow_nonfinite and not is_finite(merged[name]):
            raise InputError(f"{name}: the result contains NaN or infinity; {_origin(tensors)}")
        if not merged[name].is_floating_point() and not all(map(merged[name].equal, tensors)):
            differing.append(name)
    if differing:
        count = f"{len(differing)} tensor(s) of whole numbers, such as {differing[0]}, differ"
        warnings.warn(f"{count}; those of model {base or 0} are used", stacklevel=3)
    return merged


def _origin(tensors: Sequence[Tensor]) -> str:
    bad = [f"model {number}" for number, tensor in enumerate(tensors) if not is_finite(tensor)]
    if bad:
        return f"{' and '.join(bad)} already {'contains' if len(bad) == 1 else 'contain'} some"
    return "the models are finite, so it comes from the method, or is too large for their dtype"
