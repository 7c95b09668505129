"""What may go to a public remote, and what goes to any remote. A small repository; no stage runs."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bioclip_lite.commands.push import main, push
from bioclip_lite.photographs.licences import may_be_published
from bioclip_lite.photographs.shards import write_shard
from bioclip_lite.publishing import permission
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import write_table
from support.checkout import sh

LICENCES = {  # by key
    "a": "CC-BY",
    "b": "http://creativecommons.org/licenses/by-nc/4.0/",
    "c": "CC0 1.0",
    "d": "all rights reserved",
    "e": None,
    "f": "CC_BY_NC_ND_4_0",
}
SHARDS = {"train-00000": "abc", "train-00001": "ad", "test-00000": "ef"}
FREE = {"data/index", "data/prune", "data/shard", "data/evaluate", "data/photos"}


@pytest.mark.parametrize(
    "licence",
    [
        *("CC0", "cc0", "CC0-1.0", "CC0 1.0 Universal", "CC Zero", "CC0_1_0", "public domain", "Public Domain Mark"),
        *(
            "CC-BY",
            "cc-by-nc",
            "CC BY 4.0",
            "CC-BY-NC 4.0",
            "CC BY-NC-SA 3.0 DE",
            "CC_BY_NC_4_0",
            "CC-BY-NC-ND",
            "ccby",
        ),
        *("CC BY-SA 4.0 International", "Creative Commons Attribution-NonCommercial 4.0 International"),
        *("Creative Commons Attribution License", "cc-by-sa-3.0-unported", " CC-BY ", "no rights reserved"),
        "http://creativecommons.org/licenses/by-nc/4.0/",
        "https://creativecommons.org/licenses/by/4.0/legalcode",
        "https://www.creativecommons.org/licenses/by-nc-sa/3.0/de/",
        "http://creativecommons.org/publicdomain/zero/1.0/",
        "creativecommons.org/publicdomain/mark/1.0",
    ],
)
def test_public_domain_and_creative_commons_with_attribution_may_be_published(licence: str) -> None:
    assert may_be_published(licence)


@pytest.mark.parametrize(
    "licence",
    [
        *(None, "", "  ", "all rights reserved", "\N{COPYRIGHT SIGN} A. Nyone", "C", "unknown", "MIT", "by", "cc", "0"),
        *("not CC-BY", "CC-BY or all rights reserved", "CC-NC", "CC BY-XX-NC", "CC-BYE", "unspecified"),
        "http://creativecommons.org/licenses/sampling/1.0/",
        "http://example.org/creativecommons.org/licenses/by/4.0/",
        "http://creativecommons.org.example.org/licenses/by/4.0/",
        "http://creativecommons.org/licenses/by/4.0/ but not this photograph",
    ],
)
def test_anything_else_may_not(licence: str | None) -> None:
    assert not may_be_published(licence)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that shows photographs, under DVC; remote open is public, remote lab is not."""
    folder = tmp_path_factory.mktemp("push") / "repository"
    folder.mkdir()
    rows = [
        {"key": key, "locator": f"{key}.jpg", "split": "test" if key in "ef" else "train", "licence": licence}
        for key, licence in LICENCES.items()
    ]
    origin = json.dumps({"source": "folder", "path": "data/photos"})
    table = pa.Table.from_pylist([row | {"attribution": "A. Nyone"} for row in rows])
    write_table(folder / "data/index/samples.parquet", table.replace_schema_metadata({"source": origin}))
    (folder / "data/index/contact_sheet.png").write_bytes(b"a sheet")
    for name, keys in SHARDS.items():
        write_shard(folder / f"data/shard/{name}.tar", [(key, key.encode(), {}) for key in keys])
    (folder / "data/shard/sizes.json").write_text("{}")
    for path in ("prune/model.safetensors", "evaluate/report.html", "evaluate/plots/chart.png", "photos/metadata.csv"):
        (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / path).write_bytes(path.encode())
    for key in [*LICENCES, "rejected"]:
        (folder / f"data/photos/{key}.jpg").write_bytes(f"photograph {key}".encode())
    sh("git init -q -b main && dvc init -q", folder)
    sh("dvc add -q data/index data/shard data/prune data/evaluate data/photos", folder)
    sh(f"dvc remote add -d lab {folder.parent}/lab && dvc remote add open {folder.parent}/open", folder)
    sh(f"dvc remote add alias {folder.parent}/open/", folder)
    (folder / ".dvc/public_remotes").write_text("# anybody reads these\nopen\n")
    sh("git add -A && git commit -q -m start", folder)
    return folder


