"""`pachon simulate`: a survey from a YAML, or from a preset by name."""

from __future__ import annotations

from pathlib import Path

import click

from payloads.simulator.config import SurveyConfig, SurveyConfigError


@click.command()
@click.argument("survey")
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the one that SURVEY gives.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, show_default="one per core", help="Processes to use.")
@click.option("--quiet", is_flag=True, help="No progress.")
def simulate(survey: str, out_dir: Path, seed: int | None, jobs: int, quiet: bool) -> None:
    """Simulate SURVEY (a YAML file, or a preset: demo, tiny, truth) into OUT_DIR: raw frames, camera, catalogues, truth."""
    try:
        config = SurveyConfig.load(survey)
        if seed is not None:
            config = config.model_copy(update={"seed": seed})
        from payloads.simulator.survey import simulate_survey  # slow to import: only when there is a survey to make

        def show(done: int, total: int) -> None:
            click.echo(f"\r{done} of {total} frames", nl=False, err=True)

        made = simulate_survey(config, out_dir, progress=None if quiet else show, jobs=jobs)
    except SurveyConfigError as error:
        raise click.ClickException(str(error)) from error
    if not quiet:
        click.echo("", err=True)
    click.echo(
        f"{made.frames} frames of {made.camera.name} (seed {config.seed}) in {made.seconds:.1f} s, "
        f"{made.seconds_per_frame:.2f} s a frame and process: {made.out}"
    )


@click.command("simulate-auxtel")
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--nights", type=click.IntRange(min=1), default=1, show_default=True)
def simulate_auxtel(out_dir: Path, seed: int, nights: int) -> None:
    """Simulate nights of the auxiliary telescope into OUT_DIR: raw spectra of standard stars, their catalogue, the truth."""
    from payloads.simulator.auxtel import AuxtelConfig
    from payloads.simulator.auxtel import simulate_auxtel as run

    click.echo(f"{run(AuxtelConfig(seed=seed, nights=nights), out_dir)} spectra: {out_dir}")
