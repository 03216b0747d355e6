"""One command at a time fills a store: others wait for the living, and for nobody who is dead; whole stores need no claim."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.data import decode as decoding
from pipelines.data.options import StoreOptions
from pipelines.data.prepare import Prepared, prepare
from pipelines.data.room import room_of
from pipelines.data.store import read_manifest
from pipelines.data.tasks import find_tasks
from tests.support.recipe import recipe
from tests.support.stores import decode_here
from vop import claim
from vop.claim import claimed
from vop.places import PlaceError

SIZE = 64
HOLD = """import sys, time
from vop.claim import claimed
with claimed(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(99)
"""
PREPARE = """import sys
from pathlib import Path
from pipelines.data.prepare import prepare
from pipelines.data.store import read_manifest, read_videos
from tests.support.recipe import recipe
from vop.places import PlaceError
try:
    done = prepare(recipe(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]), 64)
    ids = [record.video_id for record in read_manifest(done.folder)]
    print(done.decoded, len(read_videos(done.folder, ids)[0]))
except PlaceError as error:
    print("told:", error)
"""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.data.decode.decode", decode_here)
    monkeypatch.setattr(claim, "LOOK", 0.01)


@pytest.fixture(params=["locks", "no locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A filesystem with the system's locks, and one without, where owners give signs of life."""
    if request.param == "no locks":
        refuse = OSError(errno.ENOLCK, "No locks available")
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(refuse))
        for name, seconds in {"BEAT": 0.02, "SETTLE": 0.05, "DEAD": 0.4}.items():
            monkeypatch.setattr(claim, name, seconds)
    return str(request.param)


def together(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("slow")
def test_two_never_have_it_at_once(locks: str, tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        with claimed(str(tmp_path / "store")) as mine:
            assert mine
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.6)  # longer than it takes to be thought dead
            inside[0] -= 1

    def later() -> None:
        time.sleep(0.2)
        work()

    together(work, later)
    assert most == [1]
    with claimed(str(tmp_path / "store"), wait=False) as mine:
        assert mine, "and then it is free"
        with claimed(str(tmp_path / "store"), wait=False) as other:
            assert not other
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_who_is_dead_has_nothing_and_who_lives_is_named(tmp_path: Path, sign: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout and owner.stdout.readline() == "mine\n"
        with claimed(str(tmp_path), wait=False) as mine:
            assert not mine
        threading.Timer(0.3, lambda: owner.send_signal(sign)).start()
        with claimed(str(tmp_path)) as mine:
            assert mine
    finally:
        owner.kill()
        owner.wait()
    (line,) = caplog.messages
    assert f"{tmp_path} is being filled by process {owner.pid} of" in line


def test_an_owner_without_locks_is_dead_when_its_signs_stop(
    locks: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if locks == "no locks":
        (tmp_path / claim.CLAIM).write_text("process 1 on another machine, whose clock is wrong\n7")
        began = time.monotonic()
        with claimed(str(tmp_path)) as mine:
            assert mine and time.monotonic() - began > claim.DEAD
        assert not (tmp_path / claim.CLAIM).exists()


def test_a_second_command_shares_the_first_ones_work(locks: str, videos: Path, tmp_path: Path) -> None:
    experiment, done = recipe(videos, tmp_path), list[Prepared]()
    together(*[lambda: done.append(prepare(experiment, SIZE))] * 3)
    assert sorted(one.decoded for one in done) == [0, 0, 12]
    assert len(list(Path(done[0].folder, "frames").glob("*.parquet"))) == 4
    assert {path.name for path in Path(done[0].folder).iterdir()} == {"frames", "manifest.parquet", "shards.parquet"}


def test_a_command_that_was_killed_leaves_nothing_partial_for_long(videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path)
    folder = Path(prepare(experiment, SIZE).folder)
    for left in (folder / "frames" / "a.parquet.0123abcd.partial", folder / "manifest.parquet.0123abcd.partial"):
        left.write_bytes(b"half")
    with claimed(str(folder)):
        prepare(experiment, SIZE)
        assert len(list(folder.rglob("*.partial"))) == 2, "somebody is at work: they may be his, however old"
    prepare(experiment, SIZE)
    assert not list(folder.rglob("*.partial"))


def test_a_writer_that_fails_takes_its_partial_file_with_it(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(task: dict[str, object], options: StoreOptions) -> dict[str, object]:
        if task["video_id"] == "clip 4.mp4":
            raise KeyboardInterrupt
        return row(task, options)

    row = decoding._row
    monkeypatch.setattr(decoding, "_row", stop)
    experiment = recipe(videos, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare(experiment, SIZE)
    folder = Path(find_tasks(experiment, SIZE).folder)
    assert len(list(folder.rglob("*.parquet"))) == 1 and not list(folder.rglob("*.partial"))
    monkeypatch.setattr(decoding, "_row", row)
    assert prepare(experiment, SIZE).decoded == 9


@pytest.mark.usefixtures("slow")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes another user")
def test_another_user_reads_a_whole_store_and_is_told_of_one_that_is_not(videos: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        work = Path(name)
        work.chmod(0o755)
        shutil.copytree(videos, work / "videos").chmod(0o755)
        folder = prepare(recipe(work / "videos", work), SIZE).folder
        Path(folder, "frames", "left.partial").write_bytes(b"half")

        def as_nobody(*overrides: str) -> str:
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", PREPARE]
            environment = os.environ | {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
            words = [*command, str(work / "videos"), name, *overrides]
            done = subprocess.run(words, capture_output=True, text=True, env=environment)
            return done.stdout.strip() or done.stderr

        said = as_nobody()
        if "Permission denied" in said and name not in said:
            pytest.skip("the project's files are not readable for another user")
        assert said == "0 12"
        said = as_nobody("frames.count=3")
        assert said.startswith("told: the store") and "12 of 12 videos are not in it yet" in said and "data.cache=/path" in said


def test_many_take_turns(tmp_path: Path) -> None:
    """The file of the lock is removed by each owner, and nobody gets in on one that was."""
    inside = [0]

    def work() -> None:
        for _ in range(30):
            with claimed(str(tmp_path)):
                inside[0] += 1
                assert inside[0] == 1
                time.sleep(0.0005)
                inside[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work) for _ in range(6)]:
            done.result()
    assert not list(tmp_path.iterdir())


def test_a_command_that_fails_before_anything_is_stored_leaves_no_folder(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.data.decode.decode", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe(videos, tmp_path), SIZE)
    assert not list(tmp_path.iterdir())


def test_a_store_with_no_room_is_refused_before_anything_is_decoded(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.data.room.free_bytes", lambda place: 10**5)
    monkeypatch.setattr("pipelines.data.decode.decode", None)
    with pytest.raises(PlaceError, match=r"12 of 12 videos .* take about 590 kB \(data\.codec=raw\); 100 kB are free"):
        prepare(recipe(videos, tmp_path), SIZE)
    assert not Path(find_tasks(recipe(videos, tmp_path), SIZE).folder).exists()


def test_what_frames_take_is_known_beforehand(videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path)
    room = room_of(find_tasks(experiment, SIZE))
    folder = prepare(experiment, SIZE).folder
    stored = sum(path.stat().st_size for path in Path(folder, "frames").iterdir())
    assert room.needed == pytest.approx(stored, rel=0.05) and room.videos == len(read_manifest(folder)) == 12
