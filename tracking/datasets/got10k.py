"""GOT-10k (Huang, Zhao and Huang, TPAMI 2021).

Layout: `{train,val,test}/{list.txt, <name>/{%08d.jpg, groundtruth.txt, absence.label, cover.label, meta_info.ini}}`.
The test split's ground truth is its first box only; the rest is on the benchmark's server.
"""

from __future__ import annotations

from core.storage.files import read_text
from tracking.datasets.entries import DatasetRequest, Entry, first_folder, not_found
from tracking.datasets.sequence import FrameFolder
from tracking.files.archives import StoredFile

SPLITS = ("val", "test", "train")
FOLDERS = ("got10k", "GOT-10k", "got-10k", "GOT10k", "GOT-10k/full_data", ".")


def entries(request: DatasetRequest) -> list[Entry]:
    """The sequences named in the split's `list.txt` (or its folders, if there is no list).

    `request.annotations` is a folder that takes the place of the split's.

    Raises:
        MissingData: the split is not under the root.
    """
    if request.annotations is not None:
        folder = request.annotations
    else:
        dataset = first_folder(request.root, FOLDERS, f"{request.split}/*/groundtruth.txt")
        if dataset is None:
            layout = f"got10k/{request.split}/<name>/groundtruth.txt"
            raise not_found("GOT-10k", request.root, layout, "http://got-10k.aitestunion.com")
        folder = dataset / request.split
    listing = folder / "list.txt"
    if listing.is_file():
        names = read_text(listing, "get the annotations again").split()
    else:
        # A folder without its ground truth is a missing sequence, not an unknown one.
        names = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    return [
        Entry(
            name,
            StoredFile(folder / name / "groundtruth.txt"),
            FrameFolder(folder / name),
            absent=() if request.split == "test" else (folder / name / "cover.label",),
            absent_when="zero",
            size=folder / name / "meta_info.ini",
            first_pixel=0,  # the toolkit clips boxes to 0..width
        )
        for name in names
    ]
