"""The header of a raw frame: what an honest camera would know, and no truth."""

from __future__ import annotations

from astropy.io import fits
from astropy.time import Time

from payloads.camera import Detector
from payloads.simulator.config import SurveyConfig
from payloads.simulator.dome import lamp
from payloads.simulator.exposures import Planned
from payloads.simulator.wcs import cards, detector_wcs

_TYPES = {"science": "OBJECT"} | {kind: kind.upper() for kind in ("bias", "dark", "flat", "ptc", "spots", "monoflat")}


def obs_id(survey: SurveyConfig, exposure: Planned) -> str:
    """Name of an exposure, unique for its camera."""
    return f"{survey.camera.name}_{exposure.day_obs}_{exposure.seq_num:05d}"


def raw_header(survey: SurveyConfig, exposure: Planned, detector: Detector) -> fits.Header:
    """Header of one detector's raw frame. The WCS is the commanded one, and counts pixels of the *trimmed* frame."""
    begin = Time(exposure.mjd_begin, format="mjd", scale="tai", precision=6)
    header = fits.Header()
    header["INSTRUME"] = (survey.camera.name, "camera")
    header["DETECTOR"] = (detector.id, "number of the detector")
    header["DETNAME"] = (detector.name, "name of the detector")
    header["OBSID"] = (obs_id(survey, exposure), "exposure")
    header["DAYOBS"] = (exposure.day_obs, "observing day, YYYYMMDD")
    header["SEQNUM"] = (exposure.seq_num, "number within the observing day")
    header["IMAGETYP"] = (_TYPES[exposure.kind], "OBJECT, BIAS, DARK or FLAT")
    header["TIMESYS"] = ("TAI", "time scale of DATE-OBS and MJD-OBS")
    header["DATE-OBS"] = (begin.isot, "shutter opens (TAI)")
    header["MJD-OBS"] = (exposure.mjd_begin, "[d] shutter opens (TAI)")
    header["EXPTIME"] = (0.0 if exposure.kind == "bias" else exposure.exposure_s, "[s]")
    header["DARKTIME"] = (0.0 if exposure.kind == "bias" else exposure.exposure_s, "[s]")
    header["FILTER"] = (exposure.filter or "none", "physical filter")
    if exposure.light is not None:
        asked = exposure.light / survey.calibrations.flat_electron
        header["MONITOR"] = (round(asked * lamp(survey, exposure)[1], 8), "dose of light, as the lamp's monitor has it")
    if exposure.wavelength_nm is not None:
        header["WAVELEN"] = (exposure.wavelength_nm, "[nm] of the light")
    header["PROGRAM"] = ("survey" if exposure.kind == "science" else "calibration", "why it was taken")
    header["OBJECT"] = (survey.fields[exposure.field].name if exposure.field is not None else _TYPES[exposure.kind], "target")
    if exposure.target is not None and exposure.airmass is not None:
        header["RA"] = (exposure.target.ra_deg, "[deg] commanded boresight, ICRS")
        header["DEC"] = (exposure.target.dec_deg, "[deg] commanded boresight, ICRS")
        header["ROTPA"] = (exposure.target.rotation_deg, "[deg] position angle of +y")
        header["AIRMASS"] = (round(exposure.airmass, 4), "at the start")
        header.extend(cards(detector_wcs(exposure.target, detector, survey.camera.pixel_scale_arcsec)))
        header["COMMENT"] = "The WCS is the commanded one; it counts pixels of the trimmed frame."
    return header


def raw_name(survey: SurveyConfig, exposure: Planned, detector: Detector) -> str:
    """Path of a raw frame below the survey's directory."""
    return f"raw/{exposure.day_obs}/{obs_id(survey, exposure)}_d{detector.id:03d}.fits"
