"""The generated C of two small networks, as text: a change of the generator shows as a diff."""

import difflib

import pytest

from golden_code import COMMAND, FOLDER, NETWORKS, generate


@pytest.mark.parametrize("name", NETWORKS)
def test_the_generated_code_is_the_kept_code(name: str) -> None:
    made = generate(name)
    assert {path.name for path in FOLDER.glob(f"{name}*")} == set(made), COMMAND
    for path, text in made.items():
        kept = (FOLDER / path).read_text()
        lines = difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "made", n=1)
        difference = "\n".join(list(lines)[:40])
        assert not difference, f"{path} differs; if that is meant: {COMMAND}\n{difference}"
