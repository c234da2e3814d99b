"""The books of certifications: what is signed is what was looked at, whoever writes at the same moment."""

import threading

import pytest
import sqlalchemy as sa

from backbone.qc import tables as t
from backbone.qc.certifications import Certification, CertificationError, Certifications, CertificationState, Product, digest_of
from backbone.qc.tables import QualityTables

BEGIN = "2026-01-01T00:00:00"


def product(number):
    return Product(dataset=str(number), dataset_type="flat", data_id={"detector": number}, run="c/flat/1", checksum="0" * 64)


def certification(*products):
    return Certification(
        collection="cam/calib/c/verify", chain="cam/calib", campaign="c", begin=BEGIN, digest=digest_of(products, BEGIN)
    )


def waits_for_a_lock(tables):
    with tables.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while not connection.execute(sa.text(query)).scalar_one():
            pass


def test_what_is_signed_is_what_was_looked_at_though_a_product_comes_at_that_moment(fresh_database):
    tables = QualityTables.open(fresh_database)
    books, one, both = Certifications(tables), (product(1),), (product(1), product(2))
    looked_at = books.write(certification(*one), one).digest
    answers = []

    def sign():
        try:
            answers.append(books.approve("cam/calib/c/verify", actor="ana", digest=looked_at))
        except CertificationError as error:
            answers.append(str(error))

    with tables.begin() as connection:  # a hot fix, in the middle of `write`
        connection.execute(t.certification.update().values(digest=certification(*both).digest))
        thread = threading.Thread(target=sign)
        thread.start()
        waits_for_a_lock(tables)
    thread.join()
    assert "look at it again" in str(answers[0])
    assert books.find("cam/calib/c/verify").state is CertificationState.CERTIFIED
    tables.close()


def test_a_product_that_is_added_wants_another_signature(tmp_path):
    tables = QualityTables.open(f"sqlite:///{tmp_path}/qc.sqlite3")
    books, one, both = Certifications(tables), (product(1),), (product(1), product(2))
    books.write(certification(*one), one)
    signed = books.approve("cam/calib/c/verify", actor="ana")
    assert (signed.state, signed.approved_by) == (CertificationState.APPROVED, "ana")
    assert books.write(certification(*one), one).state is CertificationState.APPROVED, "the same again changes nothing"
    assert books.write(certification(*both), both).state is CertificationState.CERTIFIED
    with pytest.raises(CertificationError, match="look at it again"):
        books.approve("cam/calib/c/verify", actor="ana", digest=signed.digest)
    tables.close()
