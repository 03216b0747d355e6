"""The list of methods: what each trains, counted both ways, against method.md section 4 and what the paper prints."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from vop.config import kind, kinds, load_experiment
from vop.model.retrieval import shape_of_model
from vop.paper.counts import Counts, count_methods
from vop.paper.methods import METHODS, method_of, overrides_of, paper_key, paper_results

COUNTS = {  # on ViT-B/32: trained, and what the paper's way of counting makes of it
    "zero-shot": (0, 0),
    "Full": (151_277_313, 119_826_432),
    "Bias": (171_008, 124_928),
    "Proj": (655_360, 655_360),
    "Partial": (10_240_256, 7_680_512),
    "Adapter^ATTN": (1_982_976, 1_982_976),
    "Adapter^FFN": (1_982_976, 1_982_976),
    "LoRA": (491_520, 491_520),
    "IA3": (92_160, 92_160),
    "ST-Adapter": (7_110_144, 7_110_144),
    "Cross-Modal Adapter": (519_168, 519_168),
    "MV-Adapter": (3_325_696, 3_325_696),
    "TempMe": (507_648, 507_648),
    "DiscoVLA": (561_200, 561_200),
    "VoP text only": (49_152, 49_152),
    "VoP visual only": (73_728, 73_728),
    "VoP": (122_880, 122_880),
    "VoP^P": (528_384, 528_384),
    "VoP^C": (14_257_152, 14_257_152),
    "VoP^F": (132_096, 122_880),
    "VoP^F+P": (402_432, 393_216),
    "VoP^F+C": (14_278_656, 14_269_440),
    "DGL": (433_664, 433_664),
    "DGL transformer": (9_575_168, 9_575_168),
    "X-Pool": (1_316_352 + 122_880,) * 2,
    "WTI": (526_338 + 122_880,) * 2,
    "seqTransf": (12_648_960 + 122_880,) * 2,
    "seqTransf+WTI": (12_648_960 + 526_338 + 122_880,) * 2,
    "seqLSTM": (2_101_248 + 122_880,) * 2,
}
HEADS = [name for name in METHODS if METHODS[name].keys() == {"head.name"}]
ADDED = [
    "LoRA",
    "IA3",
    "ST-Adapter",
    "Cross-Modal Adapter",
    "MV-Adapter",
    "TempMe",
    "DiscoVLA",
    "DGL",
    "DGL transformer",
]  # inside the encoders, not in the paper
NOT_PRINTED = ["zero-shot", *ADDED, "VoP text only", "VoP visual only", *HEADS]


@pytest.fixture(scope="module")
def counts() -> Counts:
    return count_methods()


@pytest.mark.usefixtures("slow")
def test_every_method_is_counted(counts: Counts) -> None:
    assert list(counts.methods) == list(METHODS) == list(COUNTS)
    assert (counts.total, counts.paper_total) == (151_277_313, 119_826_432)


@pytest.mark.parametrize("name", COUNTS)
def test_what_a_method_trains(counts: Counts, name: str) -> None:
    count = counts.methods[name]
    assert (count.trained, count.paper_trained) == COUNTS[name]


@pytest.mark.parametrize("name", [name for name in COUNTS if name not in NOT_PRINTED])
def test_the_papers_way_of_counting_gives_what_the_paper_prints(counts: Counts, name: str) -> None:
    found = 100 * counts.methods[name].paper_trained / counts.paper_total
    printed = paper_results()["msrvtt-9k"][paper_key(name)]["params_pct"]
    if name == "VoP^F+C":  # the paper took C minus the difference between P and F+P
        p, fp = (counts.methods[n].paper_trained for n in ("VoP^P", "VoP^F+P"))
        slip = counts.methods["VoP^C"].paper_trained - (p - fp)
        assert round(100 * slip / counts.paper_total, 3) == printed
        assert round(found, 3) == 11.908
    else:
        assert round(found, 3) == printed


def test_a_method_is_made_of_kinds_that_there_are() -> None:
    experiments = [load_experiment({}, [f"{k}={v}" for k, v in overrides.items()]) for overrides in METHODS.values()]
    assert {e.video_prompt.name for e in experiments} == set(kinds("video_prompt"))
    assert {part for e in experiments for part in e.head.name.split("+")} == set(kinds("head"))
    assert {e.tuning.name for e in experiments} == set(kinds("tuning"))


def test_a_head_has_its_row_and_its_file_says_what_it_trains_and_how_fast() -> None:
    named = {METHODS[name]["head.name"]: COUNTS[name][0] - COUNTS["VoP"][0] for name in HEADS}
    assert {part for name in named for part in name.split("+")} == {*kinds("head")} - {"mean", "discovla"}, (
        "which train nothing"
    )
    for name, count in named.items():
        for part in name.split("+") if "+" not in name else ():
            said = " ".join((kind("head", part).__doc__ or "").split())
            assert f"Default learning rate {kind('head', part).LEARNING_RATE}" in said and f"{count:,}" in said


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["head.name=wti", "head.weights=linear"], 1_026),
        (["head.name=wti", "head.weights=deep"], 1_051_650),
        (["head.name=wti", "head.weights=none"], 0),
        (["head.name=seqtransf", "head.layers=1"], 3_191_808),
        (["head.name=seqtransf+xpool"], 12_648_960 + 1_316_352),
        (["head.name=discovla"], 0),
    ],
)
def test_what_a_head_alone_trains(overrides: list[str], count: int) -> None:
    bare = {"backbone": {"pretrained": "random"}, "tuning": {"name": "zero-shot"}}
    assert shape_of_model(load_experiment(bare, overrides)).count_trainable() == count


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["tuning.name=discovla", "head.name=discovla", "backbone.name=ViT-B-16"], 561_200),
        (["tuning.name=discovla"], 491_520 + 4 * (2 * 8 * 768 + 8 + 768)),
        (["video_prompt.name=dgl-transformer", "video_prompt.length=4", "text_prompt.length=4", "frames.count=6"], 9_353_984),
    ],
)
def test_what_later_methods_train_elsewhere(overrides: list[str], count: int) -> None:
    """DiscoVLA has no text adapters without captions of frames; DGL's table has rows for each frame."""
    bare = {"backbone": {"pretrained": "random"}}
    assert shape_of_model(load_experiment(bare, overrides)).count_trainable() == count


