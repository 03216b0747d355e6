"""docs/first_steps.ipynb runs, and what it shows is what comes out. To renew it: `jupyter execute --inplace FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


def shown(cell: Any) -> list[str]:
    """The texts below a cell; of a picture that there is one, since another matplotlib draws other pixels."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return [output["text"] if "text" in output else shown_data(output["data"]) for output in outputs]


def shown_data(data: dict[str, str]) -> str:
    return "a picture" if "image/png" in data else data["text/plain"]


@pytest.mark.usefixtures("slow")
def test_the_notebook_shows_what_it_computes(tmp_path: Path) -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [(old, new) for old, new in zip(stored.cells, fresh.cells, strict=True) if old.cell_type == "code"]
    assert [text for old, _ in cells for text in shown(old)].count("a picture") == 2
    for old, new in cells:
        assert shown(new) == shown(old), old.source
    assert NOTEBOOK.stat().st_size < 500_000
    assert "site-packages" not in NOTEBOOK.read_text(encoding="utf-8"), "what libraries warn of names your folders"
