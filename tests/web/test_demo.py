"""The demo page, built and served as `make demo` does, in Chromium."""

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from bioclip_lite.sources import synthetic
from bioclip_lite.utils.files import read_json, write_json
from bioclip_lite.web import manifest
from support import keys
from support.photographs import synthetic_params

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "packages" / "react-bio-clip"


def node(*command: object, **environment: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.run(["node", *map(str, command)], cwd=PACKAGE, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    done = node("scripts/build.mjs")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees nothing but the mean colour, with names in two languages."""
    folder = tmp_path_factory.mktemp("bundle")
    script = "import {writeBundle} from './test/fixture.js'; await writeBundle(process.argv[1]);"
    done = node("--input-type=module", "-e", script, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Real photographs where there are some, else drawn ones; and single colours, of which the model is sure."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, colour in enumerate(("red", "lime", "blue")):
        Image.new("RGB", (60, 44), colour).save(folder / f"{i}-{colour}.jpg", quality=95)
    if samples := os.environ.get("BIOCLIP_LITE_SAMPLES"):
        with Path(samples, "real_species", "metadata.csv").open(newline="") as table:
            files = [row["file"] for row in csv.DictReader(table)]
        for file in files[:: len(files) // 5]:
            shutil.copy(Path(samples, "real_species", file), folder)
    else:
        params = synthetic_params()
        for i, sample in enumerate([*synthetic.samples(params)][::20]):
            (folder / f"drawn-{i}.jpg").write_bytes(synthetic.read(params, sample.locator))
    return folder


def in_chromium(bundle: Path, photos: Path, *options: str, **environment: object) -> None:
    find = "import {findChromium} from './bin/chromium.mjs'; process.exit(findChromium() ? 0 : 1)"
    if node("--input-type=module", "-e", find).returncode:
        pytest.skip("no browser is installed: apt-get install chromium")
    done = node("--test", *options, "e2e/demo.e2e.mjs", BUNDLE=bundle, PHOTOS=photos, **environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_page_in_chromium(bundle: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "signed")
    private, public = keys.make_pair(tmp_path / "keys")
    manifest.sign(tmp_path / "signed/bundle.json", manifest.read_private_key(str(private), tmp_path / "data"))
    in_chromium(tmp_path / "signed", photos, KEY=public)


def test_without_thresholds_the_page_gives_its_best_guess_and_says_so(bundle: Path, photos: Path) -> None:
    uncalibrated = photos.parent / "uncalibrated"
    shutil.copytree(bundle, uncalibrated)
    write_json(uncalibrated / "bundle.json", read_json(bundle / "bundle.json") | {"thresholds": None})
    in_chromium(uncalibrated, photos, "--test-name-pattern=answers are those of Node")


def test_the_page_says_what_the_species_list_says(bundle: Path, photos: Path, tmp_path: Path) -> None:
    """Two mulberries that are not told apart, and figs of which there was no photograph."""
    find = "import {findChromium} from './bin/chromium.mjs'; process.exit(findChromium() ? 0 : 1)"
    if node("--input-type=module", "-e", find).returncode:
        pytest.skip("no browser is installed: apt-get install chromium")
    shutil.copytree(bundle, tmp_path / "bundle")
    about = read_json(bundle / "bundle.json")
    figs, *mulberries = about["taxa"][1:]
    figs["zero_shot"] = True
    for mulberry in mulberries:
        mulberry |= {"finest_rank": "genus", "note": "Look at the leaves from below."}
    write_json(tmp_path / "bundle" / "bundle.json", about)
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(photos.glob("[0-9]-*.jpg")):
        shutil.copy(file, few)
    only = "--test-name-pattern=answers are those of Node"
    done = node("--test", only, "e2e/demo.e2e.mjs", BUNDLE=tmp_path / "bundle", PHOTOS=few)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    said = node("bin/classify.mjs", tmp_path / "bundle", *sorted(few.iterdir()))
    assert [json.loads(line)["answer"]["name"] for line in said.stdout.splitlines()] == [
        "Morus bassanus",
        "Morus",
        "Ficus",
    ]


def test_types() -> None:
    done = subprocess.run(["npx", "tsc", "-p", "demo"], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_without_a_model_there_is_one_sentence(tmp_path: Path) -> None:
    done = node("demo/make.mjs", tmp_path / "nothing")
    assert done.returncode == 1
    assert str(tmp_path / "nothing") in done.stderr and "make evaluate" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert node("demo/make.mjs").returncode == 2


def test_the_same_model_makes_the_same_page(bundle: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        done = node("demo/make.mjs", bundle, tmp_path / name)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / name
        pages.append({str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()})
    assert pages[0] == pages[1]
    (page,) = (content for path, content in pages[0].items() if path == "bioclip-lite.html")
    assert b"http://" not in page.replace(b"http://www.w3.org/", b"").split(b"<script")[0]
