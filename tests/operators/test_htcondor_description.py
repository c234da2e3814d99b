"""Submit descriptions: nothing in a job's data becomes a command, a macro or another argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.htcondor.description import CondorJob, JobDescriptionError, quoted
from operators.htcondor.key import TaskKey
from operators.htcondor.settings import PoolSettings, issuer
from operators.htcondor.states import JobState, JobView

TASK = TaskKey(instance="i", dag_id="d", run_id="r", task_id="t")
WORDS = st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8), max_size=5)


def commands(files="spool", pool=None, **more):
    job = CondorJob(executable="/bin/x", **more)
    settings = PoolSettings(collector="c", files=files, **(pool or {}))
    return job.commands(folder="/f", pool=settings, attributes=TASK.attributes())


def read(text):
    """HTCondor's own reading of its new syntax: macros first, then the double quotes, then blanks and single quotes."""
    assert (text[0], text[-1]) == ('"', '"')
    text = text.replace("$(DOLLAR)", "\0")
    assert "$" not in text
    text = text[1:-1].replace('""', '"').replace("\0", "$")
    words, word, inside, begun = [], "", False, False
    position = 0
    while position < len(text):
        c = text[position]
        if c == "'" and inside and text[position + 1 : position + 2] == "'":
            word, position = word + "'", position + 1
        elif c == "'":
            inside, begun = not inside, True
        elif c in " \t" and not inside:
            words, word, begun = words + ([word] if begun or word else []), "", False
        else:
            word, begun = word + c, True
        position += 1
    return words + ([word] if begun or word else [])


@given(WORDS)
def test_words_come_out_as_they_went_in(words):
    assert read(quoted(words)) == words


@pytest.mark.parametrize(
    "field", [{"executable": "a\nqueue 5"}, {"arguments": ["a\nlog = /etc/x"]}, {"environment": {"A": "b\nc"}}]
)
def test_line_break_is_refused(field):
    with pytest.raises(JobDescriptionError, match="line break"):
        CondorJob(**{"executable": "x", **field}).commands(
            folder="/f", pool=PoolSettings(collector="c"), attributes=TASK.attributes()
        )


@pytest.mark.parametrize(
    "name", ["Log", "output", "+AirflowJobKey", "My.airflowseen", "leave_in_queue", "My.LeaveJobInQueue", "queue"]
)
def test_what_the_operator_needs_cannot_be_overwritten(name):
    with pytest.raises(JobDescriptionError, match="operator's own"):
        commands(extra={name: "x"})


def test_more_commands_are_given_as_they_are():
    assert commands(extra={"requirements": "HasGPU", "+Project": '"p"'})["requirements"] == "HasGPU"


def test_machines_that_share_files_are_not_required_to_be_of_the_clients_domain():
    made = commands("shared", {"filesystem_domain": "site"})
    assert (made["should_transfer_files"], made["My.FileSystemDomain"]) == ("NO", '"site"')
    assert "transfer_input_files" not in made


def test_files_are_listed_and_names_that_lists_cannot_hold_are_refused():
    made = commands(input_files=["/a/b", "/c"], output_files=[])
    assert (made["transfer_input_files"], made["transfer_output_files"]) == ("/a/b, /c", '""')
    assert "transfer_output_files" not in commands()
    with pytest.raises(JobDescriptionError, match="rename"):
        commands(input_files=["a,b"])
    with pytest.raises(JobDescriptionError, match="rename"):
        commands("spool", input_files=["a b"])


def test_attributes_of_the_task_are_on_the_job():
    made = commands()
    assert made["My.AirflowJobKey"] == f'"{TASK.digest()}"'
    assert made["My.AirflowMapIndex"] == "-1"


def test_key_is_the_same_for_the_same_task_and_a_safe_name():
    same = TaskKey(instance="i", dag_id="d", run_id="r", task_id="t")
    assert same.digest() == TASK.digest()
    assert TaskKey(instance="i", dag_id="d", run_id="r/../..", task_id="t").digest().isalnum()


def test_undefined_attributes_of_a_classad_are_left_at_their_defaults():
    job = JobView.of({"ClusterId": 3, "ProcId": 1, "JobStatus": 1, "RemoteHost": None, "MemoryUsage": "expression"})
    assert (job.job_id, job.state, job.host, job.memory_mb, job.exit_code) == ("3.1", JobState.IDLE, "", 0.0, None)


@pytest.mark.parametrize("token", ["", "no token", "a.b.c", "a.!!!!.c", "a.bnVsbA.c"])
def test_what_is_no_token_has_no_issuer(token):
    assert issuer(token) == ""
