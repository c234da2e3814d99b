"""What a survey may say of itself: frozen models with defaults that work; unknown keys are errors."""

from __future__ import annotations

import difflib
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backbone.errors import PermanentError
from payloads.camera import Observatory, read_yaml


class SurveyConfigError(PermanentError, ValueError):
    """A survey description that cannot be used; the message names source, key and what would be right."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraConfig(_Strict):
    """The camera: a grid of equal detectors, each read by two rows of amplifiers."""

    name: str = Field("SimCam", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    detectors: tuple[int, int] = Field((1, 2), description="rows and columns of the grid")
    size: tuple[int, int] = Field((512, 512), description="ny, nx of a trimmed detector, px")
    gap_arcsec: float = Field(10.0, ge=0, description="between detectors")
    amplifiers: int = Field(4, ge=1, le=64, description="per detector; one, or an even number in two rows")
    overscan_px: int = Field(32, ge=4, description="columns read after each amplifier's data")
    pixel_scale_arcsec: float = Field(0.3, gt=0)
    gain: float = Field(1.7, gt=0, description="electron per ADU, mean over amplifiers")
    gain_spread: float = Field(0.05, ge=0, lt=0.3, description="rms between amplifiers, fraction")
    read_noise_electron: float = Field(6.0, gt=0)
    read_noise_spread: float = Field(0.05, ge=0, lt=0.3, description="rms between amplifiers, fraction")
    full_well_adu: float = Field(50_000.0, gt=0, le=64_000, description="above bias, where a pixel fills; ADC ends at 65,535")
    bleed: bool = Field(True, description="whether what a full pixel cannot hold runs along its column")
    bias_adu: float = Field(1000.0, gt=0, description="mean level")
    bias_structure_adu: float = Field(2.0, ge=0, description="rms of the fixed column pattern")
    bias_drift_adu: float = Field(3.0, ge=0, description="rms of an amplifier's level from frame to frame")
    dark_electron_s: float = Field(0.05, ge=0, description="mean dark current")
    hot_pixel_fraction: float = Field(5e-4, ge=0, lt=0.1)
    bad_pixel_fraction: float = Field(5e-4, ge=0, lt=0.1, description="dead pixels; bad columns come on top")
    bad_columns: int = Field(1, ge=0, description="dead part-columns per detector")
    crosstalk: float = Field(3e-4, ge=0, lt=0.1, description="size of the coefficients between neighbouring amplifiers")
    prnu: float = Field(0.005, ge=0, lt=0.1, description="rms of the pixels' response, fraction")
    vignetting: float = Field(0.08, ge=0, lt=0.9, description="loss of light at the corner of the focal plane, fraction")
    nonlinearity: float = Field(
        0.0,
        ge=0,
        lt=0.2,
        description="part of the signal that an amplifier does not show at full well; between amplifiers a third",
    )
    mono_fringe: float = Field(0.0, ge=0, lt=0.3, description="amplitude of fringes in monochromatic flats of 950 nm and redder")
    described: Literal["truly", "nominally"] = Field(
        "truly", description="what camera.yaml says; nominally: mean gain and read noise, no crosstalk, no non-linearity"
    )
    compression: Literal["none", "rice"] = "none"

    @model_validator(mode="after")
    def _divisible(self) -> CameraConfig:
        rows, columns = self.amplifier_grid
        if rows * columns != self.amplifiers or self.size[0] % rows or self.size[1] % columns:
            raise ValueError(
                f"{self.amplifiers} amplifiers do not tile {self.size[0]} x {self.size[1]} px in {rows} row(s): "
                "choose a size that divides"
            )
        if self.detectors[0] * self.detectors[1] > 256:
            raise ValueError("a camera has at most 256 detectors")
        return self

    @property
    def amplifier_grid(self) -> tuple[int, int]:
        """Rows and columns of amplifiers on a detector."""
        return (1, 1) if self.amplifiers == 1 else (2, self.amplifiers // 2)


class FilterConfig(_Strict):
    """A filter as seen through the whole telescope."""

    band: str
    zeropoint_mag: float = Field(gt=15, lt=35, description="AB mag of 1 electron/s above the atmosphere's usual loss")
    sky_mag_arcsec2: float = Field(gt=10, lt=30)
    extinction_mag: float = Field(0.1, ge=0, description="per airmass beyond the first")
    fringe: float = Field(0.0, ge=0, lt=0.5, description="amplitude of fringes in the sky (not in flats), fraction of it")
    colour: float = Field(0.0, description="multiple of a source's g-r that adds to its r magnitude")
    passes_nm: tuple[float, float] | None = Field(
        None, description="where it passes light, all of it, edges 5 nm wide; None: untold"
    )


_FILTERS = {
    "g": FilterConfig(band="g", zeropoint_mag=27.1, sky_mag_arcsec2=22.2, extinction_mag=0.18, colour=1.0),
    "r": FilterConfig(band="r", zeropoint_mag=27.0, sky_mag_arcsec2=21.2, extinction_mag=0.10, colour=0.0),
    "i": FilterConfig(band="i", zeropoint_mag=26.7, sky_mag_arcsec2=20.5, extinction_mag=0.07, colour=-0.4),
}


class ObservatoryConfig(Observatory):
    """Where on Earth; by default on Cerro Pachón."""

    longitude_deg: float = Field(-70.7367, ge=-180, le=360, description="east")
    latitude_deg: float = Field(-30.2406, ge=-90, le=90)
    height_m: float = Field(2715.0, ge=-500, le=9000)


class NightsConfig(_Strict):
    """Observing days, one after another."""

    start: date = Field(date(2021, 10, 5), description="evening of the first night")
    count: int = Field(2, ge=1, le=4000)
    templates: int = Field(1, ge=0, description="first nights on which no transient is up yet")
    every_days: int = Field(1, ge=1, description="from one night to the next")


class FieldConfig(_Strict):
    """A pointing that is visited again and again."""

    name: str = "opposition"
    ra_deg: float = Field(13.0, ge=0, lt=360)
    dec_deg: float = Field(3.0, ge=-90, le=90)
    visits: dict[str, int] = Field({"r": 4}, description="filter → visits per night")
    template_visits: dict[str, int] | None = Field(None, description="filter → visits on template nights; None: as other nights")
    dither_arcsec: float = Field(8.0, ge=0, description="radius within which a visit is deliberately moved")
    cadence_s: float = Field(600.0, gt=0, description="from the start of one visit to the next")


class SeeingConfig(_Strict):
    """The point spread function."""

    median_px: float = Field(3.4, gt=1.5, description="FWHM")
    scatter_fraction: float = Field(0.2, ge=0, lt=1, description="rms of ln(FWHM) from exposure to exposure")
    moffat_beta: float = Field(3.5, gt=1.5)
    field_variation: float = Field(0.06, ge=0, lt=0.5, description="of the size, centre to corner of the focal plane")
    field_ellipticity: float = Field(0.05, ge=0, lt=0.4, description="at the corner of the focal plane")
    wind_ellipticity: float = Field(0.02, ge=0, lt=0.4, description="rms of an exposure's common ellipticity")


class PointingConfig(_Strict):
    """How far the header's WCS is from the truth."""

    error_arcsec: float = Field(4.0, ge=0, description="rms per axis")
    rotation_deg: float = Field(0.03, ge=0, description="rms")
    scale_fraction: float = Field(2e-4, ge=0, description="rms")


