"""Loops over pixels that numpy would make temporaries for: compiled by numba, single-threaded, cached; nothing is decided here.

Reading order: isr · cosmic_rays · point_source · warp · convolve · mask · score · medians · clipping.
Each function is plain Python to whoever reads it. The first call on a machine compiles for some seconds, later processes load
what it left (numba's cache, beside the module or in the user's folder).
"""
