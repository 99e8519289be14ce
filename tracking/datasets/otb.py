"""OTB (Wu, Lim and Yang, CVPR 2013 and TPAMI 2015): OTB-100, OTB-50 (TB-50) and OTB-2013.

Layout: `<name>/{img/*.jpg, groundtruth_rect.txt}`; folders with two targets hold `groundtruth_rect.1.txt` and `.2.txt`
and make two sequences. Boxes are separated by commas, tabs or spaces. An optional `attrs.txt` names the challenge
attributes.
"""

from __future__ import annotations

from tracking.datasets.entries import DatasetRequest, Entry, first_folder, not_found
from tracking.datasets.sequence import FrameFolder, FrameRange
from tracking.files.archives import StoredFile

SPLITS = ("otb100", "otb50", "otb2013")
FOLDERS = ("otb", "OTB", "OTB100", "otb100", "OTB2015", ".")

_OTB50 = """\
Basketball Biker Bird1 BlurBody BlurCar2 BlurFace BlurOwl Bolt Box Car1 Car4 CarDark CarScale ClifBar Couple Crowds
David Deer Diving DragonBaby Dudek Football Freeman4 Girl Human3 Human4 Human6 Human9 Ironman Jump Jumping Liquor
Matrix MotorRolling Panda RedTeam Shaking Singer2 Skating1 Skating2 Skiing Soccer Surfer Sylvester Tiger2 Trellis
Walking Walking2 Woman
"""
_REST_OF_OTB100 = """\
Bird2 BlurCar1 BlurCar3 BlurCar4 Board Bolt2 Boy Car2 Car24 Coke Coupon Crossing Dancer Dancer2 David2 David3 Dog Dog1
Doll FaceOcc1 FaceOcc2 Fish FleetFace Football1 Freeman1 Freeman3 Girl2 Gym Human2 Human5 Human7 Human8 Jogging KiteSurf
Lemming Man Mhyang MountainBike Rubik Singer1 Skater Skater2 Subway Suv Tiger1 Toy Trans Twinnings Vase
"""
_OTB2013 = """\
Basketball Bolt Boy Car4 CarDark CarScale Coke Couple Crossing David David2 David3 Deer Dog1 Doll Dudek FaceOcc1
FaceOcc2 Fish FleetFace Football Football1 Freeman1 Freeman3 Freeman4 Girl Ironman Jogging Jumping Lemming Liquor Matrix
Mhyang MotorRolling MountainBike Shaking Singer1 Singer2 Skating1 Skiing Soccer Subway Suv Sylvester Tiger1 Tiger2
Trellis Walking Walking2 Woman
"""

TWO_TARGETS = ("Jogging", "Skating2")

# The benchmark uses only part of these folders. First and last frame are those of its util/configSeqs.m; its
# initOmit/tiger1.txt (read by util/splitSeqTRE.m) drops the first five of Tiger1. Ground truth is distributed for the
# used frames, but for all 354 of Tiger1. The got10k toolkit states the same parts but uses all of Tiger1. BlurCar1,
# BlurCar3, BlurCar4 are not among them: configSeqs.m starts them at 247, 3 and 18, as their images are numbered.
PARTS = {
    "David": FrameRange(300, 770, 770),
    "Diving": FrameRange(1, 215, 231),
    "Football1": FrameRange(1, 74, 81),
    "Freeman3": FrameRange(1, 460, 474),
    "Freeman4": FrameRange(1, 283, 297),
    "Tiger1": FrameRange(6, 354, 354),
}


def folder_names(split: str) -> list[str]:
    """The folders of a split, in alphabetical order: 98, 49 and 50 of them."""
    words = {"otb100": _OTB50 + _REST_OF_OTB100, "otb50": _OTB50, "otb2013": _OTB2013}[split]
    return sorted(words.split())


def entries(request: DatasetRequest) -> list[Entry]:
    """The sequences of `"otb100"` (100), `"otb50"` (50) or `"otb2013"` (51).

    `request.annotations` is a folder of `<name>.txt`, with `Jogging-1`, `Jogging-2`, `Skating2-1`, `Skating2-2`.

    Raises:
        MissingData: no sequence's ground truth is under the root.
    """
    dataset = first_folder(request.root, FOLDERS, "*/groundtruth_rect*.txt")
    if dataset is None and request.annotations is None:
        layout = "otb/<name>/groundtruth_rect.txt"
        raise not_found("OTB", request.root, layout, "http://cvlab.hanyang.ac.kr/tracker_benchmark")
    found = []
    for folder_name in folder_names(request.split):
        folder = None if dataset is None else dataset / folder_name
        part = PARTS.get(folder_name)
        used = (None, None) if part is None else (part.first, part.last)
        frames = None if folder is None else FrameFolder(folder / "img", *used)
        targets = (1, 2) if folder_name in TWO_TARGETS else (None,)
        for target in targets:
            name = folder_name if target is None else f"{folder_name}-{target}"
            if request.annotations is not None:
                truth = request.annotations / f"{name}.txt"
            else:
                assert folder is not None  # one of the two is there, see above
                # Human4's only filled file is the second target's.
                number = (
                    2 if folder_name == "Human4" and (folder / "groundtruth_rect.2.txt").is_file() else target
                )
                truth = folder / (
                    "groundtruth_rect.txt" if number is None else f"groundtruth_rect.{number}.txt"
                )
            attributes = None if folder is None else folder / "attrs.txt"
            stem, suffix = (folder_name, target) if target else (folder_name, 2)
            several = target is not None or folder_name == "Human4"
            aliases = tuple(f"{stem}{mark}{suffix}" for mark in "-._") if several else ()
            found.append(
                Entry(name, StoredFile(truth), frames, attributes=attributes, aliases=aliases, part=part)
            )
    return found
