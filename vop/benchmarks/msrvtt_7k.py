"""MSR-VTT with 7,010 training videos, its official training and validation parts; the test pairs of `msrvtt-9k`.

Files: `MSRVTT_train.7k.csv`, `MSRVTT_JSFUSION_test.csv`, and the captions: `MSRVTT_data.json`, or the two official files
`train_val_videodatainfo.json` and `test_videodatainfo.json`. Videos `<video_id>.mp4`. Training: 7,010 videos
of 20 captions, each caption a pair of its own. Test: 1,000 videos, one caption each. No time window. Peers train on the
official validation part too, so 500 of the 7,010 are held out by seed 0 (`benchmark.validation`).
"""

from __future__ import annotations

from vop.benchmarks import Protocol, Record
from vop.benchmarks._msrvtt import Config, example, published, published_records

VIDEOS = 7010
SOURCE = "MSR-VTT (Xu et al., CVPR 2016), splits of JSFusion and CLIP4Clip's msrvtt_data.zip"
TRAIN_IDS = "MSRVTT_train.7k.csv"
EXAMPLE = example(TRAIN_IDS)


def records(config: Config) -> list[Record]:
    """Training, held-out and test videos. Raises BenchmarkError naming the file and its fault."""
    return published_records(config, TRAIN_IDS)


def protocol(config: Config) -> Protocol:
    """The published counts, less the videos held out."""
    return published(config, VIDEOS, SOURCE)
