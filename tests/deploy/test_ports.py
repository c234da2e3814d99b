import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

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


def test_processes_that_ask_at_once_lose_nothing_of_one_another(tmp_path):
    """Each for names of its own and for one of all."""
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as processes:
        asked = [processes.submit(_ask, tmp_path, number) for number in range(8)]
        found = [one.result() for one in asked]
    assert len({shared for _, shared in found}) == 1
    own = {name: number for names, _ in found for name, number in names.items()}
    assert {name: port(tmp_path, name, in_use_by_us=True) for name in own} == own
    assert len(set(own.values())) == len(own) == 8 * 20


def _ask(home, number):
    return {f"{number}-{n}": port(home, f"{number}-{n}", in_use_by_us=True) for n in range(20)}, port(
        home, "shared", in_use_by_us=True
    )
