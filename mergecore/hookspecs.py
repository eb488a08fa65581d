"""The hooks: providers that answer for a plugin by name, and events of a run."""

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
    """Answer for the merge method called `name`; None leaves it to the installed plugins.

    Example::

        @hookimpl
        def mergecore_provide_method(name):
            return HouseTies if name == "ties" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_architecture(name: str) -> Mapping[str, Any] | None:
    """Answer for the architecture of a model class with the content of its JSON.

    Example::

        @hookimpl
        def mergecore_provide_architecture(name):
            return json.loads(HOUSE_JSON) if name == "HouseForCausalLM" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_reader(name: str) -> type[Reader] | None:
    """Answer for the reader of files with the suffix `name` (without its dot).

    Example::

        @hookimpl
        def mergecore_provide_reader(name):
            return VaultReader if name == "safetensors" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_writer(name: str) -> type[Writer] | None:
    """Answer for the writer of the format `name`.

    Example::

        @hookimpl
        def mergecore_provide_writer(name):
            return VaultWriter if name == "safetensors" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_executor(name: str) -> type[Executor] | None:
    """Answer for the executor called `name`.

    Example::

        @hookimpl
        def mergecore_provide_executor(name):
            return FarmExecutor if name == "threads" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_postprocessor(name: str) -> type[PostProcessor] | None:
    """Answer for the post-processor called `name`.

    Example::

        @hookimpl
        def mergecore_provide_postprocessor(name):
            return HouseCard if name == "model_card" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_evaluator(name: str) -> type[Evaluator] | None:
    """Answer for the evaluator called `name`.

    Example::

        @hookimpl
        def mergecore_provide_evaluator(name):
            return HouseExam if name == "exam" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_optimizer(name: str) -> type[Optimizer] | None:
    """Answer for the optimizer called `name`.

    Example::

        @hookimpl
        def mergecore_provide_optimizer(name):
            return HouseSearch if name == "cma" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_tokenizer(request: TokenizerRequest) -> OutputTokenizer | None:
    """Answer for the output's tokenizer and the rows of its vocabulary; None leaves it to the next plugin.

    Asked only where the recipe has `tokenizer`, `tokenizer_source` or `chat_template`.

    Example::

        @hookimpl
        def mergecore_provide_tokenizer(request):
            return house_tokenizer(request) if request.chat_template == "house" else None
    """


@hookspec(firstresult=True)
def mergecore_provide_adapter(request: AdapterRequest) -> Adapter | None:
    """Answer for the adapter in a folder, which a recipe adds to a model as ``model+adapter``; None: not one you know.

    Example::

        @hookimpl
        def mergecore_provide_adapter(request):
            return house_lora(request) if (request.folder / "house.json").exists() else None
    """


@hookspec
def mergecore_before_plan(recipe: Mapping[str, Any]) -> None:
    """The recipe has been read, nothing else has; raise `InputError` to refuse it.

    Example::

        @hookimpl
        def mergecore_before_plan(recipe):
            if recipe.get("dtype") == "float16":
                raise InputError("house rule: float16 results overflow; write dtype: bfloat16")
    """


@hookspec
def mergecore_after_plan(tensors: Mapping[str, TensorInfo], notes: list[str], models: tuple[ModelInfo, ...]) -> None:
    """The plan stands: what will be written, what its author should know, and the models with what their cards say.

    The tensors and notes are the output's; the models are all those in files, also of stages and of what is kept. An
    observer that may raise `InputError` to refuse the plan.

    Example::

        @hookimpl
        def mergecore_after_plan(models):
            for model in models:
                if licence_kind(model.card) == "non-commercial":
                    raise InputError(f"{model.reference}: house rule: nothing that is not for commercial use")
    """


@hookspec
def mergecore_after_tensor(name: str, info: TensorInfo) -> None:
    """A tensor has been written; called from one thread at a time. An observer.

    Example::

        @hookimpl
        def mergecore_after_tensor(name):
            print("wrote", name)
    """


@hookspec
def mergecore_after_write(folder: Path) -> None:
    """The output folder stands complete under its own name. An observer.

    Example::

        @hookimpl
        def mergecore_after_write(folder):
            print("merged into", folder)
    """


@hookspec
def mergecore_on_error(error: BaseException) -> None:
    """The run has failed; finished tensors are kept for the next one. An observer.

    Example::

        @hookimpl
        def mergecore_on_error(error):
            print("failed:", error)
    """
