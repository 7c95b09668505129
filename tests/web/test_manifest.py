"""Signed bundles: one changed byte anywhere is refused, and only the maker's key will do."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bioclip_lite.commands import verify as command
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web import bundle, manifest
from support import keys

FILES = {"model": (".json", b"{}"), "weights": (".bin", bytes(range(50))), "taxa": (".bin", b"taxa")}


def make_signed(folder: Path, private: Path, name: str = bundle.FILE) -> Path:
    folder.mkdir()
    for stem, (ending, content) in FILES.items():
        bundle.add(folder, stem, ending, content)
    (folder / name).write_bytes(bundle.json_bytes({"files": bundle.listed(folder)}) + b"\n")
    manifest.sign(folder / name, manifest.read_private_key(str(private), folder.parent / "data"))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return keys.make_pair(tmp_path / "keys")


@pytest.fixture
def signed(tmp_path: Path, pair: tuple[Path, Path]) -> Path:
    return make_signed(tmp_path / "bundle", pair[0])


def refused(folder: Path, public: Path) -> str:
    with pytest.raises(UserError) as error:
        manifest.verify(folder, manifest.read_public_key(public))
    return str(error.value)


def test_one_changed_byte_anywhere_is_refused(signed: Path, pair: tuple[Path, Path]) -> None:
    names = manifest.verify(signed, manifest.read_public_key(pair[1]))
    assert {*names, "bundle.json.sig"} == {file.name for file in signed.iterdir()} and len(names) == 1 + len(FILES)
    for file in sorted(signed.iterdir()):
        content = file.read_bytes()
        for place in range(len(content)):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            said = refused(signed, pair[1])
            assert ("is not the signature of" if "bundle.json" in file.name else f"{file} is damaged") in said
        for shorter in (content[:-1], content + b"\0", b""):
            file.write_bytes(shorter)
            refused(signed, pair[1])
        file.unlink()
        refused(signed, pair[1])
        file.write_bytes(content)
    manifest.verify(signed, manifest.read_public_key(pair[1]))


def test_another_key_is_refused_and_openssl_agrees(signed: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = keys.make_pair(tmp_path / "keys", "other")
    assert "by key " + manifest.fingerprint(manifest.read_public_key(other)) in refused(signed, other)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    check = ["openssl", "pkeyutl", "-verify", "-rawin", "-in", str(signed / "bundle.json"), "-sigfile"]
    for key, status in ((pair[1], 0), (other, 1)):
        done = subprocess.run([*check, signed / "bundle.json.sig", "-pubin", "-inkey", key], capture_output=True)
        assert done.returncode == status, done
    der = subprocess.run(["openssl", "pkey", "-pubin", "-in", pair[1], "-outform", "DER"], capture_output=True).stdout
    assert hashlib.sha256(der).hexdigest() == manifest.fingerprint(manifest.read_public_key(pair[1]))


def test_no_key_is_no_signature(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    manifest.sign(tmp_path / "bundle.json", None)
    assert [file.name for file in tmp_path.iterdir()] == ["bundle.json"] and manifest.signed_by(None) == {}
    assert manifest.read_private_key(None, tmp_path) is None


def test_a_manifest_that_leads_out_of_its_folder_is_refused(signed: Path, pair: tuple[Path, Path]) -> None:
    outside = signed.parent / "outside.bin"
    outside.write_bytes(b"x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (signed / "bundle.json").write_text(json.dumps({"files": {"../outside.bin": entry}}))
    manifest.sign(signed / "bundle.json", manifest.read_private_key(str(pair[0]), signed.parent / "data"))
    assert "which is not in the folder" in refused(signed, pair[1])


def test_keys_that_will_not_do_are_refused_in_a_sentence(pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = pair
    secret = private.read_bytes()
    data = tmp_path / "data"
    data.mkdir()
    (data / "inside.pem").write_bytes(secret)
    other = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "rsa.pem").write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "rsa.pub.pem").write_bytes(other.public_key().public_bytes(pem, spki))
    key = manifest.read_private_key(str(private), data)
    assert key is not None
    locked = key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"word"))
    (tmp_path / "locked.pem").write_bytes(locked)
    for path, problem in (
        (data / "inside.pem", "whose files are shared"),
        (public, "is no private key in PEM"),
        (tmp_path / "rsa.pem", "another algorithm than Ed25519"),
        (tmp_path / "locked.pem", "needs a password"),
        (tmp_path / "absent.pem", "is no file; make a key: openssl genpkey"),
    ):
        with pytest.raises(UserError, match=problem) as error:
            manifest.read_private_key(str(path), data)
        assert "PRIVATE KEY" not in str(error.value)
    for path, problem in (
        (private, "is no public key in PEM"),
        (tmp_path / "rsa.pub.pem", "another algorithm than Ed25519"),
        (tmp_path / "absent.pem", "is no file"),
    ):
        with pytest.raises(UserError, match=problem):
            manifest.read_public_key(path)


def test_the_command(signed: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(signed), "--key", str(pair[1])]) == 0
    assert "4 files unchanged\n" in (said := capsys.readouterr().out) and "says nothing of" not in said
    (signed / "report.json").write_text("{}")
    assert command.main([str(signed), "--key", str(pair[1])]) == 0
    assert "says nothing of report.json" in capsys.readouterr().out
    assert command.main([str(make_signed(tmp_path / "text", pair[0], "text.json")), "--key", str(pair[1])]) == 0
    (signed / "bundle.json.sig").unlink()
    capsys.readouterr()
    for folder, problem in ((signed, "is not signed"), (tmp_path / "keys", "is no bundle"), (tmp_path / "x", "is no")):
        assert command.main([str(folder), "--key", str(pair[1])]) == 1
        assert problem in capsys.readouterr().err
