"""Downloads survive what networks do, and refuse what is not what was asked for."""

import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.data import download
from pipeline.data.download import fetch_url
from pipeline.data.sources import read_url
from pipeline.errors import CorpusError

pytestmark = pytest.mark.integration

TEXT = b"".join(b"%06d All the world's a stage.\n" % number for number in range(20_000))
SHA256 = hashlib.sha256(TEXT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file, and misbehaves as told: one word of `faults` for each request, then none."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.faults, self.requests = TEXT, '"v1"', [], []
        self.url = f"http://127.0.0.1:{self.server_port}/plays.txt"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        fault = server.faults.pop(0) if server.faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") == server.etag
        start = int(wanted[6:-1]) if wanted and same and fault != "ignore range" else 0
        if start > len(server.body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        announced = len(server.body) - start + (1000 if fault == "announce more" else 0)
        if fault != "no length":
            self.send_header("Content-Length", str(announced))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        rest = server.body[start:]
        self.wfile.write(rest[: len(rest) // 2] if fault == "drop" else rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def get(url, folder, **settings):
    return fetch_url(url, downloads=folder, **{"sha256": None, "max_bytes": 10**7, "pause": 0.0} | settings)


def test_a_file_arrives_whole_and_its_hash_is_recorded(server, tmp_path):
    got = get(server.url, tmp_path)

    assert got.path.read_bytes() == TEXT
    assert got.sha256 == SHA256
    assert got.path.name == "plays.txt"


def test_a_pinned_file_is_downloaded_once(server, tmp_path):
    first = get(server.url, tmp_path, sha256=SHA256)
    second = get(server.url, tmp_path, sha256=SHA256)

    assert first == second
    assert len(server.requests) == 1


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, tmp_path):
    got = get(server.url, tmp_path, sha256=SHA256)
    got.path.write_bytes(TEXT[:-1])

    again = get(server.url, tmp_path, sha256=SHA256)

    assert again.path.read_bytes() == TEXT


def test_an_unpinned_file_is_asked_for_each_time(server, tmp_path):
    get(server.url, tmp_path)
    server.body, server.etag = b"new text", '"v2"'

    assert get(server.url, tmp_path).path.read_bytes() == b"new text"


def test_a_dropped_connection_goes_on_where_it_stopped(server, tmp_path):
    server.faults = ["drop", "drop"]

    got = get(server.url, tmp_path)

    assert got.path.read_bytes() == TEXT
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, f"bytes={len(TEXT) // 2}-", f"bytes={len(TEXT) // 2 + (len(TEXT) // 2) // 2}-"]
    assert server.requests[1]["If-Range"] == '"v1"'


def test_a_partial_download_of_an_earlier_process_goes_on(server, tmp_path):
    server.faults = ["drop", "500", "500", "500", "500"]
    with pytest.raises(CorpusError):
        get(server.url, tmp_path)

    got = get(server.url, tmp_path)

    assert got.path.read_bytes() == TEXT
    assert server.requests[-1]["Range"] == f"bytes={len(TEXT) // 2}-"


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, tmp_path):
    server.faults = ["drop", "ignore range"]

    assert get(server.url, tmp_path).path.read_bytes() == TEXT


def test_a_file_that_changed_in_between_is_read_from_the_start(server, tmp_path):
    server.faults = ["drop", "500", "500", "500", "500"]
    with pytest.raises(CorpusError):
        get(server.url, tmp_path)
    server.body, server.etag = TEXT[::-1], '"v2"'

    assert get(server.url, tmp_path).path.read_bytes() == TEXT[::-1]


def test_without_a_strong_validator_nothing_is_resumed(server, tmp_path):
    server.faults, server.etag = ["drop"], 'W/"weak"'

    got = get(server.url, tmp_path)

    assert got.path.read_bytes() == TEXT
    assert all("Range" not in request for request in server.requests)


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_a_passing_failure_is_tried_three_times_more(server, tmp_path, status):
    server.faults = [status] * 3

    assert get(server.url, tmp_path).path.read_bytes() == TEXT
    assert len(server.requests) == 4


def test_after_three_retries_it_gives_up_and_says_so(server, tmp_path):
    server.faults = ["503"] * 9

    with pytest.raises(CorpusError, match=r"503 Service Unavailable \(tried 4 times\)") as caught:
        get(server.url, tmp_path)

    assert caught.value.where == server.url
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", ["403", "404", "410"])
def test_a_lasting_failure_is_not_tried_again(server, tmp_path, status):
    server.faults = [status] * 9

    with pytest.raises(CorpusError, match=status):
        get(server.url, tmp_path)

    assert len(server.requests) == 1


def test_a_server_that_announces_more_than_it_sends_is_found_out(server, tmp_path):
    server.faults = ["announce more"] * 9

    with pytest.raises(CorpusError, match=rf"ended after {len(TEXT)} of \d+ bytes"):
        get(server.url, tmp_path)


def test_a_file_shorter_than_what_we_have_starts_over(server, tmp_path):
    server.faults = ["drop", "500", "500", "500", "500"]
    with pytest.raises(CorpusError):
        get(server.url, tmp_path)
    server.body = TEXT[:1000]  # and the server claims that it is the same version

    assert get(server.url, tmp_path).path.read_bytes() == TEXT[:1000]


@pytest.mark.parametrize("fault", ["", "no length"])
def test_the_size_cap_holds_whether_or_not_the_length_is_announced(server, tmp_path, fault):
    server.faults = [fault]

    with pytest.raises(CorpusError, match="larger than 1000 bytes"):
        get(server.url, tmp_path, max_bytes=1000)

    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_file_that_is_not_the_pinned_one_is_refused_with_both_hashes(server, tmp_path):
    with pytest.raises(CorpusError, match=f"expected SHA-256 {'0' * 64}, got {SHA256}") as caught:
        get(server.url, tmp_path, sha256="0" * 64)

    assert "dataset.source.sha256" in caught.value.hint
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_host_without_a_server_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"127\.0\.0\.1 cannot be reached: Connection refused"):
        get("http://127.0.0.1:9/x.txt", tmp_path)


