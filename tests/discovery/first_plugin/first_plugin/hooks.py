"""Implementations of every hook in the first version of the API."""

from first_plugin import FirstPeak
from mergecore.api import InputError, hookimpl

seen = []


@hookimpl
def mergecore_provide_method(name):
    return FirstPeak if name == "first_hooked" else None


@hookimpl
def mergecore_provide_architecture(name):
    return None


@hookimpl
def mergecore_provide_reader(name):
    return None


@hookimpl
def mergecore_provide_writer(name):
    return None


@hookimpl
def mergecore_provide_executor(name):
    return None


@hookimpl
def mergecore_provide_postprocessor(name):
    return None


@hookimpl
def mergecore_provide_tokenizer(request):
    assert request.models and request.rows and request.folder is not None and request.config_source >= 0


@hookimpl
def mergecore_before_plan(recipe):
    if recipe.get("seed") == 13:
        raise InputError("no 13")


@hookimpl
def mergecore_after_plan(tensors, notes):
    seen.append(f"plan {len(tensors)} {type(notes).__name__}")


@hookimpl
def mergecore_after_tensor(name, info):
    assert info.nbytes and info.shape
    seen.append("tensor")


@hookimpl
def mergecore_after_write(folder):
    (folder / "seen.txt").write_text(f"{seen[0]}, {seen.count('tensor')} tensors")


@hookimpl
def mergecore_on_error(error):
    print("first plugin saw", error)
