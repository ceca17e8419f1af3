"""Toyworld: a procedural source with known truth, so that the whole loop runs on a laptop with no download.

scene.py      what there is, and what is on screen at time t (the truth)
questions.py  what is asked, the answer, and what an ideal observer of a few frames could know
draw.py       scene -> pixels
generate.py   scenes -> real JPEG and H.264 files with a JSONL beside them
"""
