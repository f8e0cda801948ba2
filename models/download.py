"""One download over HTTP: tried again where that may help, bounded in every way, and a reason in words if it fails."""

import math
import socket
from contextlib import contextmanager
from pathlib import Path

import requests
from requests import exceptions as failures
from urllib3 import exceptions as urllib3_failures

from .http_limits import LIMITS, DownloadError, LimitedAdapter, LimitedRetry, Limits

USER_AGENT = f"two-stage-image-selection (research, doi 10.1145/3543873.3584646) {requests.utils.default_user_agent()}"
MAX_REDIRECTS = 5
BACKOFF = 0.5  # seconds; doubled from try to try
CHUNK = 1 << 16

# What failed, in words: the first line that fits the exception or what caused it.
REASONS = (
    ("too many redirects", failures.TooManyRedirects),
    ("TLS failed", (failures.SSLError, urllib3_failures.SSLError)),
    ("bad address", ValueError),  # also those of requests for addresses that are not of http or https
    ("no such host", socket.gaierror),
    ("connection refused", ConnectionRefusedError),
    ("timed out", (TimeoutError, failures.Timeout, urllib3_failures.TimeoutError)),
    ("broken encoding", (failures.ContentDecodingError, urllib3_failures.DecodeError)),
    ("broke off", (failures.ChunkedEncodingError, urllib3_failures.ProtocolError)),
)
BROKEN_BODY = (failures.ChunkedEncodingError, failures.ConnectionError)  # what may go well the next time


class Downloader:
    """One worker's HTTP session.  `timeout` is for a whole download, `max_bytes` for what a server sends for it."""

    def __init__(self, timeout=math.inf, connect_timeout=10.0, read_timeout=20.0, retries=3, max_bytes=math.inf):
        self.timeout, self.max_bytes = timeout, max_bytes
        self.connect_timeout, self.read_timeout = connect_timeout, read_timeout
        self.policy = LimitedRetry(
            total=retries,
            allowed_methods=("GET",),
            status_forcelist=(429, *range(500, 600)),
            backoff_factor=BACKOFF,
            backoff_max=30,
            raise_on_status=False,  # the last answer is what counts
        )
        self.session = requests.Session()
        self.session.max_redirects = MAX_REDIRECTS
        self.session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, LimitedAdapter(max_retries=self.policy))

    def save(self, url: str, path: Path) -> None:
        """Write the body of `url` to `path`, complete as far as its server tells.  DownloadError says why not."""
        policy = self.policy
        with self.limits() as limits:
            while True:
                limits.received = 0
                with self.get(url) as response, open(path, "wb") as file:
                    if response.status_code != 200:
                        raise DownloadError(f"HTTP {response.status_code}")
                    try:
                        return copy_body(response, file, limits)
                    except BROKEN_BODY as error:
                        if policy.total == 0:
                            raise
                        policy = policy.increment("GET", url, error=urllib3_failures.ProtocolError(str(error)))
                policy.sleep()

    @contextmanager
    def limits(self):
        """Set the limits of one download; inside, exceptions of the HTTP libraries turn into DownloadErrors."""
        limits = Limits(self.timeout, self.max_bytes)
        token = LIMITS.set(limits)
        try:
            yield limits
        except (failures.RequestException, urllib3_failures.HTTPError, ValueError) as error:
            raise explain(error) from error
        finally:
            LIMITS.reset(token)

    def get(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        """The answer to a GET, redirects followed, its body still to be read."""
        connect_timeout = min(self.connect_timeout, LIMITS.get().time_left())
        return self.session.get(url, headers=headers, stream=True, timeout=(connect_timeout, self.read_timeout))


def copy_body(response: requests.Response, file, limits: Limits) -> None:
    for chunk in response.iter_content(CHUNK):
        file.write(chunk)
        limits.check_size(file.tell())  # bytes after decompression; the socket counts those before


def explain(error: BaseException) -> DownloadError:
    """An exception of requests or urllib3 as a DownloadError."""
    chain = [error]
    while cause := cause_of(chain[-1]):
        chain.append(cause)
    for reason, kinds in REASONS:
        if any(isinstance(each, kinds) for each in chain):
            return DownloadError(reason, "" if reason == "timed out" else str(chain[-1]))
    return DownloadError("connection failed", str(chain[-1]))


def cause_of(error: BaseException) -> BaseException | None:
    context = None if error.__suppress_context__ else error.__context__
    wrapped = next((each for each in error.args if isinstance(each, BaseException)), None)
    return error.__cause__ or context or wrapped
