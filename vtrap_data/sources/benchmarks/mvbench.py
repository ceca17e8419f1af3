"""MVBench: 20 kinds of question about short clips, 200 each."""

from __future__ import annotations

from typing import NamedTuple

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_text, plain, sequence, text


class Clips(NamedTuple):
    """One of the 20 tasks: where its clips are, already cut to start and end, and what it is about."""

    folder: str
    ability: str


TASKS = {
    "action_sequence": Clips("star/Charades_segment", "order"),
    "action_prediction": Clips("star/Charades_segment", "action"),
    "action_antonym": Clips("ssv2_video_mp4", "action"),
    "fine_grained_action": Clips("Moments_in_Time_Raw/videos", "action"),
    "unexpected_action": Clips("FunQA_test/test", "action"),
    "object_existence": Clips("clevrer/video_validation", "existence"),
    "object_interaction": Clips("star/Charades_segment", "relation"),
    "object_shuffle": Clips("perception/videos", "position"),
    "moving_direction": Clips("clevrer/video_validation", "direction"),
    "action_localization": Clips("sta/sta_video_segment", "order"),
    "scene_transition": Clips("scene_qa/video", "order"),
    "action_count": Clips("perception/videos", "counting"),
    "moving_count": Clips("clevrer/video_validation", "counting"),
    "moving_attribute": Clips("clevrer/video_validation", "attribute"),
    "state_change": Clips("perception/videos", "change"),
    "fine_grained_pose": Clips("nturgbd_convert", "action"),
    "character_order": Clips("perception/videos", "order"),
    "egocentric_navigation": Clips("vlnqa", "direction"),
    "episodic_reasoning": Clips("tvqa/video_fps3_hq_segment", "cause"),
    "counterfactual_inference": Clips("clevrer/video_validation", "reasoning"),
}


def read(row: Row, part: Part) -> Question:
    """One question of the task that the part is.

    The clips must be the cut ones (revision `video` of the data set): rows of four tasks are about a stretch from
    `start` to `end` of a longer video, and nothing here cuts.
    """
    options = tuple(plain(option) for option in sequence(row["candidates"]))
    name, folder = text(row["video"]), TASKS[part.config].folder
    stem = name.rsplit(".", 1)[0]
    return Question(
        id="",
        question=plain(row["question"]),
        options=options,
        right=by_text(row["answer"], options),
        category=part.config,
        video=tuple(f"{folder}/{found}" for found in dict.fromkeys((name, f"{stem}.mp4"))),
        facts={"task": part.config},
    )


MVBENCH = Benchmark(
    name="mvbench",
    title="MVBench",
    media="video",
    ids=("OpenGVLab/MVBench",),
    revision="230a2d4fac8900333c61754641c7a13e069ac9c6",
    parts=tuple(Part(config=task, split="train", rows=200, known="table") for task in TASKS),
    columns=("video", "question", "candidates", "answer"),
    abilities={task: clips.ability for task, clips in TASKS.items()},
    read=read,
    counts_from="a reference page of lmms-eval's tasks, counted with the Hub's size service",
    licence="MIT",
    licence_stated="tag of the card of OpenGVLab/MVBench; the videos keep the terms of eleven data sets",
)
