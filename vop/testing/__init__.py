"""What every kind must keep to, as tests that a package of your own runs on its kinds (docs/extending.md).

    @pytest.mark.parametrize("name", ["mine"])
    class TestMine(VideoPromptContract):
        pass

The project's own tests run the same classes on each of its files. Models are built on the embedded tiny CLIP.
"""

from vop.testing.benchmarks import BenchmarkContract
from vop.testing.models import HeadContract, TuningContract, VideoPromptContract

__all__ = ["BenchmarkContract", "HeadContract", "TuningContract", "VideoPromptContract"]
