"""Which of the 19 benchmarks are there, as data? One file each; a new one is a file and a line here."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.ai2d import AI2D
from vtrap_data.sources.benchmarks.egoschema import EGOSCHEMA
from vtrap_data.sources.benchmarks.longvideobench import LONGVIDEOBENCH
from vtrap_data.sources.benchmarks.mlvu import MLVU
from vtrap_data.sources.benchmarks.mmbench_en import MMBENCH_EN
from vtrap_data.sources.benchmarks.mme import MME
from vtrap_data.sources.benchmarks.mmmu import MMMU
from vtrap_data.sources.benchmarks.mmstar import MMSTAR
from vtrap_data.sources.benchmarks.mvbench import MVBENCH
from vtrap_data.sources.benchmarks.nextqa import NEXTQA
from vtrap_data.sources.benchmarks.ocrbench import OCRBENCH
from vtrap_data.sources.benchmarks.perceptiontest import PERCEPTIONTEST
from vtrap_data.sources.benchmarks.pope import POPE
from vtrap_data.sources.benchmarks.scienceqa_img import SCIENCEQA_IMG
from vtrap_data.sources.benchmarks.seed_image import SEED_IMAGE
from vtrap_data.sources.benchmarks.spec import ABILITIES, Benchmark
from vtrap_data.sources.benchmarks.tempcompass import TEMPCOMPASS
from vtrap_data.sources.benchmarks.textvqa import TEXTVQA
from vtrap_data.sources.benchmarks.videomme import VIDEOMME
from vtrap_data.sources.benchmarks.videommmu import VIDEOMMMU

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *(MME, MMSTAR, MMBENCH_EN, POPE, SEED_IMAGE, SCIENCEQA_IMG, TEXTVQA, OCRBENCH, MMMU, AI2D),
        *(VIDEOMME, MVBENCH, TEMPCOMPASS, VIDEOMMMU, LONGVIDEOBENCH, MLVU, NEXTQA, EGOSCHEMA, PERCEPTIONTEST),
    )
}

__all__ = ["ABILITIES", "BENCHMARKS", "Benchmark"]