def test_a_missing_network_is_called_that(tmp_path):
    with pytest.raises(CorpusError, match="there is no network, or the name is wrong"):
        get("http://no-such-host.invalid/x.txt", tmp_path)


def test_a_redirect_to_another_kind_of_address_is_refused(tmp_path):
    handler = download._NoDowngrade()
    request = download.urllib.request.Request("https://127.0.0.1/x")

    with pytest.raises(CorpusError, match="not https"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://127.0.0.1/x")


def test_a_file_address_is_read_where_it_is(tmp_path):
    path = tmp_path / "my plays.txt"
    path.write_bytes(TEXT)

    got = get(path.as_uri(), tmp_path / "downloads", sha256=SHA256)

    assert (got.path, got.sha256) == (path, SHA256)
    with pytest.raises(CorpusError, match="expected SHA-256"):
        get(path.as_uri(), tmp_path, sha256="0" * 64)
    with pytest.raises(CorpusError, match="larger than 10 bytes"):
        get(path.as_uri(), tmp_path, max_bytes=10)
    with pytest.raises(CorpusError, match="does not exist"):
        get(path.as_uri() + ".gone", tmp_path)


def test_gzip_is_recognised_and_unpacked(server, tmp_path):
    server.body = gzip.compress(TEXT, mtime=0)

    source = read_url(url=server.url.replace(".txt", ".txt.gz"), downloads=tmp_path)

    assert source.documents[0].text == TEXT.decode()
    assert source.documents[0].id == "plays.txt"
    assert list(source.inputs.values()) == [hashlib.sha256(server.body).hexdigest()]


def test_a_gzip_bomb_is_refused_while_it_unpacks(server, tmp_path):
    server.body = gzip.compress(bytes(10**7))

    with pytest.raises(CorpusError, match="unpacks to more than 100000 bytes"):
        read_url(url=server.url, downloads=tmp_path, max_bytes=100_000)


def test_a_damaged_gzip_file_is_refused(server, tmp_path):
    server.body = gzip.compress(TEXT)[:-10]

    with pytest.raises(CorpusError, match="gzip file is damaged"):
        read_url(url=server.url, downloads=tmp_path)


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1/x.txt", "https://token@host/x"])
def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path, url):
    with pytest.raises(CorpusError, match="user name or a password") as caught:
        get(url, tmp_path)

    assert "secret" not in f"{caught.value} {caught.value.hint}"
    assert "token" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("url", ["http://[bad/x", "http://host:port/x", "http://127.0.0.1/a b"])
def test_an_address_that_is_none_is_refused_at_once(tmp_path, url):
    with pytest.raises(CorpusError, match="the address is not valid"):
        get(url, tmp_path)


def test_two_that_want_the_same_file_download_it_once(server, tmp_path):
    got = []
    threads = [threading.Thread(target=lambda: got.append(get(server.url, tmp_path, sha256=SHA256))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 4
    assert set(got) == {got[0]}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/usr/bin/python: No module named pip", "pip is missing"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError()'\nERROR: No matching",
            "there is no network",
        ),
        ("ERROR: Could not find a version\nERROR: No matching distribution found for verses==1", "no such wheel"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system",
            "Read-only file system",
        ),
        ("", "no output"),
    ],
)
def test_what_pip_says_becomes_one_sentence(output, message):
    error = download._pip_failure("verses==1", output, None)

    assert message in error.message
    assert error.hint
