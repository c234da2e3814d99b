import socket

from deploy.ports import LOOPBACK, is_free, port


def test_port_is_remembered(tmp_path):
    assert port(tmp_path, "api") == port(tmp_path, "api")
    assert port(tmp_path, "api") != port(tmp_path, "pg")


def test_port_that_somebody_took_is_chosen_anew_unless_we_are_that_somebody(tmp_path):
    first = port(tmp_path, "api")
    with socket.socket() as taken:
        taken.bind((LOOPBACK, first))
        taken.listen()
        assert not is_free(first)
        assert port(tmp_path, "api", in_use_by_us=True) == first
        second = port(tmp_path, "api")
    assert second != first
    assert port(tmp_path, "api") == second
