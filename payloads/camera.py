"""A camera as data: one YAML per camera under payloads/cameras, validated here and nowhere else.

Sections are written as FITS writes them, `[x1:x2,y1:y2]`, counted from 1 and inclusive, in the raw frame. The trimmed frame is
the mosaic of the amplifiers' `data` sections at their `place`s; its first pixel is (0, 0).
"""

from __future__ import annotations

import difflib
import re
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from backbone.errors import PermanentError

NO_FILTER = "none"
"""Of frames that see no light or a lamp alone, where the header names no filter the camera has."""
_SECTION = re.compile(r"^\[(\d+):(\d+),(\d+):(\d+)\]$")


class CameraError(PermanentError, ValueError):
    """A camera description that cannot be used; the message names file, key and what would be right."""


def parse_section(text: str) -> tuple[slice, slice]:
    """`[x1:x2,y1:y2]` (FITS, from 1, inclusive) as numpy slices (rows, columns)."""
    found = _SECTION.match(text.replace(" ", ""))
    if not found:
        raise ValueError(f"{text!r} is not a section like [1:100,1:200]")
    x1, x2, y1, y2 = map(int, found.groups())
    if not (1 <= x1 <= x2 and 1 <= y1 <= y2):
        raise ValueError(f"section {text!r} is empty or starts before 1")
    return slice(y1 - 1, y2), slice(x1 - 1, x2)


def _checked_section(text: str) -> str:
    parse_section(text)
    return text