class StarsConfig(_Strict):
    """Point sources that do not move."""

    per_detector: float = Field(260.0, ge=0, description="mean number within the magnitudes")
    bright_mag: float = Field(15.0, description="in r")
    faint_mag: float = Field(23.5, description="in r")
    slope: float = Field(0.22, description="of log10(number) per magnitude")
    variable_fraction: float = Field(0.03, ge=0, le=1)
    amplitude_mag: tuple[float, float] = Field((0.1, 0.8), description="half of peak to peak")
    period_d: tuple[float, float] = (0.1, 30.0)


class GalaxiesConfig(_Strict):
    """Exponential discs and de Vaucouleurs spheroids."""

    per_detector: float = Field(80.0, ge=0)
    bright_mag: float = 17.5
    faint_mag: float = 23.5
    slope: float = 0.35
    spheroid_fraction: float = Field(0.3, ge=0, le=1)
    half_light_arcsec_at_20: float = Field(1.2, gt=0, description="median half-light radius at r = 20")


class TransientsConfig(_Strict):
    """New sources."""

    per_field: int = Field(24, ge=0)
    host_fraction: float = Field(0.5, ge=0, le=1)
    snr: tuple[float, float] = Field(
        (5.0, 100.0), description="range of SNR at peak in a median exposure, uniform in the logarithm"
    )
    rise_d: tuple[float, float] = Field((1.0, 8.0), description="range")
    decline_d: tuple[float, float] = Field((5.0, 25.0), description="e-folding, range")


class AsteroidsConfig(_Strict):
    """Minor planets on two-body orbits around the Sun."""

    per_field_night: int = Field(4, ge=0, description="put into each field at the middle of each night")
    mag: tuple[float, float] = Field((19.5, 22.5), description="range in r")
    semi_major_axis_au: tuple[float, float] = (2.1, 3.3)
    max_eccentricity: float = Field(0.25, ge=0, lt=0.8)


