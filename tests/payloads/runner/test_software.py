from __future__ import annotations

import platform
import sys

from payloads.runner.__main__ import other_interpreter
from payloads.runner.software import versions


def test_versions_are_those_that_the_packages_themselves_give():
    from importlib.metadata import version

    found = versions()
    assert found["python"] == platform.python_version()
    for name in ("numpy", "pydantic", "lsst-daf-butler", "pachon"):
        assert found[name] == version(name)


def test_of_a_package_found_twice_the_first_on_the_path_counts(tmp_path):
    for folder, number in (("a", "2.0"), ("b", "1.0")):
        (tmp_path / folder / f"Some_Thing-{number}.dist-info").mkdir(parents=True)
    found = versions([str(tmp_path / "absent"), str(tmp_path / "a"), str(tmp_path / "b")])
    assert found == {"python": platform.python_version(), "some-thing": "2.0"}


def test_a_job_bound_to_other_software_goes_on_in_its_interpreter():
    for wanted, expected in ((None, None), (sys.executable, None), ("/opt/w_2/bin/python", "/opt/w_2/bin/python")):
        assert other_interpreter({"interpreter": wanted}) == expected
