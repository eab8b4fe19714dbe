"""Artifacts reach another store as they were, or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from toys import Note, journal

from ebmzoo.store import Store, StoreError, bring, export

NOTE = Note("b", (Note("a"),))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The export of a store with two artifacts."""
    store = Store(tmp_path / "there")
    store.get(NOTE)
    export(store.contents(), tmp_path / "notes.zip")
    return tmp_path / "notes.zip"


@pytest.fixture
def here(tmp_path: Path) -> Store:
    """Another store, with nothing in it."""
    return Store(tmp_path / "here")


def contents(store: Store) -> dict[str, bytes]:
    files = (path for path in store.root.glob("note-*/*") if path.name != ".lock")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def test_what_comes_is_what_was_sent_and_is_not_made_again(file: Path, here: Store, tmp_path: Path):
    there = Store(tmp_path / "there")
    came = bring(file, here)
    assert sorted(came.new) == sorted(there.folder(note).name for note in (NOTE, *NOTE.needs()))
    assert came.known == []
    assert contents(here) == contents(there)
    assert here.get(NOTE) == "a b"
    assert not (here.root / "journal").exists()


def test_what_is_there_stays_as_it_is(file: Path, here: Store):
    here.get(Note("a"))
    before = contents(here)
    came = bring(file, here)
    assert came.known == [here.folder(Note("a")).name]
    assert before.items() <= contents(here).items()
    assert bring(file, here).new == []


def test_what_was_begun_is_finished_by_what_comes(tmp_path: Path, here: Store):
    there, note = Store(tmp_path / "there"), Note("a", fails=True)
    (there.root).mkdir()
    (there.root / "gate").touch()
    there.get(note)
    export(there.contents(), tmp_path / "one.zip")
    with pytest.raises(ValueError, match="a cannot be made"):
        here.get(note)
    (here.folder(note) / "checkpoint").touch()
    assert bring(tmp_path / "one.zip", here).new == [here.folder(note).name]
    assert Store(here.root).get(note) == "a"
    assert not (here.folder(note) / "checkpoint").exists()


def test_equal_artifacts_make_equal_files(file: Path, tmp_path: Path):
    export(Store(tmp_path / "there").contents(), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_an_import_waits_for_who_makes_the_same(file: Path, here: Store):
    from filelock import FileLock

    from ebmzoo.runtime import Deadline, OutOfTime, Runtime

    folder = here.folder(NOTE)
    folder.mkdir(parents=True)
    hurried = Store(here.root, Runtime(deadline=Deadline(0.0)))
    with FileLock(folder / ".lock"), pytest.raises(OutOfTime):
        bring(file, hurried)
    assert here.state(NOTE) == "missing"


def rewritten(file: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Changes names or contents within a zip file."""
    with zipfile.ZipFile(file) as archive:
        members = [change(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)


def other_content(name: str, content: bytes) -> tuple[str, bytes]:
    return name, content + b"?" if "artifact." in name else content


def outside(name: str, content: bytes) -> tuple[str, bytes]:
    return f"../{name}", content


def renamed(name: str, content: bytes) -> tuple[str, bytes]:
    return name.replace("note-", "note-0000").replace("/", "")[:17] + "/" + name.partition("/")[2], content


def without_provenance(name: str, content: bytes) -> tuple[str, bytes]:
    return name.replace("run.json", "artifact.other"), content


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("artifact.txt is not .* bytes long.*; export it again", other_content),
        ("is no export of a store: it holds '../note-.*nothing of it was taken", outside),
        ("recipe.json does not describe what the folder's name says", renamed),
        ("run.json is missing or cannot be read", without_provenance),
    ],
)
def test_what_is_damaged_on_the_way_is_named_and_not_taken(
    words: str, change: Callable[[str, bytes], tuple[str, bytes]], file: Path, here: Store
):
    rewritten(file, change)
    with pytest.raises(StoreError, match=words):
        bring(file, here)
    assert contents(here) == {}
    assert not list(here.root.glob(".import-*"))


@pytest.mark.parametrize("harm", [lambda content: b"nothing", lambda content: content[:-40]])
def test_what_is_no_zip_file_is_named(harm: Callable[[bytes], bytes], file: Path, here: Store):
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(StoreError, match=r"notes\.zip cannot be read as an exported file"):
        bring(file, here)


def test_bits_that_were_flipped_on_the_way_are_seen(file: Path, here: Store):
    content = file.read_bytes()
    for place in range(60, 700, 40):
        file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(StoreError):
            bring(file, Store(here.root / str(place)))


def test_damage_on_the_shelf_is_left_to_its_owner(file: Path, here: Store):
    here.get(NOTE)
    path = here.folder(NOTE) / "artifact.txt"
    path.write_text("?")
    with pytest.raises(StoreError, match=r"`ebmzoo store prune --store .*` removes it, then import again"):
        bring(file, here)
    assert path.read_text() == "?"
    assert journal(here.root) == ["a", "b"]