Section = Annotated[str, AfterValidator(_checked_section)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Amplifier(_Strict):
    """One readout channel."""

    name: str
    data: Section = Field(description="light-sensitive pixels in the raw frame")
    overscan: Section | None = Field(None, description="pixels that saw no light; None: the camera has none")
    place: Section = Field(description="where `data` goes in the trimmed frame")
    gain: float = Field(gt=0, description="electron per ADU")
    read_noise: float = Field(gt=0, description="electron rms")
    saturation: float = Field(gt=0, description="ADU above the overscan level at which a pixel is not to be believed")
    linearity: tuple[tuple[float, float], ...] | None = Field(
        None, description="(ADU as read, above the overscan level; c): true = read * (1 + c), linear between; None: linear"
    )


class Detector(_Strict):
    """One sensor and where it sits."""

    id: int = Field(ge=0, le=255)
    name: str
    purpose: Literal["SCIENCE", "GUIDER", "WAVEFRONT"] = "SCIENCE"
    offset_arcsec: tuple[float, float] = Field((0.0, 0.0), description="of its centre from the boresight, along +x and +y")
    amplifiers: tuple[Amplifier, ...] = Field(min_length=1)
    crosstalk: tuple[tuple[float, ...], ...] | None = Field(
        None, description="[victim][source]: fraction of the source amplifier's signal seen in the victim; None: none known"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Detector:
        n = len(self.amplifiers)
        if self.crosstalk is not None and (len(self.crosstalk) != n or any(len(row) != n for row in self.crosstalk)):
            raise ValueError(f"crosstalk of detector {self.name} must be {n} x {n}, one row and column per amplifier")
        for amp in self.amplifiers:
            data, place = parse_section(amp.data), parse_section(amp.place)
            if [s.stop - s.start for s in data] != [s.stop - s.start for s in place]:
                raise ValueError(f"amplifier {amp.name}: data {amp.data} and place {amp.place} differ in size")
        return self

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the trimmed frame."""
        places = [parse_section(amp.place) for amp in self.amplifiers]
        return max(rows.stop for rows, _ in places), max(columns.stop for _, columns in places)


class Filter(_Strict):
    """A physical filter and the band it belongs to."""

    name: str
    band: str
    transmission: tuple[tuple[float, float], ...] | None = Field(
        None, description="(nm, fraction) in ascending order, linear between, 0 outside; None: not known"
    )


class Dispersion(_Strict):
    """How a grating spreads a star's light along the trimmed frame's x, for a star that stands where it should."""

    first_nm: float = Field(description="wavelength of the first column")
    nm_per_px: float = Field(gt=0)
    nm_per_px2: float = Field(0.0, description="of its square")

    def nm(self, x: Any) -> Any:
        """Wavelength at columns."""
        return self.first_nm + self.nm_per_px * x + self.nm_per_px2 * x * x


class HeaderRule(_Strict):
    """How one standard observation property is read from a header.

    Exactly one of `keyword`, `constant` and `filename` (a regular expression with one group, searched in the file's name) gives
    the value; `values` then translates it, `default` stands in where the keyword is absent.
    """

    keyword: str | None = None
    constant: str | int | float | None = None
    filename: str | None = None
    values: dict[str, str] = Field(default_factory=dict, description="value in the header → standard value; case-insensitive")
    unit: str | None = Field(None, description="of the number, or 'hourangle' / 'deg' for sexagesimal angles")
    format: str | None = Field(None, description="for times: strptime format, if not ISO")
    scale: Literal["utc", "tai"] = "utc"
    join: str | None = Field(None, description="for times: keyword of the time of day where `keyword` holds the date alone")
    offset_h: float = Field(
        0.0, description="for times: hours to add to what the header says, where its clock is known to be off"
    )
    default: str | int | float | None = None

    @model_validator(mode="after")
    def _one_source(self) -> HeaderRule:
        given = [name for name in ("keyword", "constant", "filename") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of keyword, constant, filename (given: {', '.join(given) or 'none'})")
        return self


class Headers(_Strict):
    """Header → standard properties (the names of astro-metadata-translator's ObservationInfo)."""

    translator: str | None = Field(None, description="class of astro-metadata-translator to use instead of the rules")
    observation_type: HeaderRule | None = Field(None, description="science, bias, dark, flat")
    datetime_begin: HeaderRule | None = None
    exposure_time: HeaderRule | None = Field(None, description="s")
    dark_time: HeaderRule | None = Field(None, description="s; default: exposure_time")
    physical_filter: HeaderRule | None = None
    object: HeaderRule | None = None
    seq_num: HeaderRule | None = Field(
        None, description="number within the observing day; None: which 6 s of the day it began in, so frames must be 6 s apart"
    )
    seq_num_offset: dict[str, int] = Field(
        default_factory=dict, description="observation type → added to seq_num, where each type counts from one"
    )
    day_obs: HeaderRule | None = Field(None, description="YYYYMMDD; None: from datetime_begin and day_obs_offset_h")
    detector: HeaderRule | None = Field(None, description="detector id; None: the camera's only one")
    tracking_ra: HeaderRule | None = None
    tracking_dec: HeaderRule | None = None
    rotation_deg: HeaderRule | None = Field(None, description="position angle of +y, east of north")
    airmass: HeaderRule | None = None
    must: dict[str, str] = Field(default_factory=dict, description="keyword → regular expression: is this file this camera's?")


class Observatory(_Strict):
    """Where on Earth a telescope stands, geodetic (WGS 84)."""

    longitude_deg: float = Field(ge=-180, le=360, description="east")
    latitude_deg: float = Field(ge=-90, le=90)
    height_m: float = Field(ge=-500, le=9000, description="above the ellipsoid; above sea level will do")


class Camera(_Strict):
    """Everything Pachón knows of a camera."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    description: str = ""
    pixel_scale_arcsec: float = Field(gt=0)
    mirrored: bool = Field(False, description="False: east is at -x when north is at +y, as seen on the sky")
    detectors: tuple[Detector, ...] = Field(min_length=1)
    filters: tuple[Filter, ...] = Field(min_length=1)
    headers: Headers
    dispersion: Dispersion | None = Field(None, description="of a spectrograph; None: it takes images")
    wcs: Literal["header", "nominal"] = Field("header", description="whether the header's WCS may be used at all")
    day_obs_offset_h: float = Field(-12.0, description="hours added to UTC to get the clock whose date is the observing day")
    pointing_error_arcsec: float = Field(0.0, ge=0, description="regions from the nominal pointing are grown by this")
    nominal_zeropoint_mag: float = Field(25.0, description="AB mag of 1 electron/s, where no reference catalogue says better")
    full_well_electron: float | None = None
    observatory: Observatory | None = Field(None, description="None: not known, and bodies of the Solar System are not predicted")

    @model_validator(mode="after")
    def _unique(self) -> Camera:
        for what, keys in (("detector id", [d.id for d in self.detectors]), ("filter", [f.name for f in self.filters])):
            if len(set(keys)) != len(keys):
                raise ValueError(f"camera {self.name}: {what} given twice")
        return self

    def detector(self, number: int) -> Detector:
        """The detector with that id."""
        for d in self.detectors:
            if d.id == number:
                return d
        raise CameraError(f"camera {self.name} has no detector {number}; it has {sorted(d.id for d in self.detectors)}")

    def band(self, physical_filter: str) -> str:
        """The band of a physical filter."""
        for f in self.filters:
            if f.name == physical_filter:
                return f.band
        raise CameraError(f"camera {self.name} has no filter {physical_filter!r}; it has {[f.name for f in self.filters]}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the repository's `camera` dataset and for YAML."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_dict(cls, content: Any, source: str = "camera") -> Camera:
        """Validate plain data; errors name `source`, the key and, for an unknown key, the nearest known one."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise CameraError("\n".join(_explain(source, e) for e in error.errors())) from error

    @classmethod
    def load(cls, name_or_path: str | Path) -> Camera:
        """A camera by name (a YAML of payloads/cameras) or by the path of a YAML of one's own."""
        path = Path(name_or_path)
        if path.suffix in (".yaml", ".yml"):
            if not path.exists():
                raise CameraError(f"{path}: no such camera description")
            return cls.from_dict(read_yaml(path, CameraError), str(path))
        known = {p.name.removesuffix(".yaml"): p for p in resources.files("payloads").joinpath("cameras").iterdir()}
        if str(name_or_path) not in known:
            near = difflib.get_close_matches(str(name_or_path), known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise CameraError(
                f"no camera {str(name_or_path)!r}: {hint}known are {', '.join(sorted(known))}; or give the path of a YAML"
            )
        return cls.from_dict(yaml.safe_load(known[str(name_or_path)].read_text()), f"{name_or_path}.yaml")


def read_yaml(path: Path, error: type[PermanentError]) -> Any:
    """What a file of YAML says; `error` where it is none."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as caught:
        raise error(f"{path}: not readable as YAML: {caught}") from caught


def _explain(source: str, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "top level"
    if error["type"] == "extra_forbidden":
        model: Any = Camera
        for part in error["loc"][:-1]:
            if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
                model = _model_of(model.model_fields[part].annotation)
        near = difflib.get_close_matches(str(error["loc"][-1]), list(getattr(model, "model_fields", {})), 1)
        return f"{source}: unknown key {where}" + (f"; did you mean {near[0]}?" if near else "")
    return f"{source}: {where}: {error['msg']}"


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_of(inner)) is not None:
            return found
    return None
