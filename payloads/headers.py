"""A raw frame's header (and file name) → what was observed, by the rules in the camera's description."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import astropy.units as u
from astropy.coordinates import Angle
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS

from backbone.errors import PermanentError
from payloads.camera import NO_FILTER, Camera, CameraError, HeaderRule
from payloads.formatters import wcs_of
from payloads.ids import exposure_id

OBSERVATION_TYPES = frozenset({"science", "bias", "dark", "flat", "ptc", "monoflat", "spots", "spectrum", "focus", "engineering"})
ON_SKY = frozenset({"science"})
UNFILTERED = frozenset({"bias", "dark", "monoflat", "spots"})  # no light, or light that no filter made
_LONGEST_S = 86_400.0
_SEQ_SLOT_S = 6.0  # 14,400 slots a day fit the 14 bits that ids give seq_num


class HeaderError(PermanentError):
    """A header that does not say what is needed; names the keyword, the value and what would be right."""


class OtherInstrument(HeaderError):
    """The file is another camera's."""


class UnknownFilter(HeaderError):
    """The header names a filter that the camera does not have."""


class UnknownDetector(HeaderError):
    """The header names a detector that the camera does not have."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One detector's part of one exposure. Times are TAI; angles in degrees, ICRS; None: not known."""

    instrument: str
    observation_type: str
    datetime_begin: Time
    datetime_end: Time
    exposure_time_s: float
    dark_time_s: float
    physical_filter: str
    band: str
    object: str
    day_obs: int
    seq_num: int
    detector: int
    ra_deg: float | None
    dec_deg: float | None
    rotation_deg: float | None
    airmass: float | None
    wcs: WCS | None

    @property
    def exposure(self) -> int:
        """Exposure id, and visit id where it is on the sky."""
        return exposure_id(self.day_obs, self.seq_num)

    @property
    def obs_id(self) -> str:
        """Name of the exposure: day and number, as people say it."""
        return f"{self.day_obs}_{self.seq_num:05d}"

    @property
    def on_sky(self) -> bool:
        """Does it become a visit?"""
        return self.observation_type in ON_SKY


def observe(header: Mapping[str, Any], filename: str, camera: Camera) -> Observation:
    """Read a header; `filename` is the file's name without folders. Raises HeaderError or one of its kinds."""
    _check_camera(header, camera)
    try:
        raw = _by_translator(header, filename, camera) if camera.headers.translator else _by_rules(header, filename, camera)
        return _assemble(raw, header, camera)
    except (ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, CameraError):
            raise HeaderError(str(error)) from error
        raise HeaderError(f"camera {camera.name}: {error}") from error


def _check_camera(header: Mapping[str, Any], camera: Camera) -> None:
    for keyword, pattern in camera.headers.must.items():
        value = header.get(keyword)
        if value is None:
            raise OtherInstrument(f"not a frame of {camera.name}: keyword {keyword} is missing (it should match {pattern!r})")
        if not re.search(pattern, str(value)):
            raise OtherInstrument(f"not a frame of {camera.name}: {keyword} is {value!r}, it should match {pattern!r}")


@dataclass
class _Raw:
    """Standard properties before they are checked against the camera."""

    observation_type: str | None
    begin: Time | None
    exposure_time_s: float | None
    dark_time_s: float | None
    physical_filter: str | None
    object: str | None
    seq_num: int | None
    day_obs: int | None
    detector: int | None
    ra_deg: float | None
    dec_deg: float | None
    rotation_deg: float | None
    airmass: float | None


def _value(rule: HeaderRule | None, what: str, header: Mapping[str, Any], filename: str) -> Any:
    """What the rule finds, translated; None where nothing is said."""
    if rule is None:
        return None
    value: Any = rule.constant
    if rule.keyword is not None:
        value = header.get(rule.keyword)
    elif rule.filename is not None:
        found = re.search(rule.filename, filename)
        if found is None:
            raise HeaderError(f"{what}: the file's name {filename!r} does not match {rule.filename!r}")
        value = found.group(1)
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        value = rule.default
    if rule.values and value is not None:
        known = {k.casefold(): v for k, v in rule.values.items()}
        value = known.get(str(value).casefold(), value)
    return value


def _need(rule: HeaderRule | None, what: str, header: Mapping[str, Any], filename: str) -> Any:
    value = _value(rule, what, header, filename)
    if value is None:
        source = f"keyword {rule.keyword} is missing or empty" if rule and rule.keyword else "the camera has no rule for it"
        raise HeaderError(f"{what}: {source}")
    return value


def _number(rule: HeaderRule | None, value: Any, unit: u.UnitBase) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if rule is None or rule.unit is None else float((number * u.Unit(rule.unit)).to_value(unit))


