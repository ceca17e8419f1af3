"""`python publish_folder.py FOLDER ID [PATH]`: publish a folder, read back as plain files (only PATH, if it is given):
quick to start. Prints the outcome, and the most memory it took in MB.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hub_cards.errors import Failed, Refused
from hub_cards.publishing import Publication, publish
from hub_cards.verifying import ReadBack

folder, name = Path(sys.argv[1]), sys.argv[2]
files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
publication = Publication(
    repo_id=name,
    repo_type="dataset",
    files=files,
    owned=("data/*",),
    marker="manifest.json",
    read_back=ReadBack("hub_cards.readback", ("files", "dataset", ",".join(sys.argv[3:] or files))),
)
try:
    print(publish(publication, pause=0.05))
    # Not getrusage: that counts what the process had that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)  # type: ignore[index]
except (Refused, Failed) as error:
    print(error, file=sys.stderr)
    sys.exit(2 if isinstance(error, Refused) else 1)
