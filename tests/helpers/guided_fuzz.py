"""Coverage-guided fuzzing: `guided_fuzz.py headers|recipes FOLDER SECONDS` saves its findings in FOLDER."""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mergecore"]):
    from fuzz_properties import try_header, try_parsing

import hostile_files


def main() -> None:
    kind, place, seconds = sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3]
    corpus = place / kind
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = [content for content, _ in (hostile_files.HEADERS if kind == "headers" else hostile_files.RECIPES).values()]
    seeds += [hostile_files.one()] if kind == "headers" else [hostile_files.GOOD]
    for number, content in enumerate(seeds):
        data = content if isinstance(content, bytes) else content.encode()
        if len(data) < LONGEST:
            (corpus / f"seed-{number}").write_bytes(data)

    def header(data: bytes) -> None:
        try_header(data, place / "model.safetensors")

    def recipe(data: bytes) -> None:
        try_parsing(data.decode("utf-8", "replace"))

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=30", f"-artifact_prefix={place}/{kind}-"]
    atheris.Setup(["fuzz", str(corpus), *options], header if kind == "headers" else recipe)
    atheris.Fuzz()


LONGEST = 4096
"""Maximum size of a case in bytes. Longer cases reach no additional code."""


if __name__ == "__main__":
    main()