def _angle(rule: HeaderRule | None, value: Any, what: str) -> float | None:
    """Degrees, of a number or a sexagesimal text."""
    if value is None:
        return None
    unit = u.Unit((rule.unit if rule else None) or "deg")
    try:
        number: Any = float(value)
    except ValueError:
        number = value
    try:
        return float(Angle(number, unit=unit).to_value(u.deg))
    except (ValueError, u.UnitsError) as error:
        raise HeaderError(f"{what}: {value!r} is not an angle in {unit}") from error


def parse_time(rule: HeaderRule, header: Mapping[str, Any], value: Any) -> Time:
    """A header's time as TAI: ISO text with any stray blanks, date and time in two keywords, a strptime format, or MJD / JD."""
    if rule.unit in ("mjd", "jd"):
        time = Time(float(value), format=rule.unit, scale=rule.scale)
    else:
        text = str(value).strip()
        if rule.join is not None:
            clock = str(header.get(rule.join) or "").strip()
            if not clock:
                raise HeaderError(f"datetime_begin: keyword {rule.join} (time of day) is missing or empty")
            text = f"{text[:10]}T{clock}"
        if rule.format is not None:
            text = datetime.strptime(text, rule.format).isoformat()  # noqa: DTZ007 - the scale is the rule's
        text = re.sub(r"\s*[T ]\s*", "T", text.removesuffix("Z").strip())
        try:
            time = Time(text, scale=rule.scale)
        except ValueError as error:
            raise HeaderError(f"datetime_begin: {value!r} is not a time as {rule.format or 'ISO 8601'}") from error
    return (time + TimeDelta(rule.offset_h * 3600.0, format="sec")).tai


def _by_rules(header: Mapping[str, Any], filename: str, camera: Camera) -> _Raw:
    rules = camera.headers

    def get(name: str, convert: Callable[[Any], Any] = lambda v: v) -> Any:
        value = _value(getattr(rules, name), name, header, filename)
        return None if value is None else convert(value)

    begin = _need(rules.datetime_begin, "datetime_begin", header, filename)
    assert rules.datetime_begin is not None  # noqa: S101 - _need has seen to it
    return _Raw(
        observation_type=str(_need(rules.observation_type, "observation_type", header, filename)).lower(),
        begin=parse_time(rules.datetime_begin, header, begin),
        exposure_time_s=_number(rules.exposure_time, get("exposure_time"), u.s),
        dark_time_s=_number(rules.dark_time, get("dark_time"), u.s),
        physical_filter=get("physical_filter", str),
        object=get("object", str),
        seq_num=get("seq_num", lambda v: int(float(v))),
        day_obs=get("day_obs", lambda v: int(str(v).replace("-", "")[:8])),
        detector=get("detector", lambda v: _detector_number(v, camera)),
        ra_deg=_angle(rules.tracking_ra, get("tracking_ra"), "tracking_ra"),
        dec_deg=_angle(rules.tracking_dec, get("tracking_dec"), "tracking_dec"),
        rotation_deg=_angle(rules.rotation_deg, get("rotation_deg"), "rotation_deg"),
        airmass=get("airmass", float),
    )


def _detector_number(value: Any, camera: Camera) -> int:
    """A detector by id or, where the header gives that, by name."""
    for detector in camera.detectors:
        if str(value) == detector.name:
            return detector.id
    try:
        return int(float(value))
    except ValueError:
        raise UnknownDetector(
            f"camera {camera.name} has no detector {value!r}; it has {[d.name for d in camera.detectors]}"
        ) from None


def _by_translator(header: Mapping[str, Any], filename: str, camera: Camera) -> _Raw:
    """Through a class of astro-metadata-translator, by its name (`DecamTranslator`, …)."""
    import astro_metadata_translator as amt

    translator = getattr(amt, str(camera.headers.translator), None) or getattr(
        amt.translators, str(camera.headers.translator), None
    )
    if translator is None:
        raise HeaderError(f"camera {camera.name}: astro-metadata-translator has no class {camera.headers.translator}")
    try:
        info = amt.ObservationInfo(dict(header), translator_class=translator, filename=filename)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise HeaderError(f"camera {camera.name}: {camera.headers.translator} cannot read this header: {error}") from error
    radec = info.tracking_radec.icrs if info.tracking_radec is not None else None
    kind = {"object": "science", "zero": "bias"}.get(info.observation_type or "", info.observation_type)
    return _Raw(
        observation_type=kind,
        begin=info.datetime_begin.tai if info.datetime_begin is not None else None,
        exposure_time_s=info.exposure_time.to_value(u.s) if info.exposure_time is not None else None,
        dark_time_s=info.dark_time.to_value(u.s) if info.dark_time is not None else None,
        physical_filter=info.physical_filter,
        object=info.object,
        # Many cameras count on over the nights, which ids cannot hold: then the time of day numbers the frame.
        seq_num=info.observation_counter if 0 < (info.observation_counter or 0) < 1 << 14 else None,
        day_obs=info.observing_day,
        detector=info.detector_num,
        ra_deg=float(radec.ra.deg) if radec is not None else None,
        dec_deg=float(radec.dec.deg) if radec is not None else None,
        rotation_deg=float(info.boresight_rotation_angle.to_value(u.deg)) if info.boresight_rotation_angle is not None else None,
        airmass=float(info.boresight_airmass) if info.boresight_airmass is not None else None,
    )


