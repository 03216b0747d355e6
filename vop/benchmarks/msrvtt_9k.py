"""MSR-VTT with 9,000 training videos, the split most papers mean by "1k-A" (JSFusion's test pairs).

Files: `MSRVTT_train.9k.csv`, `MSRVTT_JSFUSION_test.csv`, and the captions: `MSRVTT_data.json`, or the two official files
`train_val_videodatainfo.json` and `test_videodatainfo.json`. Videos `<video_id>.mp4`. Training: 9,000 videos
of 20 captions, each caption a pair of its own. Test: 1,000 videos, one caption each. No time window. It has no validation set
of its own: 500 training videos are held out by seed 0 (`benchmark.validation`). The 9,000 and the 1,000 are all of MSR-VTT.
"""

from __future__ import annotations

from vop.benchmarks import Protocol, Record
from vop.benchmarks._msrvtt import Config, example, published, published_records

VIDEOS = 9000
SOURCE = "MSR-VTT (Xu et al., CVPR 2016), splits of JSFusion and CLIP4Clip's msrvtt_data.zip"
TRAIN_IDS = "MSRVTT_train.9k.csv"
EXAMPLE = example(TRAIN_IDS)


def records(config: Config) -> list[Record]:
    """Training, held-out and test videos. Raises BenchmarkError naming the file and its fault."""
    return published_records(config, TRAIN_IDS)


def protocol(config: Config) -> Protocol:
    """The published counts, less the videos held out."""
    return published(config, VIDEOS, SOURCE)
