import base64
import threading

import pytest

from deploy.keys import SecretExposed, secret


def test_secret_is_made_once_and_read_by_its_owner_alone(tmp_path):
    assert secret(tmp_path, "jwt") == secret(tmp_path, "jwt") != secret(tmp_path, "api")
    assert (tmp_path / "secrets" / "jwt").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_fernet_key_is_of_the_form_that_fernet_takes(tmp_path):
    assert len(base64.urlsafe_b64decode(secret(tmp_path, "fernet", fernet=True))) == 32


def test_first_askers_at_the_same_time_agree(tmp_path):
    found = []
    askers = [threading.Thread(target=lambda: found.append(secret(tmp_path, "jwt"))) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [p.name for p in (tmp_path / "secrets").iterdir()] == ["jwt"]


def test_exposed_secret_is_refused(tmp_path):
    secret(tmp_path, "jwt")
    (tmp_path / "secrets" / "jwt").chmod(0o644)
    with pytest.raises(SecretExposed, match="chmod 600"):
        secret(tmp_path, "jwt")