def _assemble(raw: _Raw, header: Mapping[str, Any], camera: Camera) -> Observation:
    """Check against the camera and fill what follows from the rest."""
    kind = raw.observation_type
    if kind not in OBSERVATION_TYPES:
        raise HeaderError(
            f"observation_type: {kind!r} is none of {', '.join(sorted(OBSERVATION_TYPES))}; the camera's `values` must say"
        )
    if raw.begin is None:
        raise HeaderError("datetime_begin: the header has no time of observation")
    exposure_time = _duration("exposure_time", 0.0 if kind == "bias" and raw.exposure_time_s is None else raw.exposure_time_s)
    dark_time = exposure_time if raw.dark_time_s is None else _duration("dark_time", raw.dark_time_s)
    physical_filter, band = _filter(raw.physical_filter, kind, camera)
    day_obs, seq_num = _number_of(raw, kind, camera)
    wcs = wcs_of(header) if camera.wcs == "header" else None
    ra, dec = raw.ra_deg, raw.dec_deg
    if kind in ON_SKY and wcs is None and (ra is None or dec is None):
        raise HeaderError("tracking_ra, tracking_dec: neither a pointing nor a usable WCS: where on the sky is this frame?")
    if dec is not None and not -90 <= dec <= 90:
        raise HeaderError(f"tracking_dec: {dec} is no declination in degrees")
    if ra is not None and not -360 <= ra <= 360:
        raise HeaderError(f"tracking_ra: {ra} is no right ascension in degrees")
    if raw.rotation_deg is not None and not math.isfinite(raw.rotation_deg):
        raise HeaderError(f"rotation_deg: {raw.rotation_deg} is no angle")
    detector = camera.detectors[0].id if raw.detector is None and len(camera.detectors) == 1 else raw.detector
    if detector is None:
        raise UnknownDetector(f"camera {camera.name} has {len(camera.detectors)} detectors, and the header does not say which")
    if detector not in {d.id for d in camera.detectors}:
        raise UnknownDetector(f"camera {camera.name} has no detector {detector}; it has {sorted(d.id for d in camera.detectors)}")
    return Observation(
        instrument=camera.name,
        observation_type=kind,
        datetime_begin=raw.begin,
        datetime_end=raw.begin + TimeDelta(exposure_time, format="sec"),
        exposure_time_s=exposure_time,
        dark_time_s=dark_time,
        physical_filter=physical_filter,
        band=band,
        object=(raw.object or "unknown")[:64],
        day_obs=day_obs,
        seq_num=seq_num,
        detector=detector,
        ra_deg=None if ra is None else ra % 360.0,
        dec_deg=dec,
        rotation_deg=raw.rotation_deg,
        airmass=raw.airmass if raw.airmass is not None and math.isfinite(raw.airmass) else None,
        wcs=wcs,
    )


def _duration(what: str, seconds: float | None) -> float:
    """NaN, which compares with nothing, and what is longer than a day are no times of an exposure."""
    if seconds is None or not 0 <= seconds <= _LONGEST_S:
        raise HeaderError(f"{what}: {seconds} is no time in seconds")
    return seconds


def _filter(name: str | None, kind: str, camera: Camera) -> tuple[str, str]:
    """Physical filter and band; one that saw no light or a bare lamp needs none, and a camera with one filter need not say."""
    bands = {f.name: f.band for f in camera.filters}
    if name in bands:
        return str(name), bands[str(name)]
    if kind in UNFILTERED:
        return NO_FILTER, NO_FILTER
    if name is None and len(bands) == 1:
        return next(iter(bands.items()))
    raise UnknownFilter(f"camera {camera.name} has no filter {name!r}; it has {sorted(bands)}")


def _number_of(raw: _Raw, kind: str, camera: Camera) -> tuple[int, int]:
    """day_obs and seq_num: functions of this file alone, so that any subset ingested in any order gets the same ids."""
    assert raw.begin is not None  # noqa: S101 - checked by the caller
    local = raw.begin.utc + TimeDelta(camera.day_obs_offset_h * 3600.0, format="sec")
    day_obs = raw.day_obs if raw.day_obs is not None else int(local.strftime("%Y%m%d"))
    if raw.seq_num is not None:
        seq_num = raw.seq_num + camera.headers.seq_num_offset.get(kind, 0)
    else:
        seq_num = 1 + int((local.mjd % 1.0) * 86400.0 / _SEQ_SLOT_S)
    exposure_id(day_obs, seq_num)  # raises ValueError where they cannot be packed
    return day_obs, seq_num
