"""What wheels hold, whatever their names say."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.wheel import Wheel, WheelError, read_wheel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ELF = {"armhf": (1, 40), "arm64": (2, 183), "amd64": (2, 62), "i386": (1, 3)}
ANY = "mxnet-1.9.1-py2.py3-none-any.whl"


def elf(bits: int, machine: int, order: int = 1) -> bytes:
    """The first 20 bytes of a shared object, and some code."""
    number = machine.to_bytes(2, "little" if order == 1 else "big")
    kind = (3).to_bytes(2, "little" if order == 1 else "big")
    return b"\x7fELF" + bytes((bits, order, 1)) + bytes(9) + kind + number + bytes(44)


def write(folder: Path, name: str, members: dict[str, bytes] | None = None) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {"mxnet/__init__.py": b"", **(members or {})}.items():
            archive.writestr(member, data)
    return path


def read(path: Path) -> Wheel:
    return read_wheel(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_a_name_says(tmp_path: Path) -> None:
    wheel = read(write(tmp_path, "greengrasssdk-1.6.1-py2.py3-none-any.whl"))
    assert (wheel.name, wheel.version) == ("greengrasssdk", "1.6.1")
    assert (wheel.pythons, wheel.abis, wheel.binaries) == (("py2", "py3"), ("none",), {})
    built = read(write(tmp_path, "numpy-1.24.2-1-cp311-cp311-linux_armv7l.whl"))
    assert (built.version, built.pythons, built.abis) == ("1.24.2", ("cp311",), ("cp311",))


def test_the_sum_may_be_written_large(tmp_path: Path) -> None:
    path = write(tmp_path, ANY)
    assert read_wheel(path, hashlib.sha256(path.read_bytes()).hexdigest().upper()).name == "mxnet"


@pytest.mark.parametrize("device", ["armhf", "arm64", "amd64"])
@pytest.mark.parametrize("built", list(ELF))
def test_code_decides_and_not_the_name(tmp_path: Path, built: str, device: str) -> None:
    wheel = read(write(tmp_path, ANY, {"mxnet/libmxnet.so": elf(*ELF[built]), "mxnet/data.bin": b"\x7fELF"}))
    assert wheel.binaries == {"mxnet/libmxnet.so": built}
    if built == device:
        wheel.check(device, "3.11")
        return
    with pytest.raises(WheelError) as refused:
        wheel.check(device, "3.11")
    assert str(refused.value) == (
        f"{ANY} holds mxnet/libmxnet.so for {built}, and the device's userland is {device}:"
        f" name a wheel built for {device}."
    )


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (elf(1, 40, order=2), "big-endian ELF machine 40"),
        (elf(2, 183, order=2), "big-endian ELF machine 183"),
        (elf(2, 243), "ELF machine 243"),
        (elf(2, 40), "ELF machine 40"),
        (elf(1, 183), "ELF machine 183"),
    ],
)
def test_no_machine_of_debian_passes_for_one(tmp_path: Path, header: bytes, named: str) -> None:
    wheel = read(write(tmp_path, ANY, {"x.so": header}))
    assert wheel.binaries == {"x.so": named}
    for device in ELF:
        with pytest.raises(WheelError, match=f"holds x.so for {named}"):
            wheel.check(device, "3.11")


def test_one_foreign_binary_among_many_is_enough(tmp_path: Path) -> None:
    members = {f"lib/{number}.so": elf(*ELF["arm64"]) for number in range(5)}
    wheel = read(write(tmp_path, ANY, {**members, "lib/3.so": elf(*ELF["armhf"])}))
    with pytest.raises(WheelError, match=r"holds lib/3\.so for armhf"):
        wheel.check("arm64", "3.11")


@pytest.mark.parametrize(
    ("tags", "python", "fits"),
    [
        ("py3-none-any", "3.11", True),
        ("py2.py3-none-any", "3.13", True),
        ("py2-none-any", "3.11", False),
        ("py38-none-any", "3.11", True),
        ("py312-none-any", "3.11", False),
        ("cp311-cp311-linux_armv7l", "3.11", True),
        ("cp311-cp311-linux_armv7l", "3.13", False),
        ("cp39-cp39-linux_aarch64", "3.11", False),
        ("cp39.cp311-none-linux_aarch64", "3.11", True),
        ("cp37-abi3-linux_aarch64", "3.11", True),
        ("cp37-abi3-linux_aarch64", "3.13", True),
        ("cp312-abi3-linux_aarch64", "3.11", False),
        ("pp39-pypy39_pp73-linux_aarch64", "3.11", False),
    ],
)
def test_pythons(tmp_path: Path, tags: str, python: str, fits: bool) -> None:
    wheel = read(write(tmp_path, f"a-1-{tags}.whl"))
    if fits:
        wheel.check("arm64", python)
        return
    with pytest.raises(WheelError, match=f"and the device has Python {python}: name a wheel built for {python}.$"):
        wheel.check("arm64", python)


def test_another_sum_is_another_file(tmp_path: Path) -> None:
    path = write(tmp_path, ANY)
    for sum_given, told in (("0" * 64, "0" * 64), ("", "none")):
        with pytest.raises(WheelError, match=f"has the sha256 [0-9a-f]{{64}}, and {told} was given: check where"):
            read_wheel(path, sum_given)


def test_a_wheel_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / ANY, tmp_path):
        with pytest.raises(WheelError, match=r"is not there: name a file of the control node\.$"):
            read_wheel(path, "")


@pytest.mark.parametrize("name", ["mxnet.whl", "mxnet-1.9.1.whl", "mxnet-1.9.1-py3-none-any.zip", "mxnet-1.9.1.tar.gz"])
def test_a_name_that_is_no_wheels(tmp_path: Path, name: str) -> None:
    with pytest.raises(WheelError, match=r"is no wheel's name \(NAME-VERSION-PYTHON-ABI-PLATFORM\.whl\): give it"):
        read(write(tmp_path, name))


def test_a_wheel_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path, ANY, {"x.so": elf(2, 183)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WheelError, match=r"cannot be read as a wheel \(.*\): fetch it again\.$"):
            read(path)


def unharmed_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        wheel = read(path)
    except WheelError as error:
        assert str(error).endswith("fetch it again.")
    else:
        assert wheel.file == path.name


FILE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FILE
@given(st.binary(max_size=300))
def test_noise_is_refused(tmp_path: Path, content: bytes) -> None:
    unharmed_or_refused(tmp_path / ANY, content)


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@FILE
@given(st.sampled_from(METHODS), st.data())
def test_a_damaged_wheel_is_read_or_refused(tmp_path: Path, method: int, data: st.DataObject) -> None:
    path = tmp_path / ANY
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("mxnet/libmxnet.so", elf(1, 40))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    unharmed_or_refused(path, bytes(content))


@pytest.mark.parametrize("method", METHODS)
def test_every_single_damaged_byte_is_read_or_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / ANY
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("mxnet/libmüxnet.so", elf(1, 40))
    whole = path.read_bytes()
    for place in range(len(whole)):
        for value in (0, 255, whole[place] ^ 1):
            unharmed_or_refused(path, whole[:place] + bytes((value,)) + whole[place + 1 :])
