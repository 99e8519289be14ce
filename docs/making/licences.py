"""The table in LICENCES.md: the packages that pyproject.toml asks for, and what they say of their licences.

python docs/making/licences.py            write the table
python docs/making/licences.py --check    status 1 where it lacks a package, or says something else of one that is here
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core.errors import UserError  # noqa: E402
from core.storage.files import write_text  # noqa: E402
from core.tables import grouped, markdown_table  # noqa: E402

BEGIN, END = "<!-- made by python docs/making/licences.py -->", "<!-- end of what it made -->"
OURS = "lwdna"
LONGEST = 60  # letters; some packages put the whole text of the licence there


def requirements() -> dict[str, list[str]]:
    """Package -> where it is asked for: "always", or the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {"always": project["dependencies"], **project["optional-dependencies"]}
    found = grouped(
        (name, extra)
        for extra, names in asked.items()
        for text in names
        if (name := re.split(r"[^\w.-]", text)[0]) != OURS
    )
    return dict(sorted(found.items(), key=lambda item: (item[1][0] != "always", item[0].lower())))


def licence_of(name: str) -> str | None:
    """What an installed package says of its licence; None where it is not installed.

    Raises:
        UserError: it says nothing.
    """
    try:
        said: Any = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    stated = said.get("License-Expression") or ""
    classes = [
        text.rpartition(" :: ")[2]
        for text in said.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    classes = [text for text in classes if text not in ("OSI Approved", "DFSG approved")]
    text = (said.get("License") or "").strip().splitlines()
    for candidate in (stated, ", ".join(classes), text[0][:LONGEST] if text else ""):
        if candidate:
            return candidate
    raise UserError(
        f"package '{name}' does not say its licence: write it into KNOWN in docs/making/licences.py"
    )


# Packages that are rarely installed, or whose metadata leave it out; from the LICENSE file that they install.
KNOWN: Mapping[str, str] = {"PyTurboJPEG": "MIT License"}


def table(old: Mapping[str, str]) -> str:
    """The table; packages that are not installed keep what `old` says of them."""
    rows = []
    for name, extras in requirements().items():
        said = KNOWN.get(name) or licence_of(name) or old.get(name, "")
        rows.append(
            [f"`{name}`", said, ", ".join(extra if extra == "always" else f"`{extra}`" for extra in extras)]
        )
    return markdown_table(["package", "licence", "needed"], rows).replace("---:", "---")


def main(check: bool) -> int:
    """Write or check; returns the exit status."""
    path = ROOT / "LICENCES.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    old = dict(re.findall(r"^\| `([\w.-]+)` \| ([^|]*?) \|", text, re.MULTILINE))
    wanted = f"{before}{BEGIN}\n\n{table(old)}\n\n{END}{after}"
    if check:
        print("LICENCES.md is up to date" if wanted == text else "run python docs/making/licences.py")
        return int(wanted != text)
    write_text(path, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
