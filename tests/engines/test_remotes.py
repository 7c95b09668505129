"""Remotes as teams have them: real servers, transfers that are killed, objects that rot.

A test for which Debian packages or the rights of root are missing is skipped and says what to install.
"""

import grp
import hashlib
import os
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from support import checkout, servers
from support.checkout import artifacts, repro, sh, snakemake

pytestmark = pytest.mark.pipeline

PUSH, PULL = "python -m bioclip_lite push", "python -m bioclip_lite pull"
MODEL = "data/prune/model/model.safetensors"
ENVIRONMENTS = (".venv-convert", "packages/react-bio-clip/node_modules", "packages/react-bio-clip/dist")
SAVE = "git add -A && git commit -q -m run && git push -q origin HEAD:refs/heads/$(id -un)"
LARGE, PARTS, ENOUGH = 200_000, 300, 10  # bytes, files, files that have arrived when a transfer is killed


class Remote(NamedTuple):
    """A server that runs."""

    configure: Callable[[str], str]  # shell commands that make a place on it the default remote, lab, of a clone
    stored: Callable[[str], int]  # how many objects there are at a place
    rewrite: Callable[[str, str, bytes], None]  # place, MD5, content: what that object holds from now on


def object_path(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def count_files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def rewrite_file(folder: Path, place: str, md5: str, content: bytes) -> None:
    path = folder / place / object_path(md5)
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)  # as DVC leaves them


@contextmanager
def path_remote(folder: Path) -> Iterator[Remote]:
    yield Remote(
        lambda place: f"dvc remote add -q -f -d lab {folder}/{place}",
        lambda place: count_files(folder / place),
        partial(rewrite_file, folder),
    )


