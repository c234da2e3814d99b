"""Database passwords out of URLs, into HOME/secrets/pgpass: PostgreSQL's own password file, which libpq reads for every program.

The URL that is kept names the file (`?passfile=…`), so ledger, catalog, registry and the stock `butler` command open the database
without any environment. A URL without a password is left as it is: then Butler's own db-auth file (LSST_DB_AUTH), `~/.pgpass` or
PGPASSWORD serve, as they do everywhere else.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url

from deploy.keys import write_private

_DEFAULT_PORT = 5432


def password_file(home: Path) -> Path:
    """Where a home's database passwords are."""
    return home.absolute() / "secrets" / "pgpass"


def without_password(url: str, home: Path) -> str:
    """The URL to write down; its password, if it has one, goes into the home's file, in place of an older one."""
    parts = make_url(url)
    if parts.get_backend_name() != "postgresql" or not parts.password:
        return url
    path = password_file(home)
    where = [_escaped(str(one)) for one in (_host(parts), parts.port or _DEFAULT_PORT, parts.database, parts.username)]
    line = ":".join([*where, _escaped(str(parts.password))])
    known = path.read_text().splitlines() if path.exists() else []
    others = [one for one in known if not one.startswith(":".join(where) + ":")]
    write_private(path, "\n".join([*others, line]) + "\n")
    bare = parts._replace(password=None)  # URL.set takes None for "as it is"
    return bare.update_query_dict({"passfile": str(path)}).render_as_string(hide_password=False)


def _host(parts: URL) -> str:
    """As libpq matches it: the host, or the socket's folder."""
    found = parts.host or parts.query.get("host") or "localhost"
    return found if isinstance(found, str) else found[0]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")
