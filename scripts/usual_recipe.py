"""The recipe that `bench_end_to_end.py` holds vtrap against: TRL's example for videos, with qwen-vl-utils.

Original files, decoded anew for every batch by the collator; `train(resume_from_checkpoint=...)` to go on.

python scripts/usual_recipe.py MODEL ROWS.jsonl MEDIA FRAMES MAX_PIXELS OUT STEPS SAVE_STEPS
"""

import json
import sys
from pathlib import Path

from datasets import Dataset
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

model_dir, rows, media, frames, max_pixels, out, steps, save_steps = sys.argv[1:]

model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir)
processor = AutoProcessor.from_pretrained(model_dir)


def messages(example):
    video = {"type": "video", "video": f"{media}/{example['video']}", "nframes": int(frames)}
    video["max_pixels"] = int(max_pixels)
    question, answer = (turn["value"].replace("<video>\n", "") for turn in example["conversations"])
    return [
        {"role": "user", "content": [video, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def collate(examples):
    chats = [messages(example) for example in examples]
    texts = [processor.apply_chat_template(chat, tokenize=False) for chat in chats]
    images, videos, options = process_vision_info(chats, return_video_kwargs=True)
    options["fps"] = options["fps"][0]  # transformers 5 refuses the list that is documented; here is one video a batch
    batch = processor(text=texts, images=images, videos=videos, padding=True, return_tensors="pt", **options)
    labels = batch["input_ids"].clone()
    labels[labels == processor.tokenizer.pad_token_id] = -100
    labels[labels == processor.video_token_id] = -100
    batch["labels"] = labels
    return batch


lines = Path(rows).read_text().splitlines()
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=out,
        max_steps=int(steps),
        per_device_train_batch_size=1,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="steps" if int(save_steps) else "no",
        save_steps=int(save_steps) or 500,
        logging_steps=1,
        report_to="none",
        # As vtrap does without a GPU.
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    ),
    data_collator=collate,
    train_dataset=Dataset.from_list([json.loads(line) for line in lines]),
    processing_class=processor,
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(out) if Path(out).is_dir() else None)
trainer.save_model()
