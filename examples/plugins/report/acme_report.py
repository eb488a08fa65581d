"""Post-processor that writes a report about a merge: its input models, and its parameters by dtype."""

from collections import Counter

from mergecore.api import MergedModel, PostProcessor


class Report(PostProcessor):
    """Write REPORT.md."""

    after = ("config",)

    def run(self, model: MergedModel) -> None:
        """Add REPORT.md to the output folder."""
        counts: Counter[str] = Counter()
        for info in model.tensors.values():
            counts[info.dtype] += info.elements
        lines = [f"# {model.name}", "", f"A {model.architecture}, merged by `{model.method}` from", ""]
        lines += [f"- {parent.reference}" for parent in model.models]
        lines += ["", "| dtype | parameters |", "|---|---|"]
        lines += [f"| {dtype} | {count:,} |" for dtype, count in counts.most_common()]
        (model.folder / "REPORT.md").write_text("\n".join(lines) + "\n", "utf-8")
