"""Print plans, methods, architectures, and doctor findings on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergecore.api import ITEM_BYTES, Base, DeltaMethod, Job, Kernels, Method, license_kind, license_of
from mergecore.definitions import Architecture, Weight
from mergecore.discovery import NO_VALUE, Parameter, declared, recorded_operations
from mergecore.errors import printable
from mergecore.models import Checkpoint
from mergecore.planning import Plan
from mergecore.tracing import Untraceable

if TYPE_CHECKING:
    from mergecore.discovery import Finding
    from mergecore.estimating import CostEstimate


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def plan_view(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON-compatible values."""
    return {
        "merge_method": plan.recipe.method,
        "architecture": plan.architecture.name,
        "stages": [_stage_view(name, stage, name in plan.kept) for name, stage in plan.stages.items()],
        "models": [_model_view(checkpoint) for checkpoint in plan.models],
        "tensors": len(plan.jobs),
        "copied": sum(job.method is None for job in plan.jobs),
        "dropped": plan.dropped,
        "dtypes": dict(Counter(job.info.dtype for job in plan.jobs)),
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "download": plan.download,
        "evaluations": [evaluation.name for evaluation in plan.evaluations],
        "notes": list(plan.notes),
    }


def _model_view(checkpoint: Checkpoint) -> dict[str, Any]:
    view = {
        "model": checkpoint.reference,
        "revision": checkpoint.revision,
        "tensors": len(checkpoint.tensors),
        "bytes": sum(info.elements * ITEM_BYTES[info.kept] for info in checkpoint.tensors.values()),
        "license": {**license_of(checkpoint.card), "kind": license_kind(checkpoint.card)},
    }
    added = [{"adapter": str(a.folder), "kind": a.summary, "tensors": a.tensors} for a in checkpoint.adapters]
    return {**view, "adapters": added} if added else view


def _stage_view(name: str, stage: Plan, kept: bool) -> dict[str, Any]:
    """Return a stage of a plan as JSON-compatible values."""
    return {
        "name": name,
        "merge_method": stage.recipe.method,
        "models": [checkpoint.reference for checkpoint in stage.checkpoints],
        "tensors": len(stage.jobs),
        "dtypes": dict(Counter(job.info.dtype for job in stage.jobs)),
        "bytes": stage.bytes_out,
        "kept": kept,
        "notes": list(stage.notes),
    }


def weights_view(plan: Plan) -> list[dict[str, Any]]:
    """Return every output weight as JSON-compatible values: dtype, shape, inputs, and resolved parameters."""
    parameters = declared(plan.method)
    return [
        {
            "name": job.name,
            "dtype": job.info.dtype,
            "shape": list(job.info.shape),
            "inputs": [{"model": plan.checkpoints[item.model].reference, "tensor": item.tensor} for item in job.inputs],
            "parameters": resolved(job, parameters),
        }
        for job in plan.jobs
    ]


def resolved(job: Job, parameters: Mapping[str, Parameter]) -> dict[str, Any] | None:
    """Return a job's parameters by their names in recipes, or None for a copy."""
    if job.method is None:
        return None
    return {name: getattr(job.method, item.attribute) for name, item in parameters.items()}


def print_plan(plan: Plan, cost: CostEstimate | None = None) -> None:
    """Print a plan and its estimated cost to standard error, so that standard output contains only results."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False, markup=False)
    view = plan_view(plan)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("method", plan.recipe.method)
    table.add_row("architecture", plan.architecture.name)
    config_source = plan.checkpoints[plan.config_source].reference
    carried = {config_source: "  (config and other files are copied from here)"}
    for stage in view["stages"]:
        made = f"{stage['merge_method']} of {', '.join(stage['models'])}"
        fate = "also written" if stage["kept"] else "not written"
        about = f"{printable(made)}; {_dtypes(stage)}, {fate}{carried.get(stage['name'], '')}"
        table.add_row("stage", f"{printable(stage['name'])}  {about}")
    for model in view["models"]:
        stored = f"{model['tensors']} tensors, {model['bytes'] / 1e6:,.0f} MB"
        commit = f"  commit {model['revision'][:8]}" if model["revision"] else ""
        table.add_row("model", f"{printable(model['model'])}{commit}  {stored}{carried.get(model['model'], '')}")
        for added in model.get("adapters", ()):
            kind = printable(f"{added['adapter']}  {added['kind']}")
            table.add_row("  with", f"{kind}, changes {added['tensors']} tensors")
    table.add_row("output", f"{_dtypes(view)}, {view['bytes_out'] / 1e6:,.0f} MB")
    merged = view["tensors"] - view["copied"]
    table.add_row("tensors", f"{merged} merged, {view['copied']} copied, {view['dropped']} not used by the recipe")
    if plan.download:
        files = sum(not shard.here for shard in plan.shards)
        table.add_row("download", f"{_bytes(plan.download)} in {files} file(s), before the run")
    if cost is not None:
        table.add_row("disk", f"reads {_bytes(cost.read)}, writes {_bytes(cost.written)}, {_bytes(cost.free)} free")
        table.add_row("memory", f"at most {_bytes(cost.memory)} of tensors at a time")
        table.add_row("time", _time(plan, cost))
    if view["evaluations"]:
        table.add_row("evaluations", printable(", ".join(view["evaluations"])))
    staged = [f"{stage['name']}: {note}" for stage in view["stages"] for note in stage["notes"]]
    for note in (*staged, *plan.notes):
        table.add_row("note", printable(note), style="yellow")
    console.print(table)


def _time(plan: Plan, cost: CostEstimate) -> str:
    if cost.seconds is not None:
        return f"about {_span(cost.seconds)}"
    return "unknown until the weights are downloaded" if plan.download else "unknown, because OUT cannot be written"


def _dtypes(view: Mapping[str, Any]) -> str:
    """Return the number of tensors in total and per dtype, as text."""
    return f"{view['tensors']} tensors ({', '.join(f'{count} {dtype}' for dtype, count in view['dtypes'].items())})"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 10**9 else f"{count / 1e6:,.0f} MB"


def _span(seconds: float) -> str:
    """Return a time with the precision of an estimate."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 10 * 3600 else f"{round(seconds / 3600):,} h"