@pytest.fixture
def clone(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the cache of the first, remotes of its own, as working directory."""
    sh(f"git clone -q {repository} clone", tmp_path)
    folder = tmp_path / "clone"
    config = (folder / ".dvc/config").read_text().replace(str(repository.parent), str(tmp_path))
    (folder / ".dvc/config").write_text(config)
    sh(f"dvc cache dir --local {repository}/.dvc/cache", folder)
    monkeypatch.chdir(folder)
    return folder


def objects(remote: Path) -> int:
    return sum(path.is_file() for path in remote.rglob("*"))


def refused(*targets: str, remote: str = "open") -> str:
    with pytest.raises(UserError) as error:
        push(targets, remote)
    return str(error.value)


def test_a_public_remote_gets_nothing_if_one_photograph_may_not_go(clone: Path) -> None:
    message = refused()
    assert objects(clone.parent / "open") == 0
    lines = {line.split(":")[0].strip(): line for line in message.splitlines()}
    assert "data/shard/train-00000.tar" not in lines
    assert '1 of 2: 1 "all rights reserved"; e.g. d by A. Nyone' in lines["data/shard/train-00001.tar"]
    assert "1 of 2: 1 without a licence; e.g. e by A. Nyone" in lines["data/shard/test-00000.tar"]
    assert "2 of 6: " in lines["data/index/contact_sheet.png"]
    assert "1 of 2: " in lines["data/evaluate/report.html"]
    assert "all rights reserved" in lines["data/photos/d.jpg"]
    assert "1 unknown to the index" in lines["data/photos/rejected.jpg"]
    shown = [path for path in lines if path.startswith("data/")]
    assert sorted(shown) == [
        *("data/evaluate/report.html", "data/index/contact_sheet.png"),
        *("data/photos/d.jpg", "data/photos/e.jpg", "data/photos/rejected.jpg"),
        *("data/shard/test-00000.tar", "data/shard/train-00001.tar"),
    ]


def test_the_command_that_it_proposes_works_and_sends_nothing_forbidden(clone: Path) -> None:
    command = refused().splitlines()[-1].split(" push ", 1)[1].split()
    assert main(command) == 0
    sent = {path.read_bytes() for path in (clone.parent / "open").rglob("*") if path.is_file()}
    assert {b"photograph a", b"photograph b", b"photograph c", b"photograph f", b"prune/model.safetensors"} <= sent
    assert not {b"photograph d", b"photograph e", b"photograph rejected", b"a sheet", b"evaluate/report.html"} & sent
    assert not any(b"d.jpg" in content and b"ustar" in content for content in sent)


def test_only_the_targets_count(clone: Path) -> None:
    assert push(["data/prune", "data/shard/train-00000.tar"], "open") > 0
    assert "data/shard/train-00001.tar" in refused("data/shard")
    assert "data/evaluate" not in refused("data/shard")


def test_a_remote_that_is_not_public_gets_everything(clone: Path) -> None:
    assert main([]) == 0
    assert objects(clone.parent / "lab") == len(LICENCES) + len(SHARDS) + 8 + 5  # files, lists of folders


def test_another_name_for_a_public_place_is_public(clone: Path) -> None:
    assert "alias is a public remote" in refused(remote="alias")


def test_a_mark_on_a_remote_that_does_not_exist_is_an_error(clone: Path) -> None:
    (clone / ".dvc/public_remotes").write_text("opne\n")
    assert "opne" in refused("data/prune")


def test_a_refusal_exits_with_1_and_without_traceback(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-r", "open"]) == 1
    assert capsys.readouterr().err.startswith("push: open is a public remote")
    assert main(["nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_where_the_index_is_not_here_it_is_fetched(clone: Path) -> None:
    push()  # to lab
    sh("dvc config --local --unset cache.dir", clone)
    assert main(["-r", "open"]) == 0  # nothing is here that could go
    sh("dvc pull -q data/shard", clone)
    assert "data/shard/train-00001.tar" in refused()
    assert not (clone / "data/index/samples.parquet").exists()


def test_without_the_index_nothing_is_published(clone: Path) -> None:
    push(["data/shard"])  # to lab
    sh("dvc config --local --unset cache.dir && dvc pull -q data/shard", clone)
    message = refused()
    assert permission.SAMPLES in message and "nothing was pushed" in message
    assert objects(clone.parent / "open") == 0


def test_the_report_of_the_index_may_go_unless_it_shows_what_was_left_out(tmp_path: Path) -> None:
    page, samples = tmp_path / "report.html", permission.Samples({"a": "CC0"}, {"a": None}, [], {})
    page.write_text("<p>Nothing was left out.</p>")
    assert permission.refuse("data/index/report.html", page, samples) is None
    page.write_text('<div class="example"><img></div>')
    refused = permission.refuse("data/index/report.html", page, samples)
    assert refused is not None and refused.licences == {"unknown to the index": 1}


def test_terms_of_a_collection_count_for_more_than_licences(repository: Path, clone: Path) -> None:
    sh("dvc checkout -q data/index", clone)
    table = pq.read_table("data/index/samples.parquet")
    origin = json.dumps({"source": "inat2021", "path": "data/photos"})
    Path("data/index/samples.parquet").unlink()
    write_table(Path("data/index/samples.parquet"), table.replace_schema_metadata({"source": origin}))
    sh("dvc add -q data/index", clone)
    with pytest.raises(UserError, match="terms of iNaturalist 2021: not to be distributed"):
        push(["data/shard/train-00000.tar"], "open")


def test_a_file_of_a_folder_does_not_make_the_folder_count_as_pushed(clone: Path) -> None:
    """As it does for `dvc push`, which then leaves the rest out for good."""
    push(["data/shard/train-00000.tar"], "lab")
    assert push(["data/shard"], "lab") == 3
    sh("dvc config --local --unset cache.dir && dvc pull -q data/shard", clone)
    assert len(list((clone / "data/shard").iterdir())) == 4
