"""The survey simulator: raw frames of a camera over a known sky, with truth tables, deterministic by seed.

Reading order: config (what a survey may say) · streams (one random stream per thing) · mixture, psf, render (light into pixels) ·
sky, transients, orbits (what is up there) · optics, wcs, camera, detector (the instrument) · exposures (the schedule) ·
scene (what falls on one detector in one exposure) · signal (electrons into ADU) · headers, truth, survey, cli.
"""
