"""The notebook as a page of the site, with the outputs that lie in it.

python docs/making/notebook.py    run it and keep what it prints and draws; needs the extra 'notebook'
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "notebooks" / "widths_in_a_minute.ipynb"


def page() -> str:
    """Markdown of the whole notebook."""
    cells = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(text for cell in cells for text in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    parts = [f"```python\n{source}\n```"] if source else []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/svg+xml" in data:
            parts.append(f'<div class="output">{"".join(data["image/svg+xml"])}</div>')
        elif "image/png" in data:
            image = "".join(data["image/png"]).strip()
            label = "".join(data.get("text/plain", "figure"))
            parts.append(f"![{label}](data:image/png;base64,{image})")
        else:
            text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
            parts.append(f'```text title="prints"\n{text}\n```')
    return parts


def main() -> None:
    """Run the notebook in a kernel of its own, in an empty folder, and write its outputs into it."""
    import nbformat
    from nbclient import NotebookClient

    os.environ.setdefault("PYTHONPATH", str(PATH.parents[2]))
    book = nbformat.read(PATH, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(
            book, timeout=600, kernel_name="python3", resources=place, record_timing=False
        ).execute()
    nbformat.write(book, PATH)


if __name__ == "__main__":
    main()
