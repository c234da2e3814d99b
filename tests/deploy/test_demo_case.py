"""Which DAG runs a set of frames asks for."""

from deploy.demo.case import Case


def stages(case):
    return [(run.dag, dict(run.conf)) for run in case.runs()]


def test_first_night_makes_the_templates_of_those_that_follow():
    case = Case("cam", calibration_days=(20270101, 20270102), science_days=(20270101, 20270102, 20270103))
    runs = stages(case)
    assert ("template", {"instrument": "cam", "first_day": 20270101, "last_day": 20270101}) in runs
    assert [conf["day_obs"] for dag, conf in runs if dag == "nightly"] == [20270102, 20270103]
    assert [dag for dag, _ in runs][-1] == "release"


def test_a_single_night_is_its_own_template():
    runs = stages(Case("cam", calibration_days=(20270101,), science_days=(20270101,), variant="unregistered"))
    assert [conf["day_obs"] for dag, conf in runs if dag == "nightly"] == [20270101]
    assert all(conf["variant"] == "unregistered" for dag, conf in runs if dag in ("template", "nightly", "release"))


def test_calibrations_of_several_days_are_combined_over_their_span():
    runs = stages(Case("cam", calibration_days=(), science_days=(20270101,), calibration_span=(20270101, 20270104)))
    span = {"instrument": "cam", "first_day": 20270101, "last_day": 20270104}
    assert runs[0] == ("calibration_monthly", {**span, "sky": "none", "pixels": "none"})
