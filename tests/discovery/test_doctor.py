"""The output of the doctor for a broken plugin of each kind matches doctor.txt exactly."""

from pathlib import Path

RECORD = Path(__file__).parent / "doctor.txt"
MUTE = (
    "from mergecore.api import *\nfrom dataclasses import dataclass\n"
    "@dataclass(frozen=True, kw_only=True)\nclass Method(DeltaMethod): pass\n"
)
BROKEN = {
    "a-method": ({"methods": {"a_method": "a_method:Method"}}, MUTE),
    "a-taken-method": ({"methods": {"slerp": "a_taken_method:Method"}}, MUTE.replace("pass", "'''Mean.'''")),
    "an-architecture": ({"architectures": {"BrokenLM": "an_architecture:broken.json"}}, ""),
    "an-architecture-without-file": ({"architectures": {"LostLM": "an_architecture:lost.json"}}, ""),
    "a-reader": ({"readers": {"vault": "a_reader:Reader"}}, "class Reader:\n    def close(self): pass\n"),
    "a-writer": ({"writers": {"vault": "a_writer:Writer"}}, "class Writer:\n    def write(self): pass\n"),
    "an-executor": ({"executors": {"farm": "an_executor:Executor"}}, "import a_library_that_is_not_there\n"),
    "a-postprocessor": ({"postprocessors": {"sign": "a_postprocessor:Sign"}}, "raise RuntimeError('boom')\n"),
    "a-command": ({"commands": {"shout": "a_command:shout"}}, "def shout(word: str): pass\n"),
    "hooks": (
        {"hooks": {"house": "hooks"}},
        "from mergecore.api import hookimpl\n@hookimpl\ndef mergecore_befor_plan(recipe): pass\n",
    ),
    "an-old-one": ({"mergecore.v0.methods": {"old": "an_old_one:Method"}}, ""),
}


def test_the_doctor_says_of_each_kind_what_is_wrong_and_what_mends_it(plugin_env):
    for distribution, (entry_points, text) in BROKEN.items():
        module = distribution.replace("-", "_")
        plugin_env.add(distribution, entry_points, {f"{module}.py": text} if text else {})
    files = {"__init__.py": "", "broken.json": '{"before": ["a.weight", "a.weight"]}'}
    for name, text in files.items():
        (plugin_env.folder / "an_architecture").mkdir(exist_ok=True)
        (plugin_env.folder / "an_architecture" / name).write_text(text)
    lines = plugin_env.mergecore("plugins", "doctor").stdout.splitlines()
    said = []
    for number, line in enumerate(lines):
        if any(f"{distribution} 1.0" in line for distribution in BROKEN) and not line.startswith(" "):
            said += [line, *(more for more in lines[number + 1 : number + 3] if more.startswith("      "))]
    text = "\n".join(said).replace(str(plugin_env.folder), "FOLDER") + "\n"
    assert text == RECORD.read_text("utf-8"), text
