"""Prompt workers: one process for each detector, armed before the night's first visit, and a fork of it for each visit.

Reading order: science (the seam to the payload), worker (the armed process), flight (a visit as its worker sees it), words and
pilot (a visit from within), library (what is loaded), chain (the payload behind the seam), sky (what is known of it, night after
night), stamps.
"""
