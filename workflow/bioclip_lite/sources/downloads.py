"""Photographs from web addresses: fetched in parallel and politely, and never twice.

They lie in the folder ``index.downloads.folder``, keyed by content:

    objects/<ab>/<SHA-256 of the content>   the files
    urls/<ab>/<SHA-256 of the address>      text, the SHA-256 of the content
    partial/<SHA-256 of the address>        what has come so far; beside it, in .validator, the server's name for that
                                            version, so that the rest can be asked for after an interruption
    failed/<ab>/<SHA-256 of the address>    text, why an address gave no photograph

``settings`` is section ``index.downloads`` of the parameters: folder, per_host (requests at a time to one host), tries
(per address), timeout (seconds of silence).
"""

import asyncio
import fcntl
import hashlib
import os
import re
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import aiohttp
from aiohttp_retry import ExponentialRetry, RetryClient
from yarl import URL

from bioclip_lite import __version__
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing
from bioclip_lite.utils.progress import progress

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import IndexDownloads

_BATCH = 4096  # addresses looked up in the cache at a time
_WINDOW = 256  # addresses being fetched, or waiting for their host, at a time
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 300.0  # seconds; back-off doubles from the first, and no server may ask for more
_UNREACHABLE = 8  # failures to reach a host in a row, after which its other addresses are left alone
_LARGEST = 200_000_000  # bytes of one photograph
_REMEMBERED = 3600.0  # seconds for which ``read`` believes that an address has failed
_RETRIED = {408, 425, 429}  # beside all from 500 up
# How files begin that servers send with status 200 in place of a photograph: pages, messages, documents, archives. What
# servers say of the type is often wrong.
_NO_IMAGE = re.compile(rb"\s*(<|\{|\[|%PDF|PK\x03\x04|version https://git-lfs)|\xef\xbb\xbf\s*[<{]", re.IGNORECASE)
_ENCODINGS = {"gzip", "x-gzip", "deflate"}
_HEADERS = {
    "User-Agent": f"bioclip-lite/{__version__} (collects photographs of species for research; aiohttp)",
    "Accept": "image/*, */*;q=0.1",
    "Accept-Encoding": "identity",  # so that ranges are ranges of the file
}


class _Failed(Exception):
    """Why an address gives no photograph, in plain words; trying again would not help."""


def fetch(addresses: Iterable[str], settings: "IndexDownloads") -> None:
    """Download what is not in the cache yet. What cannot be had is left to ``read`` to tell.

    Addresses that failed in an earlier run are tried again. Memory does not grow with the number of addresses.
    Raises UserError if the cache cannot be written.
    """
    folder = Path(settings["folder"])
    waiting = iter(addresses)
    while batch := list(islice(waiting, _BATCH)):
        wanted = [address for address in dict.fromkeys(batch) if _cached(folder, address) is None]
        for _ in progress(_fetch_all(wanted, settings), len(wanted), "index: photographs downloaded"):
            pass


def read(address: str, settings: "IndexDownloads") -> bytes:
    """The photograph at an address, from the cache or else from the web.

    Raises OSError with the reason if there is none, at once where ``fetch`` has just failed at it.
    """
    folder = Path(settings["folder"])
    if (content := _content(folder, address)) is not None:
        return content
    if reason := _recent_failure(folder, address):
        raise OSError(reason)
    for _ in _fetch_all([address], settings):
        pass
    if (content := _content(folder, address)) is not None:
        return content
    raise OSError(_recent_failure(folder, address) or "the downloaded file has gone from the cache")


def content_hash(address: str, settings: "IndexDownloads") -> str | None:
    """SHA-256 of the photograph at an address, in hexadecimal digits, if it is in the cache."""
    path = _cached(Path(settings["folder"]), address)
    return path.name if path else None


# ------------------------------------------------------------------------------------------------------------ the cache


def _hash(address: str) -> str:
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


