"""The hooks: provider hooks, which supply a plugin by name, and events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pluggy import HookspecMarker

if TYPE_CHECKING:
    from mergecore.api import (
        Adapter,
        AdapterRequest,
        Evaluator,
        Executor,
        Method,
        ModelInfo,
        Optimizer,
        OutputTokenizer,
        PostProcessor,
        Reader,
        TensorInfo,
        TokenizerRequest,
        Writer,
    )

hookspec = HookspecMarker("mergecore")


@hookspec(firstresult=True)
def mergecore_provide_method(name: str) -> type[Method] | None:
    """Provide the merge method called `name`. Return None to leave it to the installed plugins.

    Example::

        @hookimpl
        def mergecore_provide_method(name):
            return HouseTies if name == "ties" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_architecture(name: str) -> Mapping[str, Any] | None:
    """Provide the architecture definition of a model class, as the parsed JSON.

    Example::

        @hookimpl
        def mergecore_provide_architecture(name):
            return json.loads(HOUSE_JSON) if name == "HouseForCausalLM" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_reader(name: str) -> type[Reader] | None:
    """Provide the reader for files with the suffix `name` (without the dot).

    Example::

        @hookimpl
        def mergecore_provide_reader(name):
            return VaultReader if name == "safetensors" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_writer(name: str) -> type[Writer] | None:
    """Provide the writer for the format `name`.

    Example::

        @hookimpl
        def mergecore_provide_writer(name):
            return VaultWriter if name == "safetensors" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_executor(name: str) -> type[Executor] | None:
    """Provide the executor called `name`.

    Example::

        @hookimpl
        def mergecore_provide_executor(name):
            return FarmExecutor if name == "threads" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_postprocessor(name: str) -> type[PostProcessor] | None:
    """Provide the post-processor called `name`.

    Example::

        @hookimpl
        def mergecore_provide_postprocessor(name):
            return HouseCard if name == "model_card" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_evaluator(name: str) -> type[Evaluator] | None:
    """Provide the evaluator called `name`.

    Example::

        @hookimpl
        def mergecore_provide_evaluator(name):
            return HouseExam if name == "exam" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_optimizer(name: str) -> type[Optimizer] | None:
    """Provide the optimizer called `name`.

    Example::

        @hookimpl
        def mergecore_provide_optimizer(name):
            return HouseSearch if name == "cma" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_tokenizer(request: TokenizerRequest) -> OutputTokenizer | None:
    """Provide the output's tokenizer and the rows of its vocabulary. Return None to leave it to the next plugin.

    Called only if the recipe has `tokenizer`, `tokenizer_source`, or `chat_template`.

    Example::

        @hookimpl
        def mergecore_provide_tokenizer(request):
            return house_tokenizer(request) if request.chat_template == "house" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_adapter(request: AdapterRequest) -> Adapter | None:
    """Provide the adapter for a recipe's ``model+adapter``. Return None if you do not recognize the folder.

    Example::

        @hookimpl
        def mergecore_provide_adapter(request):
            return house_lora(request) if (request.folder / "house.json").exists() else None
    """


@hookspec
def mergecore_before_plan(recipe: Mapping[str, Any]) -> None:
    """Called after the recipe is read and before any model is. Raise `InputError` to reject the recipe.

    Example::

        @hookimpl
        def mergecore_before_plan(recipe):
            if recipe.get("dtype") == "float16":
                raise InputError("house rule: float16 results overflow; write dtype: bfloat16")
    """


@hookspec
def mergecore_after_plan(
    tensors: Mapping[str, TensorInfo],
    notes: list[str],
    models: tuple[ModelInfo, ...],
    config: Mapping[str, Any],
    source: ModelInfo | None,
) -> None:
    """Called when the plan of the output, or of a kept stage, is complete. Raise `InputError` to reject the plan.

    `tensors` and `config` describe the result. Append to `notes` to tell the user something about it. `models` contains
    every model that is read from files, including those of stages and kept stages, with the data from its model card.
    `source` is the model that the config is from, or None if the result has the same names, shapes, and config.

    Example::

        @hookimpl
        def mergecore_after_plan(models):
            for model in models:
                if license_kind(model.card) == "non-commercial":
                    raise InputError(f"{model.reference}: house rule: no models with a non-commercial license")
    """


@hookspec
def mergecore_after_tensor(name: str, info: TensorInfo) -> None:
    """Called after each tensor is written, from one thread at a time. This hook only observes.

    Example::

        @hookimpl
        def mergecore_after_tensor(name):
            print("wrote", name)
    """


@hookspec
def mergecore_after_write(folder: Path) -> None:
    """Called when the output folder is complete and has its final name. This hook only observes.

    Example::

        @hookimpl
        def mergecore_after_write(folder):
            print("merged into", folder)
    """


@hookspec
def mergecore_on_error(error: BaseException) -> None:
    """Called when a run fails. Finished tensors are kept for the next run. This hook only observes.

    Example::

        @hookimpl
        def mergecore_on_error(error):
            print("failed:", error)
    """
