"""Build the same mixture of experts with mergecore and mergekit 0.1.5 and compare time, memory, and results."""

from __future__ import annotations

import shutil
import sys

import torch
from safetensors.torch import load_file

from bench.support.competitors import ENVS, HERE, PEER, TOOLS
from bench.support.measure import measure, torch_baseline, why_failed

ROOT = HERE.parent
CONFIG = ROOT / "examples" / "smollm2" / "moe.yml"
WORK = HERE / ".work" / "moe"


def commands() -> dict[str, list[str]]:
    """Return the command of each tool. Requires the models of examples/smollm2."""
    peer = [TOOLS[PEER].python(), str(ENVS / PEER / "bin" / "mergekit-moe")]
    ours = [sys.executable, "-m", "mergecore", "moe"]
    return {
        "mergecore": [*ours, str(CONFIG), str(WORK / "mergecore"), "--quiet", "--force", "--memory", "256MB"],
        "mergekit": [*peer, str(CONFIG), str(WORK / "mergekit")],
    }


def main(rounds: int = 3) -> None:
    """Measure the tools alternately, then compare their outputs."""
    print(f"| {rounds} runs each, alternating | seconds, best to worst | CPU seconds | peak anonymous MB above torch |")
    print("|---|---|---|---|")
    runs: dict[str, list] = {tool: [] for tool in commands()}
    for _ in range(rounds):
        for tool, command in commands().items():
            shutil.rmtree(WORK / tool, ignore_errors=True)
            runs[tool].append(measure(command))
            if reason := why_failed(runs[tool][-1]):
                raise SystemExit(f"{tool}: {reason}")
    for tool, used in runs.items():
        floor = torch_baseline(commands()[tool][0], 1)
        walls = sorted(usage.wall for usage in used)
        peak = max(usage.peak_anon for usage in used) - floor
        cpu = min(usage.cpu for usage in used)
        print(f"| {tool} | {walls[0]:.1f} to {walls[-1]:.1f} | {cpu:.1f} | {peak / 1e6:.0f} |")
    compare(*(load_file(next((WORK / tool).glob("*.safetensors"))) for tool in runs))


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Compare the results. mergekit fuses Mixtral's experts, like transformers 5 does in memory."""
    alike, cosines = 0, []
    for name, tensor in ours.items():
        layer, _, rest = name.partition(".block_sparse_moe.")
        if rest == "gate.weight":
            one, other = tensor.double(), theirs[f"{layer}.mlp.gate.weight"].double()
            cosines += torch.nn.functional.cosine_similarity(one, other).tolist()
            continue
        if rest:
            expert, part = int(rest.split(".")[1]), rest.split(".")[2]
            fused = theirs[f"{layer}.mlp.experts.{'down_proj' if part == 'w2' else 'gate_up_proj'}"][expert]
            other = fused if part == "w2" else fused.chunk(2)[part == "w3"]
        else:
            other = theirs[name]
        alike += torch.equal(tensor, other)
    routers = len(cosines) // 2
    print(f"\n{alike} of {len(ours) - routers} tensors other than the routers are bitwise equal.")
    mean = sum(cosines) / len(cosines)
    print(f"Rows of the {routers} routers: minimum cosine {min(cosines):.5f}, mean cosine {mean:.5f}.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
