"""Our reader of videos against the way it went before and against other decoders, on six kinds of clips.

Before: decord decoded a file, after a scan of its packets; PyAV did one with irregular timestamps, from its start to its end.
Where PyAV was named, every frame from the key frame on was decoded until the wanted one was shown. The others resize in the
decoder, on one thread, and get the frames' places for nothing.
"""

from __future__ import annotations

import importlib.util
import statistics
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from pipelines.throughput import interleaved, median_ratio
from pipelines.throughput.clips import RATE, seek_each_frame, write_clip
from vop.video.decode import Images, Square, in_order, resized_square, shrunk
from vop.video.decord import load_decord, with_decord
from vop.video.files import decoded, open_video, packets, video_stream
from vop.video.frames import read_frames, sample_indices
from vop.video.sampling import Rule
from vop.video.scan import scan_packets

FRAMES, SIZE = 12, 224
BEFORE, PYAV_BEFORE = "before", "before, by PyAV"
MINUTES = 3

Reader = Callable[[str], object]


def write_clips(folder: Path) -> dict[str, str]:
    """{what is shown in the table: path} of the six kinds."""
    wide = (1920, 1080)
    clips = {
        "360p, key frame every 250": write_clip(folder / "360-250.mp4", 0, 250),
        "360p, every 12": write_clip(folder / "360-12.mp4", 0, 12),
        "synthetic 360p, every 250": _write_synthetic(folder / "synthetic.mp4"),
        "1080p, every 250": write_clip(folder / "1080-250.mp4", 0, 250, wide, 300),
        "1080p, every 12": write_clip(folder / "1080-12.mp4", 0, 12, wide, 300),
    }
    clips[f"360p, every 12, {MINUTES} min, a packet dropped"] = _repeated(clips["360p, every 12"], folder / "dropped.mp4")
    return {what: str(path) for what, path in clips.items()}


def _write_synthetic(path: Path) -> Path:
    """FFmpeg's test picture, 15 s."""
    graph = av.filter.Graph()
    source, sink = graph.add("testsrc2", f"size=640x360:rate={RATE}"), graph.add("buffersink")
    source.link_to(sink)
    graph.configure()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"g": "250"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for _ in range(15 * RATE):
            frame = sink.pull()
            assert isinstance(frame, av.VideoFrame)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _repeated(source: Path, path: Path) -> Path:
    """A clip's packets again and again, up to MINUTES, without the packet in the middle."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copied, frames = new.add_stream_from_template(stream), stream.frames
        times = MINUTES * 60 * RATE // frames
        for time in range(times):
            old.seek(0)
            for number, packet in enumerate(packet for packet in old.demux(stream) if packet.dts is not None):
                if (time, number) == (times // 2, frames // 2):
                    continue
                later = time * round(frames / RATE / float(packet.time_base or 1))
                packet.pts, packet.dts, packet.stream = (packet.pts or 0) + later, (packet.dts or 0) + later, copied
                new.mux(packet)
    return path


def read_before(path: str, count: int, size: int, decord: bool) -> Images:
    """`count` frames as they were read before; by PyAV the same pixels as now."""
    rule = Rule(count, "uniform", 1.0, None, 0, "refuse")
    with open_video(path) as container:
        scan = scan_packets(path, container, video_stream(path, container))
    indices, steps = rule.choose(scan), np.diff(scan.stamps_V)
    if (abs(steps - np.median(steps)) > np.median(steps) / 2).any():
        return in_order(scan, rule, Square(size)).images_FHWC
    if decord:
        return with_decord(scan, indices, Square(size)).images_FHWC
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    keys, images, at = [point.place for point in scan.access_points], [], 0
    with open_video(path) as container:
        stream = video_stream(path, container)
        frames = decoded(packets(container, stream), [])
        for wanted in indices.tolist():
            key = keys[bisect_right(keys, wanted) - 1]
            if key > at:
                container.seek(scan.stamps_V[key], stream=stream)
                frames = decoded(packets(container, stream), [])
            frame = next(frame for frame in frames if place[frame.pts] == wanted)
            at = wanted + 1
            images.append(resized_square(frame, scan, Square(size)))
    return np.stack(images)


def peers(path: str) -> dict[str, Reader | None]:
    """Other ways to read a clip, None for those that are not installed."""
    with open_video(path) as container:
        stream = video_stream(path, container)
        width, height = shrunk(path, stream.codec_context.width, stream.codec_context.height, Square(SIZE))
        total = scan_packets(path, container, stream).probe.frames
    indices = sample_indices(total, FRAMES, "uniform").tolist()

    def batch_of_decord(path: str) -> object:
        reader = load_decord().VideoReader(path, width=width, height=height, num_threads=1)
        return reader.get_batch(indices).asnumpy()

    def with_torchcodec(path: str, mode: str) -> object:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        transforms = [Resize((height, width))]
        return VideoDecoder(path, seek_mode=mode, num_ffmpeg_threads=1, transforms=transforms).get_frames_at(indices).data

    codec = _loads("torchcodec.decoders")
    return {
        "decord": batch_of_decord if load_decord() else None,
        "torchcodec exact": partial(with_torchcodec, mode="exact") if codec else None,
        "torchcodec approximate": partial(with_torchcodec, mode="approximate") if codec else None,
        "X-Pool's": partial(seek_each_frame, count=FRAMES, size=SIZE) if importlib.util.find_spec("cv2") else None,
    }


def _loads(module: str) -> bool:
    """Whether a module that needs FFmpeg's libraries is here and loads."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def compare(clips: dict[str, str], rounds: int) -> dict[str, dict[str, float | None]]:
    """{clip: {way: CPU time of ours over the way's, None where it is not installed}}."""
    found, before = {}, partial(read_before, count=FRAMES, size=SIZE)
    for what, path in clips.items():
        ways: dict[str, Reader | None] = {BEFORE: partial(before, decord=True) if load_decord() else None}
        ways |= {PYAV_BEFORE: partial(before, decord=False), **peers(path)}
        ways["ours"] = partial(read_frames, count=FRAMES, size=SIZE)
        costs = interleaved({name: partial(way, path) for name, way in ways.items() if way}, rounds)
        found[what] = {name: median_ratio(costs["ours"], costs[name]) if way else None for name, way in ways.items()}
        del found[what]["ours"]
    return found


def rows(found: dict[str, dict[str, float | None]]) -> list[tuple[str, str, str, bool]]:
    """(what, value, target, whether it is met) of each clip, and of the median over the clips."""
    lines = []
    for what, ratios in found.items():
        value = ", ".join(f"{name} {'not run' if ratio is None else f'{ratio:.2f}'}" for name, ratio in ratios.items())
        met = _before(ratios) <= 0.9 and all(ratio < 1 for ratio in ratios.values() if ratio is not None)
        lines.append((f"reading 12 frames, CPU, over other ways: {what}", value, "before 0.9, others 1", met))
    median = statistics.median(_before(ratios) for ratios in found.values())
    what = "reading 12 frames, CPU, over before: median of the clips"
    return [*lines, (what, f"{median:.2f}", "at most 0.75", median <= 0.75)]


def _before(ratios: dict[str, float | None]) -> float:
    """Over the way before; where decord does not load, that was PyAV."""
    return ratios.get(BEFORE) or ratios[PYAV_BEFORE] or 0
