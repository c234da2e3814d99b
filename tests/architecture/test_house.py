"""The house's own rules: what may import what, how large a room may grow, and claims that must be true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("backbone", "deploy", "operators", "payloads", "services", "workflow")
MODULES = [path for package in (*PACKAGES, "dags") for path in sorted((ROOT / package).rglob("*.py"))]


def test_imports_point_one_way():
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_has_one_noun(path):
    lines = path.read_text().count("\n")
    assert lines <= 400, f"{path.name} has {lines} lines: it wants a second noun of its own"


def test_only_the_payloads_of_the_engine_are_named_by_string():
    """The engine names science by URI; a direct import would be caught above, an importlib call here."""
    for path in [p for p in MODULES if p.relative_to(ROOT).parts[0] == "workflow"]:
        assert not re.search(r"import_module\(['\"]payloads", path.read_text()), path


def test_every_package_says_in_one_sentence_what_it_is():
    for package in PACKAGES:
        first = (ROOT / package / "__init__.py").read_text().split('"""')[1].strip()
        assert len(first) > 20


def _claims():
    for line in (ROOT / "docs" / "requirements.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) >= 4 and "`" in cells[3]:
            yield cells


def test_each_claim_in_the_requirements_table_has_its_module_and_its_test():
    claims = list(_claims())
    assert claims
    for cells in claims:
        for module in re.findall(r"`([^`]+)`", cells[2]):
            assert (ROOT / module).exists(), f"{cells[0]}: no module {module}"
        for test in re.findall(r"`([^`]+)`", cells[3]):
            path, _, name = test.partition("::")
            assert (ROOT / path).exists(), f"{cells[0]}: no test file {path}"
            assert not name or re.search(rf"def {name}\b", (ROOT / path).read_text()), f"{cells[0]}: no test {test}"


def test_tree_names_no_machine_and_no_registry():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wrong = re.compile(
        "|".join(("/" + "work/", "py" + r"pi\.org", "deb" + r"\.debian\.org", "registry" + r"\.npmjs", "python" + "hosted"))
    )
    found = [
        f
        for f in listed
        if f != "tests/architecture/test_house.py" and wrong.search((ROOT / f).read_bytes().decode(errors="ignore"))
    ]
    assert not found
