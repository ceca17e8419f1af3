"""`python publish_folder.py FOLDER ID`: publish a folder, read back as plain files: quick to start, quick to kill."""

from __future__ import annotations

import sys
from pathlib import Path

from hub_cards.publishing import Failed, Publication, ReadBack, Refused, publish

folder, name = Path(sys.argv[1]), sys.argv[2]
files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
publication = Publication(
    repo_id=name,
    repo_type="dataset",
    files=files,
    owned=("data/*",),
    marker="manifest.json",
    read_back=ReadBack("hub_cards.readback", ("files", "dataset", ",".join(files))),
)
try:
    print(publish(publication, pause=0.05))
except (Refused, Failed) as error:
    print(error, file=sys.stderr)
    sys.exit(2 if isinstance(error, Refused) else 1)
