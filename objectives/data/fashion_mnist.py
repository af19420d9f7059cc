"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; MIT licence): where it is, and its arrays.

`python -m objectives.data.fashion_mnist` says where the data is, and downloads it if it is nowhere.
"""

import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import HpoError

HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
CLASSES = 10


class _File(NamedTuple):
    rows: int
    download: str  # sha256 of the file at HOME; Debian's differs in the gzip header only
    content: str  # sha256 of what is inside, the same everywhere


FILES = {
    "train-images-idx3-ubyte.gz": _File(
        60000,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": _File(
        60000,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": _File(
        10000,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": _File(
        10000,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


class Images(NamedTuple):
    """pixels: (rows, 28, 28), 0 to 255; labels: (rows,), 0 to 9; both unsigned bytes."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def places() -> Iterator[Path]:
    """The folders that are looked in, in this order; $HPO_DATA may also be the folder above."""
    own = os.environ.get("HPO_DATA")
    if own:
        yield Path(own).expanduser() / "fashion-mnist"
        yield Path(own).expanduser()
    yield SYSTEM
    yield _cache()


def find() -> Path:
    """The folder that holds all four files; HpoError if there is none."""
    for folder in places():
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise HpoError(
        "Fashion-MNIST is not on this machine",
        hint="make data  downloads it (30 MB), or set HPO_DATA to a folder with its four files; "
        f"looked in {', '.join(str(place) for place in places())}",
        code="no-data",
    )


@lru_cache(maxsize=2)
def load(part: str) -> Images:
    """The images and labels of "train" (60000) or "test" (10000)."""
    folder = find()
    stem = {"train": "train", "test": "t10k"}[part]
    pixels = _read(folder / f"{stem}-images-idx3-ubyte.gz", (28, 28))
    labels = _read(folder / f"{stem}-labels-idx1-ubyte.gz", ())
    if labels.max() >= CLASSES:
        raise _damaged(folder / f"{stem}-labels-idx1-ubyte.gz", f"it holds label {labels.max()}")
    return Images(pixels, labels)


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in a gzipped idx file: two zero bytes, type, dimensions, their sizes, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"it cannot be unpacked ({error})") from error
    wanted = (FILES[path.name].rows, *shape)
    header = 4 + 4 * len(wanted)
    magic = bytes([0, 0, 8, len(wanted)])  # 8: unsigned bytes
    if content[:4] != magic or len(content) < header:
        raise _damaged(path, "it is not an idx file of unsigned bytes")
    sizes = tuple(int(n) for n in np.frombuffer(content, ">u4", count=len(wanted), offset=4))
    if sizes != wanted or len(content) != header + int(np.prod(wanted)):
        raise _damaged(path, f"it holds {sizes} in {len(content)} bytes, not {wanted}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(wanted)


def _damaged(path: Path, why: str) -> HpoError:
    return HpoError(
        f"{path} is not the Fashion-MNIST file of that name: {why}",
        hint="delete it and run  make data",
        code="bad-data",
    )


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("hpo")) / "fashion-mnist"


def fetch(folder: Path | None = None, home: str = HOME) -> Path:
    """The folder with the data, downloaded into the cache (or `folder`) if it is nowhere yet.

    What arrives is checked against the checksums of the files at the data set's own home.
    """
    import pooch

    try:
        if folder is None:
            return find()
    except HpoError:
        folder = _cache()
    for name, file in FILES.items():
        try:
            pooch.retrieve(
                url=home + name, known_hash=f"sha256:{file.download}", fname=name, path=folder
            )
        except Exception as error:  # network, disk, checksum: all end the same way for the user
            raise HpoError(
                f"cannot download {home}{name}: {str(error).strip() or type(error).__name__}",
                hint="check the network, or set HPO_DATA to a folder with the four files; "
                "on Debian and Ubuntu: apt install dataset-fashion-mnist",
                code="no-data",
            ) from error
    return folder


def verify(folder: Path) -> None:
    """HpoError if the content of one of the four files is not the original."""
    for name, file in FILES.items():
        try:
            content = gzip.decompress((folder / name).read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(folder / name, f"it cannot be unpacked ({error})") from error
        if hashlib.sha256(content).hexdigest() != file.content:
            raise _damaged(folder / name, "its checksum is another")


def main() -> int:
    """Brings the data and says where it is; the exit code."""
    try:
        folder = fetch()
        verify(folder)
    except HpoError as error:
        print(error, file=sys.stderr)
        return 5
    print(f"Fashion-MNIST is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
