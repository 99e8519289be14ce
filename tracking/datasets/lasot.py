"""LaSOT (Fan et al., CVPR 2019): 280 test sequences, 14 attributes, frames in which the target is absent.

Two layouts are read. The data set's own: `<class>/<class>-<n>/{img/%08d.jpg, groundtruth.txt, full_occlusion.txt,
out_of_view.txt}`. The evaluation toolkit's annotations, which are canonical: `annos/<name>.txt`,
`annos/absent/<name>.txt` (absent = full occlusion or out of view), `annos/att/<name>.txt`.
"""

from __future__ import annotations

from pathlib import Path

from tracking.datasets.entries import DatasetRequest, Entry, first_folder, not_found
from tracking.datasets.sequence import FrameFolder
from tracking.files.archives import StoredFile

SPLITS = ("test", "train", "all")
FOLDERS = ("lasot", "LaSOT", "LaSOTBenchmark", "LaSOT/LaSOTBenchmark", ".")
ANNOTATION_FOLDERS = ("lasot_annotations", "LaSOT_Evaluation_Toolkit", ".")

# Column order of annos/att/*.txt, as the toolkit's run_tracker_performance_evaluation.m names them.
ATTRIBUTES = (
    "Illumination Variation",
    "Partial Occlusion",
    "Deformation",
    "Motion Blur",
    "Camera Motion",
    "Rotation",
    "Background Clutter",
    "Viewpoint Change",
    "Scale Variation",
    "Full Occlusion",
    "Fast Motion",
    "Out-of-View",
    "Low Resolution",
    "Aspect Ratio Change",
)

# sequence_evaluation_config/testing_set.txt of the toolkit, in its order: a class, then its four sequence numbers. The
# data set itself does not hold the list, and some readers lose the file's last, unterminated line.
_TEST_SET = """\
airplane 1 9 13 15; basketball 1 6 7 11; bear 2 4 6 17; bicycle 2 7 9 18; bird 2 3 15 17; boat 3 4 12 17;
book 3 10 11 19; bottle 1 12 14 18; bus 2 5 17 19; car 2 6 9 17; cat 1 3 18 20; cattle 2 7 12 13;
spider 14 16 18 20; coin 3 6 7 18; crab 3 6 12 18; surfboard 12 4 5 8; cup 1 4 7 17; deer 4 8 10 14;
dog 1 7 15 19; guitar 3 8 10 16; person 1 5 10 12; pig 2 10 13 18; rubicCube 1 6 14 19;
swing 10 14 17 20; drone 13 15 2 7; pool 12 15 3 7; rabbit 10 13 17 19; racing 10 15 16 20;
robot 1 19 5 8; sepia 13 16 6 8; sheep 3 5 7 9; skateboard 16 19 3 8; tank 14 16 6 9; tiger 12 18 4 6;
train 1 11 20 7; truck 16 3 6 7; turtle 16 5 8 9; umbrella 17 19 2 9; yoyo 15 17 19 7; zebra 10 14 16 17;
elephant 1 12 16 18; goldfish 3 7 8 10; hat 1 2 5 18; kite 4 6 10 15; motorcycle 1 3 9 18;
mouse 1 8 9 17; flag 3 9 5 2; frog 3 4 20 9; gametarget 1 2 7 13; hand 2 3 9 16; helmet 5 11 19 13;
licenseplate 6 12 13 15; electricfan 1 10 18 20; chameleon 3 6 11 20; crocodile 3 4 10 14;
gecko 1 5 16 19; fox 2 3 5 20; giraffe 2 10 13 15; gorilla 4 6 9 13; hippo 1 7 9 20; horse 1 4 12 15;
kangaroo 2 5 11 14; leopard 1 7 16 20; lion 1 5 12 20; lizard 1 3 6 13; microphone 2 6 14 16;
monkey 3 4 9 17; shark 2 3 5 6; squirrel 8 11 13 19; volleyball 1 13 18 19
"""


def test_names() -> list[str]:
    """The 280 names of the test set, in the toolkit's order."""
    groups = [group.split() for group in _TEST_SET.split(";")]
    return [f"{class_name}-{number}" for class_name, *numbers in groups for number in numbers]


def entries(request: DatasetRequest) -> list[Entry]:
    """The sequences of the split `"test"` (the 280), `"train"` (all others, 1120) or `"all"`.

    `request.annotations` is a toolkit folder (it holds `annos/`) or a data set folder whose ground truth is used;
    without it the toolkit's annotations are preferred to the data set's own, unless `request.beside_frames`.

    Raises:
        MissingData: neither layout is under the root.
    """
    dataset = first_folder(request.root, FOLDERS, "*/*/groundtruth.txt")
    toolkit = first_folder(request.root, ANNOTATION_FOLDERS, "annos")
    own, beside_frames = dataset, request.beside_frames
    if request.annotations is not None:
        is_toolkit = (request.annotations / "annos").is_dir()
        toolkit, own = (request.annotations, None) if is_toolkit else (None, request.annotations)
    if toolkit is None and own is None:
        raise not_found(
            "LaSOT",
            request.root,
            "lasot/<class>/<class>-<n>/groundtruth.txt or lasot_annotations/annos/<name>.txt",
            "http://vision.cs.stonybrook.edu/~lasot/ or https://github.com/HengLan/LaSOT_Evaluation_Toolkit",
        )
    names = test_names() if request.split == "test" else _all_names(own, toolkit)
    if request.split == "train":
        names = sorted(set(names) - set(test_names()))
    return [_entry(name, dataset, own, toolkit, beside_frames) for name in names]


def _all_names(dataset: Path | None, toolkit: Path | None) -> list[str]:
    names = set()
    if toolkit is not None:
        names |= {path.stem for path in (toolkit / "annos").glob("*.txt")}
    if dataset is not None:
        # Folders, not ground-truth files: a sequence without its ground truth is missing, not unknown.
        names |= {
            path.name
            for path in dataset.glob("*/*-*")
            if path.name.rpartition("-")[0] == path.parent.name and path.is_dir()
        }
    return sorted(names)


def _entry(
    name: str, dataset: Path | None, own: Path | None, toolkit: Path | None, beside_frames: bool
) -> Entry:
    place = f"{name.rsplit('-', 1)[0]}/{name}"  # its folder in the data set
    frames = None if dataset is None else FrameFolder(dataset / f"{place}/img")
    attributes = None if toolkit is None else toolkit / f"annos/att/{name}.txt"
    truth = None
    if own is not None and (toolkit is None or beside_frames):
        truth = own / f"{place}/groundtruth.txt"
    if truth is not None and (toolkit is None or truth.is_file()):
        absent: tuple[Path, ...] = (truth.with_name("full_occlusion.txt"), truth.with_name("out_of_view.txt"))
    else:
        assert toolkit is not None  # entries() has made sure that one of the two is there
        truth = toolkit / f"annos/{name}.txt"
        absent = (toolkit / f"annos/absent/{name}.txt",)
    return Entry(
        name,
        StoredFile(truth),
        frames,
        absent=absent,
        attributes=attributes,
        attribute_names=ATTRIBUTES,
    )
