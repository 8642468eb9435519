"""One process of the machine at a time uses an address, however it is written and whoever locks it."""

import json
import os
import stat
import subprocess
import sys

import pytest

from instruments.roles.interfaces import InstrumentError
from instruments.wire import address_lock
from instruments.wire.address_lock import AddressLock, InUseError, address_name, shared_folder
from instruments.wire.sessions import open_port

HOLDER = """
import sys
from instruments.wire import address_lock
address_lock.say_purpose("broker of /home/bob/bench.yaml \\x1b[31m")
lock = address_lock.AddressLock("visa", sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
ADDRESS = "TCPIP0::127.0.0.1::9::SOCKET"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for locks of the test's own."""
    monkeypatch.setattr(address_lock, "shared_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def holder():
    """Another process that holds an address, with the folder that all share."""
    command = [sys.executable, "-P", "-c", HOLDER, ADDRESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    "spellings",
    [
        [("port", "socket://127.0.0.1:5025"), ("port", "SOCKET://localhost:5025"),
         ("visa", "TCPIP::127.0.0.1::5025::SOCKET"), ("visa", "tcpip0::localhost::5025::socket"),
         ("port", "socket://127.0.0.1:5025?logging=debug")],
        [("port", "COM4"), ("port", r"\\.\COM4"), ("port", "com4"), ("visa", "ASRL4::INSTR"), ("visa", "ASRL4")],
        [("visa", "GPIB0::5::INSTR"), ("visa", "GPIB::5"), ("visa", "gpib0::5::0::INSTR")],
        [("visa", "USB0::0x05E6::0x2450::04000001::INSTR"), ("visa", "USB::1510::9296::04000001::0::INSTR")],
    ],
)  # fmt: skip
def test_spellings_of_one_address_are_one(spellings):
    assert len({address_name(*each) for each in spellings}) == 1


def test_other_addresses_are_others():
    names = [("visa", f"TCPIP::127.0.0.1::{port}::SOCKET") for port in (1, 2)]
    names += [("visa", "GPIB0::5::INSTR"), ("visa", "GPIB1::5::INSTR"), ("visa", "GPIB0::6::INSTR"), ("port", "COM5")]
    names += [("port", "loop://"), ("visa", "nonsense"), ("port", "socket://127.0.0.1:x"), ("library", "a:B")]
    assert len({address_name(*each) for each in names}) == len(names)


@pytest.mark.skipif(os.name != "posix", reason="links to devices are made by Linux")
def test_a_link_to_a_device_is_that_device(tmp_path):
    (tmp_path / "by-id").symlink_to("/dev/null")
    assert address_name("port", str(tmp_path / "by-id")) == address_name("port", "/dev/null")


def test_another_process_is_kept_out_and_told_who_has_it(holder):
    mine = AddressLock("port", "socket://localhost:9")
    with pytest.raises(
        InUseError, match=rf"socket://localhost:9: .*process {holder.pid} of user .*bench\.yaml"
    ) as error:
        mine.acquire(0.1)
    assert "\x1b" not in str(error.value)
    holder.kill()
    holder.wait()
    mine.acquire(5.0)
    mine.release()


@pytest.mark.skipif(os.name != "posix", reason="no signal stops a process on Windows")
def test_who_was_stopped_is_not_waited_for(holder):
    os.kill(holder.pid, 19)
    try:
        with pytest.raises(InUseError, match="it was stopped"):
            AddressLock("visa", ADDRESS).acquire(60.0)
    finally:
        os.kill(holder.pid, 18)


def test_a_session_is_refused_before_it_connects(holder, peer_board):
    with pytest.raises(InstrumentError, match=rf"process {holder.pid} of user"):
        open_port("socket://127.0.0.1:9", timeout=0.2)


def test_connections_of_one_process_share(folder):
    first, second = AddressLock("port", "COM4"), AddressLock("visa", "ASRL4::INSTR")
    first.acquire()
    second.acquire()
    second.acquire()
    first.release()
    assert len(list(folder.iterdir())) == 1
    second.release()
    second.release()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="rights of a file are others on Windows")
@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_file_of_another_user_ends_no_run(folder, mode):
    lock = AddressLock("port", "COM4")
    lock.acquire()
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o666
    lock.release()
    file.write_text("\x1b[31m" * 3000)
    file.chmod(mode)
    lock.acquire()
    lock.release()


@pytest.mark.skipif(os.name != "posix", reason="Windows has other links")
def test_a_file_that_was_exchanged_is_neither_followed_nor_waited_for(folder, tmp_path):
    lock = AddressLock("port", "COM4")
    lock.acquire()
    (file,) = folder.iterdir()
    lock.release()
    (folder / "victim").write_text("precious")
    file.symlink_to(folder / "victim")
    lock.acquire()
    lock.release()
    assert (folder / "victim").read_text() == "precious"
    file.unlink()
    os.mkfifo(file)
    lock.acquire()
    lock.release()


def test_the_folder_does_not_depend_on_who_asks(monkeypatch, tmp_path):
    before = shared_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shared_folder() == before is not None


@pytest.mark.parametrize("said", ["", "{", "[1]", json.dumps({"pid": 10**30, "started": 1}), "[" * 4096])
def test_who_holds_it_is_only_told_if_it_is_known(tmp_path, said):
    (tmp_path / "lock").write_text(said)
    assert "not known" in str(address_lock.Holder.of(tmp_path / "lock"))
