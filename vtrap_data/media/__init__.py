"""What is in this file, and which frames do we take?

- probe.py: what a video file holds: size, duration, and the time of every frame
- select.py: WHICH frames are taken: the only place that decides it
- decode.py: those frames as images
- size.py: at which size they are stored
- jpeg.py: a frame as JPEG bytes, and back
- images.py: still images: checked, and as RGB
- tars.py: media that lie in tars, and where the media of a source may lie
- files.py, container.py, limits.py: the checks, the safe opening and the time limit that they share
"""