def print_weights(plan: Plan) -> None:
    """Print one line per weight: name, shape, and parameters."""
    parameters = declared(plan.method)
    for job in plan.jobs:
        values = resolved(job, parameters)
        text = "copied" if values is None else ", ".join(f"{name}={_short(value)}" for name, value in values.items())
        print(f"{job.name}  {list(job.info.shape)}  {text}")


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def method_view(name: str, method: type[Method]) -> dict[str, Any]:
    """Return a method as JSON-compatible values: description, inputs, and parameters as JSON Schema."""
    low, high = method.models
    return {
        "name": name,
        "doc": _doc(method),
        "base_model": method.base.value,
        "models": [low, high],
        "tile": method.tile.value,
        "ignored": list(method.ignored),
        "parameters": {
            item.name: {
                **item.schema,
                "description": item.doc,
                "per_model": item.per_model,
                **({} if item.default is NO_VALUE else {"default": item.default}),
            }
            for item in declared(method).values()
        },
    }


def _doc(method: type[Method]) -> str:
    lines = [line.strip() for line in (method.__doc__ or "").strip().splitlines()]
    return "\n".join(lines)


def show_method(name: str, method: type[Method], as_json: bool) -> None:
    """Print a method for `methods show`."""
    view = method_view(name, method)
    if as_json:
        print(json.dumps(view, indent=2))
        return
    low, high = method.models
    count = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
    if method.base is not Base.INPUT:
        count += " plus the base model" if issubclass(method, DeltaMethod) else ", including the base model"
    base = {"required": "required", "optional": "optional", "input": "optional, treated like any other model"}
    print(f"{name}\n\n{view['doc']}\n\nmodels      {count}\nbase_model  {base[method.base.value]}\n")
    for item in declared(method).values():
        print(f"  {item.name}  {_kind(item)}\n      {item.doc}")
    for item_name in method.ignored:
        print(f"  {item_name}  accepted, but has no effect")


def show_trace(method: type[Method], kernels: Kernels | None, as_json: bool) -> None:
    """Print what the kernels run for `methods show --trace`, or why torch computes the method."""
    operations: Sequence[str] = ()
    reason = "the kernels are not installed: pip install mergecore-kernels"
    if kernels is not None:
        try:
            operations, reason = recorded_operations(method, kernels), ""
        except Untraceable as error:
            reason = f"it {error}"
    if as_json:
        print(json.dumps({"operations": operations, "reason": reason}, indent=2))
    else:
        print("\n".join(operations) if operations else f"computed by torch: {reason}")


def _kind(item: Parameter) -> str:
    rules = dict(item.schema)
    kind = rules.pop("type", None) or "one of " + ", ".join(map(str, rules.pop("enum", [])))
    bounds = {"minimum": "at least {}", "maximum": "at most {}", "enum": "one of {}"}
    words = [str(kind), *(bounds[rule].format(bound) for rule, bound in rules.items())]
    words.append("per model" if item.per_model else "for the merge")
    words.append("required" if item.required else f"default {json.dumps(item.default)}")
    return ", ".join(words)


def show_architecture(architecture: Architecture, definition: Mapping[str, Any], as_json: bool) -> None:
    """Print an architecture for `arch show`."""
    if as_json:
        print(json.dumps(definition, indent=2))
        return
    for name, module in architecture.modules.items():
        called = architecture.name if len(architecture.modules) == 1 else f"{architecture.name}, module {name}"
        counted = f"layers counted by {' or '.join(map(repr, module.layers_key))} in config.json"
        print(f"{called}: {counted if module.layers_key else 'no layers'}\n")
        groups: Sequence[tuple[str, Sequence[Weight]]] = (
            ("before the layers" if module.layers_key else "weights", module.before),
            (f"in each layer, after {module.layer_prefix!r}", module.layer),
            ("after the layers", module.after),
        )
        for title, weights in groups:
            if not weights:
                continue
            print(title)
            for weight in weights:
                print(f"  {weight.name}{_traits(weight)}")


def _traits(weight: Weight) -> str:
    traits = [
        *(["optional"] if weight.optional else []),
        *([f"one per {word}, counted by {' or '.join(keys)}" for word, keys in weight.each.items()]),
        *([f"or in parts {', '.join(weight.parts)}"] if weight.parts else []),
        *([f"or {weight.tied_to}"] if weight.tied_to else []),
        *([f"also called {', '.join(weight.aliases)}"] if weight.aliases else []),
    ]
    return f"  ({'; '.join(traits)})" if traits else ""


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Print the doctor's findings, one line each, with the fix below each problem."""
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        return
    console = _console()
    colors = {"ok": "green", "SLOW": "yellow"}
    for finding in findings:
        plugin = finding.plugin
        color = colors.get(finding.status, "red")
        owner = f"{plugin.distribution} {plugin.version}"
        console.print(f"[{color}]{finding.status:5}[/] {plugin.kind:15}{plugin.name:27} {owner}", markup=True)
        if finding.cause:
            console.print(f"      {finding.cause}", markup=False)
        if finding.cure:
            console.print(f"      fix with: {finding.cure}", markup=False)
    bad = sum(finding.bad for finding in findings)
    console.print(f"{len(findings)} plugins, {bad} to fix" if bad else f"{len(findings)} plugins, all OK")