@pytest.mark.parametrize("name", [name for name in METHODS if name not in HEADS])
def test_a_methods_file_says_what_it_trains_and_how_fast(name: str) -> None:
    tuning = kind("tuning", load_experiment({}, [f"{k}={v}" for k, v in METHODS[name].items()]).tuning.name)
    said = " ".join((tuning.__doc__ or "").split())
    assert f"Default learning rate {tuning.LEARNING_RATE}" in said
    assert f"{COUNTS[name][0]:,}" in said or "only" in name, "the ablations are not a file's defaults"


def test_the_split_keeps_its_share_of_the_depth() -> None:
    assert [overrides_of("VoP^F", layers)["video_encoder.split_layer"] for layers in (12, 24, 3, 1)] == [8, 16, 2, 1]
    assert overrides_of("VoP^F") == METHODS["VoP^F"]
    assert all(overrides_of(name, 24) == METHODS[name] for name in METHODS if "^F" not in name.replace("^FFN", ""))


@pytest.mark.usefixtures("slow")
def test_the_table_of_another_backbone() -> None:
    """The toy CLIP: 12 + 12 layers of width 64, 8 prompts in each."""
    result = CliRunner().invoke(app, ["methods", "backbone.name=ViT-toy"])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip().startswith(("VoP^", "Full"))}
    assert rows["VoP^F"][1] == f"{2 * 12 * 8 * 64 + 12 * 64:,}"
    assert rows["VoP^F"][3] == f"{2 * 12 * 8 * 64:,}"
    assert rows["Full"][2] == "100.000"
    assert "video_prompt.name=context video_encoder.split_layer=8" in result.output


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_known_by_its_experiment(name: str) -> None:
    """Whatever its lengths and layers."""
    toy = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}}
    overrides = [f"{key}={value}" for key, value in overrides_of(name, 12).items()]
    assert method_of(load_experiment(toy, overrides).flat()) == name
    if name.startswith("VoP^"):
        other = ["text_prompt.length=3", "video_prompt.depth=2-5"]
        assert method_of(load_experiment(toy, [*overrides, *other]).flat()) == name


def test_what_is_no_method_of_the_paper_has_no_name() -> None:
    for other in (
        ["text_prompt.length=0", "video_prompt.name=position"],
        ["tuning.name=discovla"],
        ["tuning.name=lora", "head.name=wti"],
    ):
        assert method_of(load_experiment("", other).flat()) == ""