def _entry(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / name[:2] / name


def _cached(folder: Path, address: str) -> Path | None:
    """The file of an address, if it is there."""
    try:
        name = _entry(folder, "urls", _hash(address)).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    path = _entry(folder, "objects", name)
    return path if path.is_file() else None


def _content(folder: Path, address: str) -> bytes | None:
    path = _cached(folder, address)
    if path is None:
        return None
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.name:  # damaged after it was written
        path.unlink(missing_ok=True)
        return None
    return content


def _recent_failure(folder: Path, address: str) -> str | None:
    path = _entry(folder, "failed", _hash(address))
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime < _REMEMBERED:
            return path.read_text(encoding="utf-8")
    return None


def _keep(folder: Path, address: str, partial: Path) -> None:
    """Move a complete download to its place; only then does the address point to it."""
    with partial.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()
    path = _entry(folder, "objects", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)
    _write(_entry(folder, "urls", _hash(address)), name)
    _entry(folder, "failed", _hash(address)).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- fetching


class _Hosts:
    """State of the hosts during one ``_fetch_all``: open requests, and hosts that do not answer."""

    def __init__(self, per_host: int) -> None:
        self.slots: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_host))
        self.silent: Counter[str] = Counter()


def _fetch_all(addresses: list[str], settings: "IndexDownloads") -> Iterator[None]:
    """Download these addresses; yields once for each that is done, in whichever way."""
    if not addresses:
        return
    with asyncio.Runner() as runner:
        client = runner.run(_client(settings))
        hosts = _Hosts(settings["per_host"])
        try:
            waiting, running = iter(addresses), set[asyncio.Task[None]]()
            while True:
                for address in islice(waiting, _WINDOW - len(running)):
                    running.add(runner.get_loop().create_task(_fetch(client, hosts, address, settings)))
                if not running:
                    return
                done, running = runner.run(_first(running))
                for task in done:
                    task.result()
                    yield
        finally:
            runner.run(client.close())


async def _client(settings: "IndexDownloads") -> RetryClient:
    silence = settings["timeout"]
    # A server that trickles is given up as well. Hosts have their own slots, so the pool needs no limit.
    timeout = aiohttp.ClientTimeout(total=20 * silence, sock_connect=silence, sock_read=silence)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=timeout,
        headers=_HEADERS,
        auto_decompress=False,
        trust_env=True,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    return RetryClient(client_session=session)


async def _first(tasks: set[asyncio.Task[None]]) -> tuple[set[asyncio.Task[None]], set[asyncio.Task[None]]]:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _fetch(client: RetryClient, hosts: _Hosts, address: str, settings: "IndexDownloads") -> None:
    """Download one address, or write down why not."""
    folder = Path(settings["folder"])
    try:
        if reason := await _attempt(client, hosts, address, settings):
            _write(_entry(folder, "failed", _hash(address)), reason)
    except OSError as error:
        raise UserError(
            f"downloads cannot be written to {folder} ({error}); make room there, or set index.downloads.folder in "
            "params.yaml to another folder"
        ) from None


async def _attempt(client: RetryClient, hosts: _Hosts, address: str, settings: "IndexDownloads") -> str | None:
    """None if the address is in the cache now, otherwise the reason why not."""
    try:
        host = _host(address)
    except ValueError as error:
        return f"not a web address ({error})"
    async with hosts.slots[host]:
        if hosts.silent[host] >= _UNREACHABLE:
            return f"{host} does not answer"
        try:
            await _download(client, address, Path(settings["folder"]), settings["tries"])
            reason = None
        except _Failed as error:
            reason = str(error)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            hosts.silent[host] += 1
            late = isinstance(error, TimeoutError)
            return f"no answer within {settings['timeout']:g} s" if late else f"no connection ({error})"
        except aiohttp.ClientPayloadError:
            reason = "the transfer broke off"
        except aiohttp.ClientError as error:
            reason = f"{type(error).__name__}: {error}"
        hosts.silent[host] = 0
        return reason


def _url(address: str) -> URL:
    """An address as it is if it is one; letters and spaces that addresses cannot have are escaped.

    What is escaped stays so: the signature of an address counts its bytes.
    """
    return URL(address, encoded=re.fullmatch(r"[!-~]*%[0-9a-fA-F]{2}[!-~]*", address) is not None)


def _host(address: str) -> str:
    url = URL(address)
    if not url.host:
        raise ValueError("no host")
    return f"{url.host}:{url.port}"


