"""The sixty-second path: one detector of one visit, from raw frames to alerts, on arrays with everything loaded beforehand.

Reading order: settings · preloaded (what is loaded before the visit) · frame (what arrives, and what is made of it) · result ·
known, almanac, night (objects, and bodies of the Solar System) · detector (the chain) · packets (alerts of a result) · products
(what the Butler gets of a result) · heap.
"""
