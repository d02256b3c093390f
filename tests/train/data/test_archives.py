import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from vlmoe_train.data.archives import extract
from vlmoe_train.data.samples import DataError
from vlmoe_train.data.sources import Package


def write_tar(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_only_wanted_members_are_written(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tgz", [("package/img/1.png", b"one"), ("package/index.js", b"no")])
    assert extract(archive, tmp_path / "out", ("package/img/",)) == 1
    assert files_below(tmp_path / "out") == ["package/img/1.png"]
    assert (tmp_path / "out/package/img/1.png").read_bytes() == b"one"


def test_a_debian_package_needs_no_tool(tmp_path: Path, packages: tuple[Path, dict[str, Package]]) -> None:
    folder, table = packages
    package = table["fashion-mnist"]
    assert extract(folder / package.archive, tmp_path, package.members) == 4
    assert files_below(tmp_path)[0] == "usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz"


@pytest.mark.parametrize("name", ["../evil", "/evil", "p/../../evil", "C:/evil", "p\\..\\evil"])
@pytest.mark.parametrize("kind", ["tgz", "whl"])
def test_members_that_lead_outside_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    archive = tmp_path / f"a.{kind}"
    if kind == "tgz":
        write_tar(archive, [(name, b"x")])
    else:
        with zipfile.ZipFile(archive, "w") as wheel:
            wheel.writestr(name, b"x")
    target = tmp_path / "deep" / "out"
    with pytest.raises(DataError, match="would be written outside"):
        extract(archive, target, ("",))
    assert files_below(tmp_path) == [archive.name]


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    link = tarfile.TarInfo("package/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("package/hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/passwd"
    device = tarfile.TarInfo("package/device")
    device.type = tarfile.CHRTYPE
    archive = write_tar(tmp_path / "a.tgz", [link, hard, device, ("package/link/x", b"x")])
    assert extract(archive, tmp_path / "out", ("package/",)) == 1
    assert files_below(tmp_path / "out") == ["package/link/x"]


@pytest.mark.parametrize("name", ["a.tgz", "a.whl", "a.deb"])
@pytest.mark.parametrize("content", [b"", b"not an archive at all" * 10])
def test_foreign_files_get_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    archive = tmp_path / name
    archive.write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        extract(archive, tmp_path / "out", ("",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["emojibase", "fashion-mnist", "easy-vqa"])
def test_truncated_archives_get_one_line(
    tmp_path: Path, name: str, packages: tuple[Path, dict[str, Package]]
) -> None:
    folder, table = packages
    archive = tmp_path / table[name].archive
    archive.write_bytes((folder / archive.name).read_bytes()[:-200])
    with pytest.raises(DataError, match=archive.name):
        extract(archive, tmp_path / "out", ("",))


def test_a_debian_package_without_data_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.deb"
    archive.write_bytes(b"!<arch>\n" + f"{'debian-binary':<48}{4:<10}`\n".encode() + b"2.0\n")
    with pytest.raises(DataError, match="without data"):
        extract(archive, tmp_path / "out", ("",))