class CalibrationConfig(_Strict):
    """Frames taken each afternoon."""

    bias: int = Field(10, ge=0)
    dark: int = Field(8, ge=0)
    dark_s: float = Field(60.0, gt=0)
    flat: int = Field(8, ge=0, description="per filter in use")
    flat_s: float = Field(5.0, gt=0)
    flat_electron: float = Field(25_000.0, gt=0)
    dome_gradient: float = Field(
        0.0, ge=0, lt=0.5, description="light of the dome's screen that the sky has not, centre to corner"
    )
    monitor_error: float = Field(2e-4, ge=0, description="rms of what the lamp's monitor says (ptc, monoflat), fraction")
    ptc: int = Field(0, ge=0, description="pairs of flats of equal dose for photon transfer, in the first filter in use")
    ptc_range: tuple[float, float] = Field((0.01, 0.95), description="of their levels, fraction of full well")
    spots: int = Field(0, ge=0, description="frames with bright spots on each amplifier, at no place that another lights")
    mono: int = Field(0, ge=0, description="flats without filter at each wavelength")
    mono_nm: tuple[float, float, float] = Field((400.0, 1000.0, 1.0), description="first, last, step")
    mono_electron: float = Field(60_000.0, gt=0, description="at every wavelength: the lamp shines the longer")


class ReferenceConfig(_Strict):
    """The reference catalogue."""

    faint_mag: float = Field(21.5, description="in r")
    position_error_mas: float = Field(15.0, ge=0, description="rms per axis")
    mag_error: float = Field(0.01, ge=0)


class SurveyConfig(_Strict):
    """A survey to simulate."""

    seed: int = Field(1, ge=0)
    camera: CameraConfig = CameraConfig()
    observatory: ObservatoryConfig = ObservatoryConfig()
    nights: NightsConfig = NightsConfig()
    filters: dict[str, FilterConfig] = Field(
        default_factory=lambda: dict(_FILTERS), description="physical filter → its properties"
    )
    fields: tuple[FieldConfig, ...] = Field((FieldConfig(),), min_length=1)
    exposure_s: float = Field(30.0, gt=0)
    seeing: SeeingConfig = SeeingConfig()
    pointing: PointingConfig = PointingConfig()
    clouds_mag: float = Field(0.05, ge=0, description="mean of the extinction by thin clouds (exponential)")
    sky_scatter_mag: float = Field(0.1, ge=0, description="rms of the sky's brightness from exposure to exposure")
    cosmic_rays_per_s_megapixel: float = Field(0.3, ge=0)
    stars: StarsConfig = StarsConfig()
    galaxies: GalaxiesConfig = GalaxiesConfig()
    transients: TransientsConfig = TransientsConfig()
    asteroids: AsteroidsConfig = AsteroidsConfig()
    calibrations: CalibrationConfig = CalibrationConfig()
    reference: ReferenceConfig = ReferenceConfig()

    @model_validator(mode="after")
    def _known_filters(self) -> SurveyConfig:
        for field in self.fields:
            for name in (*field.visits, *(field.template_visits or {})):
                if name not in self.filters:
                    raise ValueError(f"field {field.name} asks for filter {name!r}; the survey has {sorted(self.filters)}")
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError("two fields have the same name")
        return self

    @classmethod
    def from_dict(cls, content: Any, source: str = "survey") -> SurveyConfig:
        """Validate plain data; errors name `source`, the key and, for an unknown key, the nearest known one."""
        try:
            return cls.model_validate({} if content is None else content)
        except ValidationError as error:
            raise SurveyConfigError("\n".join(_explain(source, e) for e in error.errors())) from error

    @classmethod
    def load(cls, name_or_path: str | Path) -> SurveyConfig:
        """A survey from the path of a YAML, or one of the presets by name."""
        path = Path(name_or_path)
        presets = {p.stem: p for p in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}
        if path.suffix not in (".yaml", ".yml"):
            if str(name_or_path) not in presets:
                raise SurveyConfigError(
                    f"no preset {str(name_or_path)!r}: known are {', '.join(presets)}; or give the path of a YAML"
                )
            path = presets[str(name_or_path)]
        if not path.exists():
            raise SurveyConfigError(f"{path}: no such survey description; presets are {', '.join(presets)}")
        return cls.from_dict(read_yaml(path, SurveyConfigError), str(path))


def _explain(source: str, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{source}: {where + ': ' if where else ''}{error['msg']}"
    model: Any = SurveyConfig
    for part in error["loc"][:-1]:
        if isinstance(part, str) and part in getattr(model, "model_fields", {}):
            model = _model_of(model.model_fields[part].annotation)
    known = list(getattr(model, "model_fields", {}))
    near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{source}: unknown key {where}; {hint}"


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in getattr(annotation, "__args__", ()) if (found := _model_of(inner)) is not None), None)
