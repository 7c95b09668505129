"""Compare predict with bare decoding: ``python benchmarks/predict.py [--photographs 1000]``, which writes predict.md.

Photographs of 12 megapixels are named by the default student and by a larger one, both untrained, which costs the same.
Bare decoding is Pillow's, in as many threads as predict uses, and nothing else. Both are run in turn in one process;
the largest memory is that of processes of their own, one of which names a quarter of the photographs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import yaml
from memory_format import processor
from PIL import Image

from bioclip_lite.commands import predict
from bioclip_lite.models import students
from bioclip_lite.photographs.images import decode
from bioclip_lite.photographs.preprocess import preprocessing
from bioclip_lite.taxa.taxonomy import RANKS, taxon_id
from bioclip_lite.utils.files import replacing, write_json, write_table
from bioclip_lite.utils.machine import cores
from bioclip_lite.utils.randomness import generator

ROOT = Path(__file__).parents[1]
OUTPUT = Path(__file__).with_suffix(".md")
WIDTH, HEIGHT, QUALITY = 4000, 3000, 90
DIFFERENT, TAXA = 12, 200
LARGER = ("mobilenetv4_conv_small", 224)
OPTIONS = ("--variant", "control", "--k", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=int, default=1000, help="number to name (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="times that both are run in turn (default: 3)")
    options = parser.parse_args()
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["distill"]
    small = parameters["student"], parameters["student_options"], parameters["image_size"]
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
        files = make_photographs(Path(scratch) / "photographs", options.photographs)
        rows: list[tuple[str, list[float]]] = []
        for name, more, size in (small, (LARGER[0], {}, LARGER[1])):
            data = make_data(Path(scratch) / name, name, more, size)
            rows.append((f"{name}, {size} px", [*compare(files, data, options.rounds), *memory(files, data)]))
    lines = [
        "# Naming photographs",
        "",
        f"`python benchmarks/predict.py --photographs {len(files)} --rounds {options.rounds}`: {len(files)} JPEG files "
        f"of {WIDTH} x {HEIGHT} pixels, {TAXA} taxa, {cores()} threads. {processor()}, torch {torch.__version__}. Bare "
        "decoding opens the files and decodes all pixels. Rates are medians of the rounds; the share is the median of "
        "those of the rounds, by the clock, and in processor time, which others on the machine move less. Answers are "
        "those of preprocess.json: no file is decoded at a smaller scale.",
        "",
        "| student | bare decoding, per s | predict, per s | share by the clock | share in processor time | largest "
        "MB, a quarter of the photographs | all |",
        "|---|---|---|---|---|---|---|",
        *(f"| {name} | {' | '.join(map(shown, values))} |" for name, values in rows),
    ]
    with replacing(OUTPUT) as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8")


def shown(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def make_photographs(folder: Path, count: int) -> list[Path]:
    """Write different photographs, with fine detail as cameras have it, and link the others to them."""
    folder.mkdir()
    for number in range(min(DIFFERENT, count)):
        random = generator("benchmark", number)
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
        noise = random.normal(0, 6, (HEIGHT, WIDTH, 1))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=QUALITY)
    files = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, file in enumerate(files[DIFFERENT:]):
        os.link(files[number % DIFFERENT], file)
    return files


def make_data(folder: Path, name: str, options: dict[str, object], size: int) -> Path:
    """Write what predict needs of a run: taxa, an untrained student with an output for each, and a temperature."""
    torch.manual_seed(0)
    paths = [("Animalia", "p", "c", "o", "f", f"Genus{i // 4}", f"species{i}") for i in range(TAXA)]
    taxa = {rank: [path[at] for path in paths] for at, rank in enumerate(RANKS)}
    more = {"taxon_id": list(map(taxon_id, paths)), "leaf": [True] * TAXA, "pretrain": [0] * TAXA, "train": [1] * TAXA}
    common = pa.nulls(TAXA, pa.string())
    write_table(folder / "index" / "taxa.parquet", pa.table({**taxa, **more, "common_name": common}))
    spec = students.student_spec(name, options, TAXA, size)
    students.save_student(folder / "distill" / "control", students.build_student(spec), spec, preprocessing(size))
    about = {"calibration": {"temperature": 1.0}, "back_off": {"thresholds": dict.fromkeys(RANKS)}}
    write_json(folder / "evaluate" / "metrics.json", {"variants": {"control": about}})
    return folder


def compare(files: Sequence[Path], data: Path, rounds: int) -> tuple[float, float, float, float]:
    """(photographs a second of bare decoding, of predict, predict's share of it by the clock, in processor time)."""

    def bare() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            for _ in pool.map(lambda file: decode(file.read_bytes()).size, files):
                pass

    def named() -> None:
        output = data / "names.csv"
        if predict.main([str(files[0].parent), *OPTIONS, "--data", str(data), "--output", str(output)]):
            raise SystemExit("predict failed")

    taken = [(timed(bare), timed(named)) for _ in range(rounds)]
    clock, busy = zip(*((decoding[0] / naming[0], decoding[1] / naming[1]) for decoding, naming in taken), strict=True)
    rates = [statistics.median(len(files) / pair[which][0] for pair in taken) for which in (0, 1)]
    return rates[0], rates[1], statistics.median(clock), statistics.median(busy)


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """(seconds, processor seconds of all threads)."""
    clock, busy = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - busy


def memory(files: Sequence[Path], data: Path) -> tuple[float, float]:
    """The largest memory of predict, in MB: for a quarter of the photographs, and for all."""
    return largest(files[: len(files) // 4], data), largest(files, data)


def largest(files: Sequence[Path], data: Path) -> float:
    # Not ru_maxrss: Linux hands that of the parent, which has made the photographs, on to the child.
    code = (
        "import sys; from pathlib import Path; from bioclip_lite.commands import predict; "
        "status = predict.main(sys.argv[1:]); text = Path('/proc/self/status').read_text(); "
        "print(next(line.split()[1] for line in text.splitlines() if line.startswith('VmHWM'))); sys.exit(status)"
    )
    arguments = ["-", *OPTIONS, "--data", str(data), "--output", str(data / "more.csv")]
    listed = "\n".join(map(str, files))
    done = subprocess.run([sys.executable, "-c", code, *arguments], input=listed, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1]) / 1024


if __name__ == "__main__":
    main()
