from types import SimpleNamespace

from operators.text import versions_text


def row(label, software, *, config="c" * 64, generation=1, **more):
    common = {"step": "coadd", "label": label, "generation": generation, "quanta": 5, "bound": None, "differs": {}}
    return {**common, "software": software, "config": config, **more}


def told(versions, hotfixes=()):
    return "\n".join(versions_text(SimpleNamespace(accounting={"versions": versions, "hotfixes": list(hotfixes)})))


def test_who_approves_sees_which_versions_are_mixed_and_who_bound_them_and_why():
    old, new = row("warp", "a" * 64), row("warp", "b" * 64, generation=2, bound="w_2", differs={"numpy": "2.1"})
    fix = {"id": 1, "actor": "anna", "why": "wrong flats", "effect": {"quanta": 5}}
    text = told([old, new, row("assemble", "a" * 64)], [fix])
    assert "VERSIONS ARE MIXED in coadd/warp" in text
    assert "assemble" not in text
    assert "generation 2: 5 quanta, software w_2 bbbbbbbbbbbb" in text
    assert "numpy 2.1" in text
    assert "hot fix 1 by anna: wrong flats (5 quanta)" in text


def test_one_version_for_each_task_is_said_in_a_line():
    assert told([row("warp", "a" * 64), row("assemble", "a" * 64)]) == "versions: one for each task (software aaaaaaaaaaaa)"
    assert told([]) == ""
