"""Read a packed corpus with stock `datasets`, nothing of vtrap imported, and show what a row holds.

python scripts/load_stock.py runs/demo/real/packed
"""

import sys

from datasets import load_dataset

for streaming in (False, True):
    rows = load_dataset(sys.argv[1], streaming=streaming)
    split, data = next(iter(rows.items()))
    videos = 0
    for row in data:
        meta = row["json"]
        if meta["video"] is not None:
            videos += 1
            assert len(row["frames.mp"]) == len(meta["video"]["frame_times"])
            example = row
    print(f"load_dataset(streaming={streaming}): split {split!r}, {videos} videos")

assert not any(name.split(".")[0].startswith("vtrap") for name in sys.modules)
meta = example["json"]
item = max(meta["items"], key=lambda i: i["budget"])
times = [meta["video"]["frame_times"][i] for i in item["frame_ids"]]
print(
    f"a row: {meta['video']['name']}, {len(example['frames.mp'])} frames as {type(example['frames.mp'][0]).__name__}"
)
print(f"  {item['question']!r} -> {item['answer']!r}")
print(
    f"  uses {len(times)} of them, at {', '.join(f'{t:.2f}' for t in times[:8])}{' ...' if len(times) > 8 else ''} s"
)
