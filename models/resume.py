"""Large files over connections that break: what has come stays on disk, and the next try asks for the rest only."""

import re
from collections.abc import Callable
from pathlib import Path

import requests
from urllib3.exceptions import ProtocolError

from .download import BROKEN_BODY, CHUNK, Downloader
from .http_limits import DownloadError


def save_resumable(downloader: Downloader, url: str, path: Path, on_bytes: Callable[[int, int | None], None]) -> None:
    """Complete `path` with what is missing of `url`; `on_bytes(have, total)` is told as it grows.

    The version of the file (its ETag) is kept beside it, so that parts of two versions never meet.  DownloadError
    says why it failed; what came so far is left for the next call.
    """
    version_file, policy = version_path(path), downloader.policy
    with downloader.limits():
        while True:
            version = version_file.read_text() if version_file.exists() else ""
            have = path.stat().st_size if version and path.exists() else 0
            asked = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
            with downloader.get(url, asked) as response:
                status = response.status_code
                if have and response.headers.get("Content-Range") == f"bytes */{have}":
                    return  # status 416: nothing is missing
                if have and (status == 416 or (status == 206 and not continues(response, have, version))):
                    path.unlink()  # it is not that file any more: all of it again
                    continue
                if status not in (200, 206):  # not now, or not any more: what has come is left alone
                    raise DownloadError(f"HTTP {status}")
                have *= status == 206
                version_file.write_text(version_of(response))
                with open(path, "ab" if have else "wb") as file:
                    try:
                        copy_rest(response, file, have, on_bytes)
                        return
                    except BROKEN_BODY as error:
                        if file.tell() > have:
                            policy = downloader.policy  # something came: that try does not count
                        if policy.total == 0:
                            raise
                        policy = policy.increment("GET", url, error=ProtocolError(str(error)))
            policy.sleep()


def version_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.version{path.suffix}")


def version_of(response: requests.Response) -> str:
    """What tells this version of a file from others, byte for byte; empty if the server does not say."""
    etag = response.headers.get("ETag", "")
    if response.headers.get("Content-Encoding") or etag.startswith("W/"):
        return ""
    return etag or response.headers.get("Last-Modified", "")


def continues(response: requests.Response, have: int, version: str) -> bool:
    """Whether an answer goes on just where `have` bytes of `version` end."""
    part = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return bool(response.status_code == 206 and part and int(part[1]) == have and version_of(response) == version)


def copy_rest(response: requests.Response, file, have: int, on_bytes) -> None:
    left = response.raw.length_remaining
    total = None if left is None else have + left
    for chunk in response.iter_content(CHUNK):
        file.write(chunk)
        on_bytes(file.tell(), total)
