"""The manifest of a bundle or text encoder: checks of the files that it lists, and its signature.

The manifest, bundle.json or text.json, lists all other files with their SHA-256, so that one Ed25519 signature (RFC
8032) over its bytes covers the folder. The signature, 64 bytes, lies beside it in a file of the same name and ".sig";
``openssl pkeyutl -verify -rawin`` checks it as well.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json

PrivateKey = Ed25519PrivateKey
SIGNATURE = ".sig"  # what the name of a signature ends with, after the name of what is signed
RECORDED = "signing_key_sha256"  # entry of "provenance" in a manifest that is signed
_MANIFESTS = ("bundle.json", "text.json")
_PLAIN_NAME = re.compile(r"[\w-]+(\.[\w-]+)+")  # of a file in the folder itself
_NEW_KEY = "make a key: openssl genpkey -algorithm ed25519 -out FILE"


def read_private_key(path: str | None, data: Path) -> Ed25519PrivateKey | None:
    """Read the key that ``convert.sign_with`` names, an Ed25519 private key in PEM; None for None.

    ``data``: folder of all stage outputs, in which a key would be shared with them.

    Raises:
        UserError: the file is missing, is no such key, needs a password, or lies in ``data``.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    if file.resolve().is_relative_to(data.resolve()):
        raise UserError(
            f"{path} lies in {data}, whose files are shared; keep the private key outside, e.g. in ~/.config"
        )
    try:
        key = serialization.load_pem_private_key(_read(file, _NEW_KEY), password=None)
    except TypeError:
        raise UserError(f"{path} needs a password, which nobody can type in a job; store the key without one") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no private key in PEM ({error}); {_NEW_KEY}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is a key of another algorithm than Ed25519; {_NEW_KEY}")
    return key


def read_public_key(file: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key in PEM.

    Raises:
        UserError: the file is missing or is no such key.
    """
    how = "print the public key of a private one: openssl pkey -in PRIVATE -pubout"
    try:
        key = serialization.load_pem_public_key(_read(file, how))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{file} is no public key in PEM ({error}); {how}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{file} is a key of another algorithm than Ed25519")
    return key


def _read(file: Path, how: str) -> bytes:
    if not file.is_file():
        raise UserError(f"{file} is no file; {how}")
    return file.read_bytes()


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of a public key in DER (SubjectPublicKeyInfo), 64 hexadecimal digits."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def signed_by(key: Ed25519PrivateKey | None) -> dict[str, str]:
    """What "provenance" says of the signature in a manifest that ``key`` will sign; nothing without a key."""
    return {RECORDED: fingerprint(key.public_key())} if key else {}


def signed_anew(provenance: Mapping[str, Any], key: Ed25519PrivateKey | None) -> dict[str, Any]:
    """The "provenance" of a bundle made from another, whose signature it does not have."""
    return {name: value for name, value in provenance.items() if name != RECORDED} | signed_by(key)


def sign(path: Path, key: Ed25519PrivateKey | None) -> None:
    """Write the signature of a manifest beside it; nothing without a key."""
    if key:
        Path(f"{path}{SIGNATURE}").write_bytes(key.sign(path.read_bytes()))


def verify(folder: Path, key: Ed25519PublicKey) -> list[str]:
    """Check the signature of a folder's manifest, and all files that it lists; returns their names, its own first.

    Raises:
        UserError: there is no manifest or signature, the signature is not by ``key``, or a file is missing or changed.
    """
    path = next((folder / name for name in _MANIFESTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} is no bundle: it has no {' or '.join(_MANIFESTS)}")
    signature = Path(f"{path}{SIGNATURE}")
    if not signature.is_file():
        raise UserError(
            f"{folder} is not signed: it has no {signature.name}; set convert.sign_with, or fetch that file"
        )
    content = path.read_bytes()
    try:
        key.verify(signature.read_bytes(), content)
    except InvalidSignature:
        raise UserError(
            f"{signature} is not the signature of {path.name} by key {fingerprint(key)}: one of the two files was "
            "changed, or somebody else signed; do not use the bundle"
        ) from None
    files = read_json(path)["files"]
    check_files(path, files)
    return [path.name, *sorted(files)]


def check_files(path: Path, files: Mapping[str, Any]) -> None:
    """Check that the files which the manifest ``path`` lists lie beside it and have their SHA-256.

    Raises:
        UserError: a file is missing or another, or its name leads out of the folder.
    """
    for name, said in files.items():
        file = path.with_name(name) if _PLAIN_NAME.fullmatch(name) else None
        if file is None or not file.is_file():
            raise UserError(f"{path} lists {name}, which is not in the folder; copy the bundle again")
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != said["sha256"]:
                raise UserError(f"{file} is damaged: it is not the file that {path.name} lists; copy the bundle again")
