"""What a product's header says of where it came from."""

from __future__ import annotations

from datetime import UTC, datetime

import astropy.units as u
from astropy.io import fits
from astropy.time import Time

from payloads.camera import Camera
from payloads.formatters import ccd_to_hdus
from payloads.image import MaskedImage
from payloads.provenance import Provenance, configuration_of, flattened
from payloads.tasks.products import sign

DAY = Time("2026-03-02T20:00:00", scale="tai")


def provenance(camera: Camera) -> Provenance:
    return Provenance(
        product="dark",
        instrument=camera.name,
        detector=1,
        physical_filter=None,
        inputs=[2026030200001, 2026030200003],
        rejected={"2026030200002": "level 50 is +40 from the median of all"},
        spans=[(DAY, DAY + 0.01 * u.day), (DAY + 0.02 * u.day, DAY + 0.03 * u.day)],
        calibrations=[("bias", "0190-id", "cal/bias/0")],
        parameters=flattened("combineDark", {"clip": 4.0, "connections": {"raws": "raw"}, "rules": {"sigma": 6}}),
        configuration=configuration_of(camera),
        made=datetime(2026, 3, 3, 1, 2, 3, tzinfo=UTC),
    )


def test_header_names_inputs_dates_parameters_calibrations_software_and_configuration(camera: Camera) -> None:
    cards = provenance(camera).cards()
    assert (cards["PRODUCT"], cards["INSTRUME"], cards["DETECTOR"], cards["FILTER"]) == ("dark", "Testcam", 1, "none")
    assert (cards["NINPUT"], cards["INP00001"], cards["INP00002"]) == (2, 2026030200001, 2026030200003)
    assert cards["REJ00001"] == "2026030200002: level 50 is +40 from the median of all"
    assert cards["DATE"] == "2026-03-03T01:02:03"
    assert cards["DATE-BEG"].startswith("2026-03-02T20:00:00")
    assert cards["MJD-END"] == (DAY + 0.03 * u.day).mjd
    assert cards["CAL001"] == "bias 0190-id cal/bias/0"
    assert [cards[f"PAR{k:03d}"] for k in (1, 2)] == ["combineDark.clip=4.0", "combineDark.rules.sigma=6"]
    assert cards["NPAR"] == 2
    assert any(str(cards[f"SW{k:03d}"]).startswith("numpy==") for k in range(1, cards["NSW"] + 1))


def test_every_card_is_a_fits_card_and_comes_back(camera: Camera) -> None:
    image = MaskedImage([[0.0]], unit="adu")
    sign(image, provenance(camera))
    header = ccd_to_hdus(image)[0].header
    assert isinstance(header, fits.Header)
    assert {key: header[key] for key in provenance(camera).cards()} == provenance(camera).cards()


def test_tables_are_signed_too(camera: Camera) -> None:
    content = {"amplifiers": ["A"]}
    sign(content, provenance(camera))
    assert content["provenance"]["CAL001"] == "bias 0190-id cal/bias/0"


def test_another_description_of_the_camera_is_another_configuration(camera: Camera) -> None:
    other = camera.model_copy(update={"pixel_scale_arcsec": 1.1})
    assert configuration_of(camera) == configuration_of(camera.model_copy())
    assert configuration_of(other) != configuration_of(camera)
