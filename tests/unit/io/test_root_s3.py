"""Storage on a real S3 server: what fails for a while is tried again, what is refused is explained, nothing is torn."""

import errno
import threading
from functools import partial

import fsspec
import numpy as np
import pytest

from pipeline.atlas.site.serve import make_server
from pipeline.data.shards import iterate_samples, read_image_bytes
from pipeline.io import remote
from pipeline.io.errors import is_storage_failure, is_transient
from pipeline.io.root import Root, StorageError, expand_urls, open_for_reading, read_range
from pipeline.io.zarr_arrays import create_group, open_group, read_array, write_array
from tests.support.s3_server import every
from tests.support.tiny_run import write_data

READ_TIMEOUT_S = 0.5
FAULTS = ("500", "drop-request", "drop-response")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Tries follow each other at once, and a request is given up after half a second."""
    with monkeypatch.context() as patch:
        patch.setattr(remote, "FIRST_WAIT_S", 0.001)
        patch.setattr(remote, "MAX_WAIT_S", 0.01)
        patch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": READ_TIMEOUT_S}})
        yield


@pytest.fixture
def root(s3_url):
    return Root.open(s3_url)


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_request_survives_a_fault_of_each_kind(s3_server, root, kind):
    s3_server.choose = every(7, kind)  # one call sends up to five requests
    data = bytes(range(256)) * 100
    root.write_bytes("d/a", data)
    root.write_bytes("d/a", data[::-1])
    assert root.read_bytes("d/a") == data[::-1]
    assert root.read_bytes("d/a", offset=7, size=100) == data[::-1][7:107]
    assert root.size_bytes("d/a") == len(data)
    assert root.list("d") == ["a"]
    assert root.walk() == ["d/a"]
    assert root.exists("d/a")
    assert root.exists("d")
    assert not root.exists("d/b")
    assert expand_urls(f"{root.url}/d/*") == [f"{root.url}/d/a"]
    root.remove("d")
    assert root.walk() == []
    with pytest.raises(FileNotFoundError, match="d/a"):
        root.read_bytes("d/a")


@pytest.mark.parametrize("kind", FAULTS)
def test_arrays_survive_faults(s3_server, root, kind):
    s3_server.choose = every(7, kind)
    array = np.random.default_rng(0).normal(size=(6, 5))
    write_array(create_group(root, "s.zarr", {"x": 1}), "layers/a", array, chunks=(2, 5))
    np.testing.assert_array_equal(read_array(open_group(root, "s.zarr"), "layers/a"), array)


def test_an_array_is_written_without_asking_for_what_is_known(s3_server, root):
    group = create_group(root, "s.zarr", {})
    s3_server.requests.clear()
    for name in ("a", "b", "c"):
        write_array(group, f"layers/stage/{name}", np.zeros(3))
    puts = [request for request in s3_server.requests if request.method == "PUT"]
    assert len(puts) == 3 * 2 + 2  # a document and a chunk of each, and two groups
    assert len(s3_server.requests) <= len(puts) + 10


def test_an_answer_that_comes_too_late_is_asked_for_again(s3_server, root):
    root.write_bytes("a", b"123")
    first = len(s3_server.requests) + 1
    s3_server.stall_s = 2 * READ_TIMEOUT_S
    s3_server.choose = lambda request: "stall" if request.number == first else None
    assert root.read_bytes("a") == b"123"
    assert len(s3_server.requests) == first + 1


@pytest.mark.parametrize("kind", ["503", "refuse"])
def test_a_store_that_stays_down_is_a_storage_error_after_a_bounded_number_of_tries(s3_server, root, monkeypatch, kind):
    monkeypatch.setattr(remote, "MAX_TRIES", 3)
    root.write_bytes("a", b"123")
    group = create_group(root, "s.zarr", {})
    s3_server.choose = lambda request: kind
    for action, call in [
        ("read", lambda: root.read_bytes("a")),
        ("write", lambda: root.write_bytes("a", b"456")),
        ("list", lambda: root.list()),
        ("list", lambda: root.walk()),
        ("read", lambda: root.exists("a")),
        ("read", lambda: root.size_bytes("a")),
        ("read", lambda: open_for_reading(f"{root.url}/a")),
        ("read", lambda: read_array(group, "b")),
        ("write", lambda: write_array(group, "b", np.zeros(3))),
        ("remove", lambda: root.remove("a")),
    ]:
        s3_server.requests.clear()
        with pytest.raises(StorageError, match=rf"cannot {action} {root.url}.*3 tries in .* run the command again"):
            call()
        # Neither botocore nor s3fs multiplies them; aiohttp repeats a request once whose kept connection was closed.
        places = {request.path for request in s3_server.requests}
        assert len(s3_server.requests) <= 3 * len(places) * (1 if kind == "503" else 2)
    s3_server.reset()
    assert root.read_bytes("a") == b"123"


def test_an_upload_that_is_cut_leaves_the_old_object(s3_server, root, monkeypatch):
    monkeypatch.setattr(remote, "MAX_TRIES", 3)
    old, new = b"old" * 1000, b"new" * 100_000
    root.write_bytes("a", old)
    s3_server.choose = lambda request: "drop-request" if request.method == "PUT" else None
    with pytest.raises(StorageError):
        root.write_bytes("a", new)
    assert root.read_bytes("a") == old
    s3_server.choose = lambda request: "drop-response" if request.method == "PUT" else None
    with pytest.raises(StorageError):  # it cannot know that the new one is there
        root.write_bytes("a", new)
    assert root.read_bytes("a") == new


def test_a_multipart_upload_whose_last_part_is_cut_leaves_the_old_object(s3_server, root, monkeypatch):
    monkeypatch.setattr(remote, "MAX_TRIES", 3)
    old, new = b"old", bytes(11 << 20)
    root.write_bytes("a", old)
    fs, _ = remote.filesystem(root.url)
    monkeypatch.setattr(fs, "pipe_file", partial(fs.pipe_file, chunksize=5 << 20))
    s3_server.choose = lambda request: "drop-request" if "partNumber=3" in request.path else None
    with pytest.raises(StorageError, match="3 tries"):
        root.write_bytes("a", new)
    assert [request for request in s3_server.requests if "partNumber=3" in request.path]
    assert root.read_bytes("a") == old
    s3_server.choose = every(7, "500", "drop-request")  # an upload is five requests
    root.write_bytes("a", new)
    assert root.read_bytes("a") == new


def test_no_bucket_is_named_and_none_is_made(s3_server):
    root = Root.open("s3://no-such-bucket-here/out")
    for call in (lambda: root.write_bytes("a", b"1"), lambda: root.read_bytes("a")):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket-here/out/a: .*create the bucket"):
            call()
    assert not [request for request in s3_server.requests if request.path.strip("/") == "no-such-bucket-here"]


def test_missing_credentials_are_named_with_their_variables(s3_url, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    # A file system that has not seen the old ones.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"skip_instance_cache": True})
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        Root.open(s3_url).write_bytes("a", b"1")


class ReadTimeoutError(Exception):
    """As botocore names one of its own; no OSError."""


def test_errors_of_a_library_are_the_storages_and_errors_of_the_code_are_not(monkeypatch):
    error = ReadTimeoutError("slow")
    assert not is_storage_failure(error)
    monkeypatch.setattr(ReadTimeoutError, "__module__", "botocore.exceptions")
    assert is_storage_failure(error)
    assert is_storage_failure(TimeoutError())
    assert not is_storage_failure(ValueError("a bug"))
    assert is_transient(ConnectionResetError())
    assert not is_transient(PermissionError())
    calls = []

    def buggy() -> None:
        calls.append(1)
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        remote.request("s3://b/x", "read", buggy)
    assert len(calls) == 1


def test_waits_grow_and_are_bounded(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(remote, "MAX_WAIT_S", 20.0)
    attempts, ceilings = remote._Attempts("s3://b/x", "read"), [0.5, 1, 2, 4, 8, 16, 20]
    waits = [attempts.failed(ConnectionResetError("reset")) for _ in ceilings]
    with pytest.raises(StorageError, match="8 tries"):
        attempts.failed(ConnectionResetError("reset"))
    assert all(ceiling / 2 <= wait <= ceiling for wait, ceiling in zip(waits, ceilings, strict=True))


def test_listings_that_lag_are_waited_for(s3_server, root, monkeypatch):
    monkeypatch.setattr("pipeline.io.root.LISTING_POLL_S", 0.05)
    s3_server.hide_younger_s = 1.0
    for name in ("a", "b"):
        root.write_bytes(f"d/{name}", b"1")
    assert root.list("d") == []
    with pytest.raises(StorageError, match=rf"{root.url}/d: a was written but is not listed after 0.01 s \(2 of 2"):
        root.wait_until_listed("d", ["b", "a"], timeout_s=0.01)
    root.wait_until_listed("d", ["b", "a"])
    assert root.list("d") == ["a", "b"]
    s3_server.requests.clear()
    root.wait_until_listed("d", [])
    assert s3_server.requests == []


def test_nothing_is_waited_for_on_a_local_root(tmp_path):
    Root.open(tmp_path).wait_until_listed("d", ["never"])


@pytest.fixture
def shard(tmp_path, root):
    """A tar shard on S3, and its bytes."""
    write_data(tmp_path, num_shards=1, per_shard=8)
    data = (tmp_path / "tiny-000000.tar").read_bytes()
    root.write_bytes("tiny.tar", data)
    return f"{root.url}/tiny.tar", data


@pytest.mark.parametrize("kind", ["500", "drop-response"])
def test_a_tar_shard_is_streamed_through_faults(s3_server, shard, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(remote, "READ_AHEAD_BYTES", 4096)
    skipped = []
    local = list(iterate_samples(str(tmp_path / "tiny-000000.tar"), num_classes=None, on_skip=skipped.append))
    s3_server.choose = every(2, kind)
    samples = list(iterate_samples(shard[0], num_classes=None, on_skip=skipped.append))
    assert not skipped
    assert [sample.image for sample in samples] == [sample.image for sample in local]
    assert len(s3_server.requests) > 10  # it was read in pieces
    one = samples[5]
    assert read_image_bytes(one.tar_shard, one.offset, one.size) == one.image


@pytest.mark.parametrize("kind", ["500", "drop-response"])
def test_a_store_that_fails_in_the_middle_of_a_shard_is_no_truncated_shard(s3_server, shard, monkeypatch, kind):
    monkeypatch.setattr(remote, "READ_AHEAD_BYTES", 4096)
    skipped, seen = [], []
    s3_server.requests.clear()
    s3_server.choose = lambda request: kind if request.number > 8 else None
    samples = iterate_samples(shard[0], num_classes=None, on_skip=skipped.append)
    with pytest.raises(StorageError, match=r"cannot read .*tiny\.tar.*8 tries"):
        seen.extend(sample.key for sample in samples)
    assert 0 < len(seen) < 8
    assert not skipped


def test_a_file_is_read_ahead_in_few_requests(s3_server, shard):
    url, data = shard
    s3_server.requests.clear()
    with open_for_reading(url) as file:
        assert file.read(6) == data[:6]
        file.seek(1000)
        assert file.read(2000) == data[1000:3000]
        file.seek(-5, 2)
        assert file.read(10) == data[-5:]
        assert file.read(10) == b""
    assert [request.method for request in s3_server.requests] == ["HEAD", "GET", "GET"]
    s3_server.requests.clear()
    assert len(list(iterate_samples(url, num_classes=None, on_skip=lambda sample: None))) == 8
    assert [request.method for request in s3_server.requests] == ["HEAD", "GET"]


@pytest.fixture
def web(tmp_path):
    """A plain web server with byte ranges: its URL and its folder."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web/sites.json").write_text("{}")
    with make_server(tmp_path / "web", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "web"
        server.shutdown()
        thread.join()


def test_shards_are_read_from_a_web_server_by_ranges(web):
    url, folder = web
    pattern = write_data(folder, num_shards=2, per_shard=4).replace(str(folder), url)
    skipped = []
    for number, shard in enumerate(expand_urls(pattern)):
        local = list(iterate_samples(f"{folder}/tiny-{number:06d}.tar", num_classes=None, on_skip=skipped.append))
        samples = list(iterate_samples(shard, num_classes=None, on_skip=skipped.append))
        assert [sample.image for sample in samples] == [sample.image for sample in local]
        assert read_image_bytes(shard, samples[1].offset, samples[1].size) == local[1].image
    assert not skipped
    with pytest.raises(FileNotFoundError, match=r"tiny-000002\.tar"):
        read_range(f"{url}/tiny-000002.tar")
    assert Root.open(url).exists("tiny-000001.tar")
    assert not Root.open(url).exists("tiny-000002.tar")


def test_a_web_server_is_not_written(web):
    with pytest.raises(StorageError, match=r"web servers are read here only; choose another output\.root") as caught:
        Root.open(web[0]).write_bytes("a", b"1")
    assert caught.value.errno == errno.EROFS


def test_a_web_server_that_is_gone_is_a_storage_error_and_no_missing_file():
    for call in (read_range, open_for_reading):
        with pytest.raises(StorageError, match="8 tries"):
            call("http://127.0.0.1:9/x.tar")
