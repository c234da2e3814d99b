"""What the documents tell people to type can be typed."""

import re
from pathlib import Path

import click
import pytest
import sqlalchemy as sa

from deploy.cli import cli
from workflow.ledger import Ledger

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("dags/*.py"))]
COMMAND = re.compile(r"pachon ([a-z][a-z-]*[^`\n|]*)")


def meant(text):
    """(command, words after its name) of `pachon …`; None where no command follows."""
    command, words = cli, re.split(r"\s+", text.strip())
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0].strip(".,;:()"))
        if found is None:
            break
        command, words = found, words[1:]
    return (command, words) if command is not cli else None


def options_of(command):
    return {"--help", *(name for p in command.params for name in (*p.opts, *p.secondary_opts))}


def test_every_option_that_the_documents_name_is_one():
    seen, unknown = 0, []
    for path in DOCUMENTS:
        for match in COMMAND.finditer(path.read_text()):
            if (found := meant(match[1])) is None:
                continue
            seen += 1
            command, words = found
            # `--home` may stand after any command of a group that takes it
            known = options_of(command) | {"--home", "--json"}
            unknown += [(path.name, match[0], o) for w in words for o in re.findall(r"--[a-z][a-z-]*", w) if o not in known]
    assert not unknown
    assert seen > 100


def test_every_query_of_the_ledger_in_the_documents_is_one(tmp_path):
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    queries = [q for block in blocks for q in re.sub(r"--[^\n]*", "", block).split(";") if q.strip()]
    assert len(queries) > 4
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.sqlite3")
    for query in queries:
        assert ledger.all(sa.text(query)) == []
    ledger.close()


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.suffix == ".md"], ids=lambda p: p.name)
def test_what_a_document_links_to_is_there(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


def test_every_decision_has_a_number_of_its_own():
    heads = {path.name: re.match(r"# (\d+)\. ", path.read_text()) for path in (ROOT / "docs" / "adr").glob("*.md")}
    assert not [name for name, head in heads.items() if head is None or int(head[1]) != int(name[:4])]
    assert len({name[:4] for name in heads}) == len(heads)