@contextmanager
def ssh_remote(folder: Path) -> Iterator[Remote]:
    with servers.ssh_server(folder / "server") as ssh, pytest.MonkeyPatch.context() as patch:
        kind, key, *_ = (ssh.key.parent / "host.pub").read_text().split()
        (folder / ".ssh").mkdir()
        (folder / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{ssh.port} {kind} {key}\n")
        patch.setitem(checkout.ENVIRONMENT, "HOME", str(folder))
        yield Remote(
            lambda place: (
                f"dvc remote add -q -f -d lab ssh://127.0.0.1:{ssh.port}{folder}/{place} && "
                f"dvc remote modify --local lab keyfile {ssh.key}"
            ),
            lambda place: count_files(folder / place),
            partial(rewrite_file, folder),
        )


@contextmanager
def s3_remote(folder: Path) -> Iterator[Remote]:
    import s3fs

    with servers.s3_server(folder / "server") as s3:
        bucket = s3fs.S3FileSystem(endpoint_url=s3.endpoint, key=s3.user, secret=s3.password)
        bucket.mkdir("artifacts")
        yield Remote(
            lambda place: (
                f"dvc remote add -q -f -d lab s3://artifacts/{place} && "
                f"dvc remote modify lab endpointurl {s3.endpoint} && "
                f"dvc remote modify --local lab access_key_id {s3.user} && "
                f"dvc remote modify --local lab secret_access_key {s3.password}"
            ),
            lambda place: len(bucket.find(f"artifacts/{place}", refresh=True)),
            lambda place, md5, content: bucket.pipe(f"artifacts/{place}/{object_path(md5)}", content),
        )


@pytest.fixture(scope="module", params=[path_remote, ssh_remote, s3_remote], ids=["path", "ssh", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    with request.param(tmp_path_factory.mktemp("remote")) as made:
        yield made


@pytest.fixture(scope="module")
def pushed(remote: Remote, thin_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    """The remote, to which one clone has pushed all stages with `dvc push`, at place "thin"."""
    folder = checkout.clone(thin_built, tmp_path_factory.mktemp("pushed") / "one", pull=False)
    sh(f"dvc cache dir --local '{thin_built}/.dvc/cache' && {remote.configure('thin')} && dvc push -q", folder)
    return remote


@pytest.fixture
def other(pushed: Remote, thin_built: Path, tmp_path: Path) -> Path:
    """Another clone, which has pulled nothing yet."""
    folder = checkout.clone(thin_built, tmp_path / "other", pull=False)
    sh(pushed.configure("thin"), folder)
    return folder


def files(folder: Path) -> set[str]:
    return {name for name in artifacts(folder) if not name.endswith((".dvc", ".gitignore"))}


def test_what_one_clone_pushed_another_pulls_and_neither_engine_runs(other: Path, thin_built: Path) -> None:
    sh("dvc pull -q", other)
    assert snakemake(other) == {}
    assert repro(other) == ([], {})
    assert artifacts(other) == artifacts(thin_built)


def test_one_stage_is_pulled_alone(other: Path, thin_built: Path) -> None:
    before = files(other)
    sh("dvc pull -q prune", other)
    prune = {name for name in files(thin_built) if name.startswith("data/prune/")}
    assert files(other) - before == prune and len(prune) == 4
    assert (other / "data/provenance/prune.json").exists()
    sh(f"{PULL} data/convert", other)
    convert = {name for name in files(thin_built) if name.startswith("data/convert/")}
    assert files(other) - before == prune | convert and len(convert) == 4


def test_a_damaged_object_is_named_and_not_taken_over(
    pushed: Remote, other: Path, thin_built: Path, tmp_path: Path
) -> None:
    content = (thin_built / MODEL).read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    pushed.rewrite("thin", md5, b"X" + content[1:])
    try:
        message = sh(f"{PULL} prune quantize", other, check=False)
        assert (
            f"pull: damaged in remote lab, their content is not what was pushed:\n  {MODEL} (object {md5})" in message
        )
        assert f"python -m bioclip_lite push -r lab --again {MODEL}\n" in message
        assert "Traceback" not in message
        assert not (other / MODEL).exists()
        assert (other / "data/prune/report.json").exists() and (other / "data/quantize/model").exists()
        # DVC's own pull, with the option that the README asks for
        message = sh("dvc remote modify lab verify true && dvc pull prune", other, check=False)
        assert "data/prune" in message and not (other / MODEL).exists()
        # what the message proposes
        sh(f"dvc cache dir --local '{thin_built}/.dvc/cache' && {PUSH} -r lab --again {MODEL}", other)
        sh("dvc config --local --unset cache.dir", other)
        sh(f"{PULL} prune", other)
        assert (other / MODEL).read_bytes() == content
    finally:
        pushed.rewrite("thin", md5, content)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a folder whose transfer takes long enough to be killed."""
    folder = tmp_path_factory.mktemp("large") / "one"
    (folder / "data/large").mkdir(parents=True)
    for i in range(PARTS):
        (folder / f"data/large/{i:03d}").write_bytes(hashlib.sha256(b"%d" % i).digest() * (LARGE // 32))
    sh("git init -q -b main && dvc init -q && dvc add -q data/large && git add -A && git commit -q -m large", folder)
    return folder


def kill_in_the_middle(command: str, folder: Path, arrived: Callable[[], int]) -> None:
    """Run a transfer and kill it once some of the files, but not all of them, have arrived."""
    process = checkout.start(command, folder)
    deadline = time.monotonic() + 60
    while arrived() < ENOUGH:
        assert process.poll() is None and time.monotonic() < deadline, f"{command} ended early, or never began"
        time.sleep(0.002)
    checkout.kill(process)
    assert ENOUGH <= arrived() < PARTS


def test_a_killed_push_and_a_killed_pull_continue(remote: Remote, large: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        sh(f"git clone -q '{large}' '{folder}'", large)
        sh(remote.configure("large"), folder)
    sh(f"dvc cache dir --local '{large}/.dvc/cache'", one)
    kill_in_the_middle(PUSH, one, lambda: remote.stored("large"))
    # what a push over SSH leaves if it is killed within a file; plain `dvc push` takes it for the whole file
    sh(f"{PUSH} data/large/007", one)
    cut_off = (large / "data/large/007").read_bytes()
    remote.rewrite("large", hashlib.md5(cut_off).hexdigest(), cut_off[: LARGE // 2])
    sh(PUSH, one)

    kill_in_the_middle(PULL, two, lambda: count_files(two / ".dvc/cache/files"))
    sh(PULL, two)
    assert artifacts(two) == artifacts(large)
    assert all_sound(two / ".dvc/cache/files/md5") == PARTS + 1


def all_sound(cache: Path) -> int:
    """Hash every object of a cache, and return how many there are; what a kill leaves has other names."""
    objects = [path for path in cache.glob("??/*") if len(path.name.removesuffix(".dir")) == 30]
    for path in objects:
        assert hashlib.md5(path.read_bytes()).hexdigest() == (path.parent.name + path.name).removesuffix(".dir"), path
    return len(objects)


# ------------------------------------------------------------------------------------------------------ a shared cache


class User(NamedTuple):
    name: str
    home: Path
    umask: str

    def command(self, text: str) -> str:
        """Run as this user, who may read everything (Python may lie in root's home) and write what is theirs."""
        rights = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"
        who = f"--reuid {self.name} --regid {self.name} --init-groups"
        script = shlex.quote(f"umask {self.umask}; {text}")
        return f"{checkout.COLD} setpriv {who} {rights} env HOME={self.home} bash -c {script}"


class Team(NamedTuple):
    folder: Path
    group: str
    gid: int
    users: list[User]


@pytest.fixture
def team() -> Iterator[Team]:
    """Two users with groups of their own and one in common, and a folder that both can reach. Gone afterwards."""
    servers.require_packages(["useradd", "groupadd", "setpriv"], "passwd util-linux")
    if os.geteuid():
        pytest.skip("only root can make two users")
    folder = Path(tempfile.mkdtemp(prefix="team-"))  # pytest's own folders are closed to other users
    folder.chmod(0o755)
    group = f"team{os.getpid()}"
    users = [User(f"{group}{who}", folder / who, umask) for who, umask in (("a", "022"), ("b", "077"))]
    try:
        sh(f"groupadd {group}", folder)
        for user in users:
            sh(f"useradd --no-log-init -m -d {user.home} -U -G {group} {user.name}", folder)
        yield Team(folder, group, grp.getgrnam(group).gr_gid, users)
    finally:
        for user in users:
            sh(f"userdel {user.name}", folder, check=False)
        sh(f"groupdel {group}", folder, check=False)
        shutil.rmtree(folder)


def settle(user: User, team: Team, origin: Path, link: str) -> Path:
    """A clone of a user, with the cache of the team."""
    sh(user.command(f"git config --global --add safe.directory '{origin}' && git clone -q '{origin}' work"), user.home)
    folder = user.home / "work"
    cache = f"dvc cache dir --local '{team.folder}/cache' && dvc config --local cache.shared group"
    sh(user.command(f"{cache} && dvc config --local cache.type {link}"), folder)
    for name in ENVIRONMENTS:
        sh(user.command(f"ln -s '{checkout.ROOT / name}' '{name}'"), folder)
    return folder


def test_two_users_with_one_cache_lose_and_make_again_nothing(team: Team, thin_built: Path) -> None:
    origin, cache = team.folder / "origin.git", team.folder / "cache"
    cache.mkdir()
    sh(f"git clone -q --bare -c core.sharedRepository=group '{thin_built}' '{origin}'", team.folder)
    sh(f"chgrp -R {team.group} cache origin.git && chmod -R g+rwX cache origin.git", team.folder)
    sh("find cache origin.git -type d -exec chmod g+s {} +", team.folder)
    one, two = team.users
    at_one, at_two = settle(one, team, origin, "symlink"), settle(two, team, origin, "copy")
    checkout.set_parameter(at_one, "prune.budget.macs", 0.8)
    checkout.set_parameter(at_two, "logits.views", 3)

    # at once: the first fills the cache while the second does, and both add to it
    runs = [
        checkout.start(user.command(f"({PULL} && {run} && {SAVE}) > '{user.home}/log' 2>&1"), folder)
        for user, folder, run in (
            (one, at_one, "dvc repro"),
            (two, at_two, "snakemake --cores 1 -- evaluate"),
        )
    ]
    for user, process in zip(team.users, runs, strict=True):
        assert process.wait() == 0, (user.home / "log").read_text()[-6000:]
    assert "write_shard" not in (one.home / "log").read_text() + (two.home / "log").read_text()
    assert all_sound(cache / "files/md5") > 150
    for path in cache.rglob("*"):
        mode = path.stat().st_mode
        assert path.stat().st_gid == team.gid and mode & stat.S_IRGRP, path
        assert not path.is_dir() or (mode & stat.S_ISGID and mode & stat.S_IWGRP), path

    # each goes on with what the other made, straight from the cache
    assert any(path.is_symlink() for path in (at_one / "data").rglob("*"))
    made = {user.name: artifacts(folder) for user, folder in ((one, at_one), (two, at_two))}
    for user, folder, colleague in ((one, at_one, two), (two, at_two, one)):
        sh(user.command(f"git fetch -q && git checkout -q origin/{colleague.name} && dvc checkout -q"), folder)
        assert checkout._jobs(sh(user.command("snakemake --cores 1 -- evaluate"), folder)) == {}
        assert "Running stage" not in sh(user.command("dvc repro"), folder)
        assert artifacts(folder) == made[colleague.name]
    assert all_sound(cache / "files/md5") > 150


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
@pytest.mark.parametrize("opened", [True, False])
def test_a_folder_that_a_colleague_has_just_made_is_waited_for(thin_built: Path, tmp_path: Path, opened: bool) -> None:
    """DVC makes a folder of a shared cache first, and opens it to the group a moment later."""
    folder = checkout.clone(thin_built, tmp_path / "clone", pull=False)
    cache = folder / ".dvc/cache/files"
    prefixes = [cache / "md5" / f"{number:02x}" for number in range(256)]
    for prefix in prefixes:
        prefix.mkdir(parents=True)
        os.chown(prefix, 12345, 12345)
    process = checkout.start(f"{checkout.COLD} setpriv --bounding-set=-dac_override,-fowner {PULL} prune", folder)
    while not list(cache.glob("partial-*")):
        assert process.poll() is None, checkout.printed(folder)
        time.sleep(0.01)
    if opened:
        time.sleep(0.3)
        for prefix in prefixes:
            prefix.chmod(0o777)
    assert process.wait() == (0 if opened else 1), checkout.printed(folder)
    said = checkout.printed(folder)
    assert "Traceback" not in said
    assert (folder / MODEL).exists() == opened
    assert opened or (f"you may not write to {cache / 'md5'}/" in said and "chmod g+rwxs" in said)