async def _download(client: RetryClient, address: str, folder: Path, tries: int) -> None:
    """Download one address into the cache, or raise _Failed or an error of aiohttp."""
    with _Transfer(folder, address) as transfer:
        options = _Polite(
            attempts=tries,
            start_timeout=_FIRST_WAIT,
            statuses=_RETRIED,
            exceptions={aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError},
            evaluate_response_callback=transfer.receive,
        )
        # The client hands the same dictionary to each try, so that ``transfer`` can ask for what is still missing.
        async with client.get(_url(address), headers=transfer.headers, retry_options=options) as response:
            # The last try is not evaluated by the client.
            if not transfer.complete and not await transfer.receive(response):
                raise _Failed(f"HTTP {response.status}")
        _keep(folder, address, transfer.path)


class _Polite(ExponentialRetry):
    """Waits twice as long before each try, and as long as the server asks to."""

    def get_timeout(self, attempt: int, response: aiohttp.ClientResponse | None = None) -> float:
        wait = super().get_timeout(attempt)
        if response is None:
            return wait
        response.close()
        asked = _retry_after(response.headers.get("Retry-After", ""))
        if asked > _LONGEST_WAIT:
            raise _Failed(f"HTTP {response.status}, the server asks to come back in {asked:.0f} s")
        return max(wait, asked)


def _retry_after(text: str) -> float:
    """Seconds from a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


class _Transfer:
    """The file of one download, which may come in several tries, and in several runs."""

    def __init__(self, folder: Path, address: str) -> None:
        self.path, self.file = _open_partial(folder / "partial", _hash(address))
        self.validator = Path(f"{self.path}.validator")
        self.headers: dict[str, str] = {}
        self.complete = False
        self._ask_for_the_rest()

    def __enter__(self) -> "_Transfer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self.file:
            useless = self.complete or isinstance(error, _Failed) or not self._size()
            if useless or not self.validator.exists():  # without it the rest cannot be asked for
                self.path.unlink(missing_ok=True)
                self.validator.unlink(missing_ok=True)

    async def receive(self, response: aiohttp.ClientResponse) -> bool:
        """Write the body of a response. False: start again, from the beginning."""
        if response.status == 416:  # the range lies behind the end
            return self._start_again()
        if response.status not in (200, 206):
            raise _Failed(f"HTTP {response.status}")
        if response.status == 200:
            self.file.truncate(0)
        elif _range_start(response) != self._size():
            return self._start_again()
        # Some servers pack what was asked for unpacked; a part of that is no part of the file.
        packed = response.headers.get("Content-Encoding", "").strip().lower() in _ENCODINGS
        version = None if packed else _version(response)
        if version:
            self.validator.write_text(version, encoding="utf-8")
        else:
            self.validator.unlink(missing_ok=True)
        try:
            await self._write(response, zlib.decompressobj(32 + zlib.MAX_WBITS).decompress if packed else bytes)
        except zlib.error as error:
            raise _Failed(f"it is said to be packed, but is not ({error})") from None
        finally:
            self.file.flush()
            self._ask_for_the_rest()
        if not self._size():
            raise _Failed("empty file")
        self.complete = True
        return True

    async def _write(self, response: aiohttp.ClientResponse, unpack: Callable[[bytes], bytes]) -> None:
        size = self._size()
        async for chunk in response.content.iter_chunked(1 << 16):
            content = unpack(chunk)
            if not size and (match := _NO_IMAGE.match(content)):
                begins = match[0].strip().decode("utf-8", "replace")
                raise _Failed(f"not an image ({response.content_type}, begins with {begins!r})")
            size += self.file.write(content)
            if size > _LARGEST:
                raise _Failed(f"larger than {_LARGEST:,} bytes")

    def _size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def _ask_for_the_rest(self) -> None:
        self.headers.clear()
        if self._size() and self.validator.exists():
            self.headers |= {"Range": f"bytes={self._size()}-", "If-Range": self.validator.read_text(encoding="utf-8")}

    def _start_again(self) -> bool:
        self.file.truncate(0)
        self._ask_for_the_rest()
        return False


def _open_partial(folder: Path, name: str) -> tuple[Path, BinaryIO]:
    """The file of an unfinished download, for this process alone.

    While another process is at the same address, or where the file system knows no locks, it is a file of our own,
    with which a later run does not go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    file = path.open("ab")
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # otherwise finished by another process meanwhile
            return path, file
    file.close()
    number, own = tempfile.mkstemp(prefix=f"{name}.", dir=folder)
    return Path(own), os.fdopen(number, "ab")


def _range_start(response: aiohttp.ClientResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _version(response: aiohttp.ClientResponse) -> str | None:
    """The value for If-Range: a strong ETag, or else the date (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")
