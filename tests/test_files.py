"""Files and folders are whole or not there, whatever happens while they are made."""

import os

import pytest

from srr._array.files import made_atomically, printable, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    write_atomically(path, lambda file: file.write(b"new and longer"))
    assert path.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "interrupt"])
def test_a_file_that_fails_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_appears_whole(tmp_path):
    folder = tmp_path / "deep" / "run"
    with made_atomically(folder) as draft:
        (draft / "one").write_text("1")
        assert not folder.exists()
    assert [p.name for p in folder.iterdir()] == ["one"]
    assert os.listdir(folder.parent) == ["run"]


def test_a_folder_that_fails_is_not_there(tmp_path):
    with pytest.raises(UnicodeEncodeError), made_atomically(tmp_path / "run") as draft:
        (draft / "one").write_text("half\ud800", encoding="utf-8")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("1")
    with pytest.raises(OSError, match="run"), made_atomically(tmp_path / "run") as draft:
        (draft / "one").write_text("1")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine"]
    assert os.listdir(tmp_path) == ["run"]


def test_a_name_moves_no_cursor_and_turns_no_line():
    assert printable("\x1b[31mred\r\nb\udcff\u202eabc\u2028") == r"\x1b[31mred\r\nb\udcff\u202eabc\u2028"
    assert printable("$x^$ [/bold] ε 中 é") == "$x^$ [/bold] ε 中 é"
