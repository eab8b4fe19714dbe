"""A user's mistake is one clear paragraph, and what is right is exactly what was written."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import gin
import pytest
from gin import config_parser

import ebmzoo
from ebmzoo import config, hookimpl
from ebmzoo.config import ConfigError, load
from ebmzoo.config.checks import Mismatch, convert
from ebmzoo.config.parsing import parse
from ebmzoo.config.registry import registry
from ebmzoo.fields import FieldError, positive


class Kernel(Protocol):
    def step(self, position: float) -> float: ...


@dataclass(frozen=True)
class Langevin:
    step_size: float

    def __post_init__(self) -> None:
        positive(self, "step_size")

    def step(self, position: float) -> float:
        return position


@dataclass(frozen=True)
class MALA:
    step_size: float = 0.5
    tries: int = 1
    limit: float = 10.0

    def __post_init__(self) -> None:
        if self.step_size > self.limit:
            raise FieldError(self, "limit", "step_size at least")

    def step(self, position: float) -> float:
        return position


@dataclass(frozen=True)
class Stage:
    kernel: Kernel
    steps: int


class Sampler(ABC):
    version: ClassVar[int] = 1

    @abstractmethod
    def draw(self) -> None: ...


@dataclass(frozen=True)
class Chains(Sampler):
    schedule: tuple[Stage, ...]
    beta: float = 1.0
    box: tuple[float, float] | None = None

    def draw(self) -> None: ...


@dataclass(frozen=True)
class Score:
    sampler: Sampler
    metric: str = "modes"
    half: bool = False


@dataclass(frozen=True)
class Cell:
    row: str
    score: Score
    seeds: int = 1
    status: Literal["verified", "secondary"] = "verified"


@dataclass(frozen=True)
class Table:
    source: str
    cells: tuple[Cell, ...]
    tolerance: float = 0.05
    about: Any = None

    def __post_init__(self) -> None:
        rows = [cell.row for cell in self.cells]
        if len(set(rows)) < len(rows):
            raise FieldError(self, "cells", "cells of different rows")
        if self.tolerance == 13:
            raise RuntimeError("the number\n\nis unlucky")


OFFERED = {
    "samplers": [Langevin, MALA, Chains],
    "parts": [Stage, Score, Cell, Table],
}

TOY = """\
include 'bases/shared.gin'

Table.source = 'a paper'
Table.cells = (
    @short/Cell(),
    @long/Cell(),
)
Cell.score = @Score()
Cell.seeds = %SEEDS
short/Cell.row = 'short'
long/Cell.row = 'long'

Score.sampler = @Chains()
Chains.schedule = [@Stage()]
Stage.kernel = %KERNEL
Stage.steps = 100
long/Stage.steps = 1000

SEEDS = 3
Langevin.step_size = 0.1
"""
END = TOY.count("\n") + 1
"""The line of toy.gin that is appended."""

SHARED = """\
KERNEL = @Langevin()
SPARE = @MALA()
MALA.tries = 2
"""

LAPTOP = """\
SEEDS = 2
Stage.steps = 10
long/Stage.steps = 20
"""


@pytest.fixture
def offer(monkeypatch, tmp_path):
    """Returns a function that puts classes and a folder in the place of those that ship with ebmzoo."""

    def put(classes: Any = OFFERED, folder: Any = None) -> None:
        module = types.ModuleType("ebmzoo.builtin")
        module.classes = hookimpl(specname="ebmzoo_classes")(lambda: classes)
        if folder is not None:
            module.folder = hookimpl(specname="ebmzoo_reproductions")(lambda: folder)
        monkeypatch.setitem(sys.modules, "ebmzoo.builtin", module)
        registry.cache_clear()

    monkeypatch.setenv("EBMZOO_PLUGINS", "")
    monkeypatch.chdir(tmp_path)
    put()
    yield put
    registry.cache_clear()


@pytest.fixture
def here(offer, tmp_path):
    """Returns a working directory with a folder of tables in it."""
    write(tmp_path, "tilting/toy.gin", TOY)
    write(tmp_path, "tilting/toy.laptop.gin", LAPTOP)
    write(tmp_path, "bases/shared.gin", SHARED)
    return tmp_path


def write(here: Path, name: str, text: str | bytes) -> Path:
    path = here / "reproductions" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def toy(step_size: float = 0.1, seeds: int = 3, short: int = 100, long: int = 1000) -> Table:
    def cell(row: str, steps: int) -> Cell:
        return Cell(row, Score(Chains((Stage(Langevin(step_size), steps),))), seeds)

    return Table("a paper", (cell("short", short), cell("long", long)))


def chains(table: Any) -> Any:
    return table.cells[0].score.sampler


class TestWhatIsRight:
    def test_values_are_what_the_classes_make(self, here):
        table = load("tilting/toy", "paper").table
        assert table == toy()
        assert type(table) is Table
        assert type(chains(table).schedule[0].kernel) is Langevin
        assert hash(table) == hash(toy())
        with pytest.raises(dataclasses.FrozenInstanceError):
            table.source = "another"

    def test_two_loads_are_equal(self, here):
        assert load("tilting/toy") == load("tilting/toy")

    def test_a_macro_is_shared_and_a_list_becomes_a_tuple(self, here):
        first, second = load("tilting/toy", "paper").table.cells
        assert first.score.sampler.schedule == (Stage(Langevin(0.1), 100),)
        assert second.score.sampler.schedule == (Stage(Langevin(0.1), 1000),)

    def test_integers_become_floats_where_floats_are_due(self, here):
        made = chains(load("tilting/toy", "paper", ["Chains.beta=2", "Chains.box=[0, 1]"]).table)
        assert (type(made.beta), type(made.box), type(made.box[0])) == (float, tuple, float)

    def test_overlays_and_their_overrides(self, here):
        paper, laptop = load("tilting/toy", "paper"), load("tilting/toy")
        assert paper.overrides == ()
        assert (laptop.scale, laptop.table) == ("laptop", toy(seeds=2, short=10, long=20))
        assert sorted(laptop.overrides) == ["SEEDS = 2", "Stage.steps = 10", "long/Stage.steps = 20"]
        assert "short/Cell.row = 'short'" in laptop.bindings
        assert "Stage.kernel = %KERNEL" in laptop.bindings
        assert "Chains.schedule = [@Stage()]" in laptop.bindings
        assert not [text for text in laptop.bindings if "SPARE" in text or "MALA" in text]

    def test_an_override_that_says_what_the_paper_says_is_none(self, here):
        assert load("tilting/toy", "paper", ["Langevin.step_size=0.1"]).overrides == ()

    def test_later_layers_win(self, here):
        more, last = here / "more.gin", here / "last.gin"
        more.write_text("Stage.steps = 11\nSEEDS = 4\n")
        last.write_text("SEEDS = 5\n")
        made = [load("tilting/toy", files=[more]), load("tilting/toy", files=[more, last])]
        made.append(load("tilting/toy", files=[more, last], sets=["SEEDS=6", "SEEDS=7"]))
        assert [each.table for each in made] == [toy(0.1, seeds, 11, 20) for seeds in (4, 5, 7)]
        assert sorted(made[-1].overrides) == ["SEEDS = 7", "Stage.steps = 11", "long/Stage.steps = 20"]

    def test_an_option_may_take_the_reader_of_a_binding_away(self, here):
        table = load("tilting/toy", "paper", ["KERNEL=@MALA()", "MALA.step_size=0.2"]).table
        assert chains(table).schedule[0].kernel == MALA(0.2, tries=2)

    def test_an_option_may_complete_a_table(self, here):
        write(here, "tilting/open.gin", TOY.replace("Langevin.step_size = 0.1\n", ""))
        assert load("tilting/open", "paper", ["Langevin.step_size=0.3"]).table == toy(0.3)

    def test_an_option_may_make_a_file_read(self, here):
        more = here / "more.gin"
        more.write_text("MALA.step_size = 0.2\n")
        made = load("tilting/toy", "paper", ["KERNEL=@MALA()"], [more])
        assert made.overrides == ("KERNEL = @MALA()", "MALA.step_size = 0.2")

    def test_files_outside_of_the_folder(self, here):
        (here / "own.gin").write_text("include 'tilting/toy.gin'\nTable.tolerance = 0.5\n")
        assert load("own.gin", "paper").table == dataclasses.replace(toy(), tolerance=0.5)
        assert load(str(here / "own.gin"), "paper").name == str(here / "own.gin")

    def test_windows_line_ends_and_byte_order_marks(self, here):
        write(here, "tilting/dos.gin", b"\xef\xbb\xbf" + TOY.replace("\n", "\r\n").encode())
        assert load("tilting/dos", "paper").table == toy()

    def test_scopes_within_scopes(self, here):
        text = TOY.replace("@short/", "@rows/short/").replace("\nshort/", "\nrows/short/")
        write(here, "tilting/deep.gin", text + "rows/Stage.steps = 7\n")
        # the unscoped Stage.steps is now read by no row, since both rows have their own
        with pytest.raises(ConfigError, match=r"Nothing reads Stage.steps"):
            load("tilting/deep", "paper")
        write(here, "tilting/deep.gin", text.replace("\nStage.steps = 100", "\nrows/Stage.steps = 7"))
        assert load("tilting/deep", "paper").table == toy(short=7)

    def test_blocks(self, here):
        text = TOY.replace("long/Stage.steps = 1000", "long/Stage:\n    steps = 1000  # many\n")
        write(here, "tilting/block.gin", text)
        assert load("tilting/block", "paper").table == toy()

    def test_tables(self, here, offer):
        folder = here / "elsewhere" / "reproductions"
        write(folder.parent, "gebm/uci.gin", TOY)
        write(folder.parent, "tilting/toy.gin", "hidden")
        write(here, ".hidden/toy.gin", "")
        offer(folder=folder)
        assert config.tables() == {
            "gebm/uci": folder / "gebm/uci.gin",
            "tilting/toy": here / "reproductions/tilting/toy.gin",
        }
        assert load("gebm/uci", "paper").table == toy()

    def test_classes(self, here):
        assert config.classes()["samplers"] == {"Langevin": Langevin, "MALA": MALA, "Chains": Chains}
        assert config.classes()["methods"] == {}

    def test_threads_do_not_meet(self, here):
        made: list[Table] = []

        def work(size: float) -> None:
            made.append(load("tilting/toy", "paper", [f"Langevin.step_size={size}"]).table)

        sizes = [digit / 10 for digit in range(2, 9)]
        threads = [threading.Thread(target=work, args=[size]) for size in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(chains(table).schedule[0].kernel.step_size for table in made) == sizes


class TestGin:
    @pytest.mark.parametrize("sets", [[], ["Langevin.step_size='no'"], ["SEEDZ=3"]])
    def test_nothing_of_it_is_left(self, here, sets):
        gin.bind_parameter("gin.macro.value", "from before")
        with gin.config_scope("outside"), pytest.raises(ConfigError) if sets else nullcontext():
            load("tilting/toy", sets=sets)
        assert gin.config._CONFIG == {}
        assert gin.config._OPERATIVE_CONFIG == {}
        assert gin.current_scope() == []

    def test_it_gave_what_counts_as_read(self, here, monkeypatch):
        """gin's own records of what it held and what it gave agree with what counts as read here."""
        held, given = {}, {}
        clear = gin.clear_config

        def spy() -> None:
            held.update({key: dict(values) for key, values in gin.config._CONFIG.items()})
            given.update({key: dict(values) for key, values in gin.config._OPERATIVE_CONFIG.items()})
            clear()

        monkeypatch.setattr(gin, "clear_config", spy)
        used = load("tilting/toy", "paper").bindings

        unread = {
            (scope, selector, field)
            for (scope, selector), fields in held.items()
            for field in fields
            if not any(
                field in values and name == selector and f"{inner}/".startswith(f"{scope}/" if scope else "")
                for (inner, name), values in given.items()
            )
        }
        assert unread == {("SPARE", "gin.macro", "value"), ("", "ebmzoo.MALA", "tries")}
        assert len(used) == sum(map(len, held.values())) - len(unread)

    def test_the_parser_calls_what_is_overridden(self):
        """The parser of :mod:`ebmzoo.config.parsing` lives on these names."""
        for name in ("parse_value", "parse_statement", "current_token"):
            assert name in vars(config_parser.ConfigParser)
        assert {"configurable_reference", "macro"} == config_parser.ParserDelegate.__abstractmethods__
        statements, mentioned = parse("A.b = (\n 1,\n @c/D(),\n [%E])\n", "x")
        (binding,) = statements
        assert (binding.scope, binding.selector, binding.arg_name) == ("", "A", "b")
        assert [str(mentioned[0].where), str(binding.value[2][0].where)] == ["x:3", "x:4"]


def append(text: str) -> Callable[[Path], Any]:
    return lambda here: write(here, "tilting/toy.gin", TOY + text)


def swap(old: str, new: str | bytes) -> Callable[[Path], Any]:
    assert old in TOY
    new = new if isinstance(new, bytes) else new.encode()
    return lambda here: write(here, "tilting/toy.gin", TOY.encode().replace(old.encode(), new))


def other(name: str, text: str) -> Callable[[Path], Any]:
    return lambda here: write(here, name, text)


def sets(*texts: str) -> Callable[[Path], Any]:
    return lambda here: {"sets": texts}


def asked(name: str = "tilting/toy", scale: str = "paper", **more: Any) -> Callable[[Path], Any]:
    return lambda here: {"name": name, "scale": scale, **more}


LINE = f"toy.gin:{END}"

OPENED = "opened and not closed"

MISTAKES: list[tuple[Any, list[str]]] = [
    # names
    (append("Langevn.step_size = 1"), ["'Langevn'", LINE, "did you mean 'Langevin'?"]),
    (append("langevin.step_size = 1"), ["'langevin'", LINE, "did you mean 'Langevin'?"]),
    (append("Zebra.step_size = 1"), ["'Zebra'", LINE, "`ebmzoo list KIND`"]),
    (
        append("Langevin.stepsize = 1"),
        ["Langevin has no field 'stepsize'", LINE, "did you mean 'step_size'?"],
    ),
    (append("Langevin.xyz = 1"), ["no field 'xyz'", LINE, "it has step_size"]),
    (append("Chains.version = 2"), ["no field 'version'", LINE]),
    (append("long/Langevin:\n    step = 1"), ["no field 'step'", f"toy.gin:{END + 1}", "'step_size'"]),
    (append("Langevni:\n    step_size = 1"), ["'Langevni'", LINE, "'Langevin'"]),
    (append("Langevin.step_size.x = 1"), ["'Langevin.step_size'", LINE]),
    (append("gin.macro.value = 1"), ["'gin.macro'", LINE]),
    (swap("@Chains()", "@Chain()"), ["'Chain'", "toy.gin:13", "did you mean 'Chains'?"]),
    (swap("[@Stage()]", "[@a/b/Stag()]"), ["'Stag'", "toy.gin:14", "did you mean 'Stage'?"]),
    (swap("@long/Cell()", "@long/Sell()"), ["'Sell'", "toy.gin:6", "did you mean 'Cell'?"]),
    (swap("@Chains()", "@Chains"), ["@Chains names a class", "toy.gin:13", "did you forget the parentheses"]),
    (swap("@long/Cell()", "@long/Cell"), ["@long/Cell()", "toy.gin:6", "parentheses"]),
    (swap("@Chains()", "@gin.singleton()"), ["'gin.singleton'", "toy.gin:13"]),
    # macros
    (swap("%SEEDS", "%SEED"), ["no macro %SEED", "toy.gin:9", "did you mean 'SEEDS'?"]),
    (swap("%SEEDS", "%NOTHING"), ["no macro %NOTHING", "toy.gin:9", "NOTHING = ..."]),
    (swap("%SEEDS", "%gin.REQUIRED"), ["no macro %gin.REQUIRED", "toy.gin:9"]),
    (swap("SEEDS = 3", "SEEDS = %SEEDS"), ["needs itself", "toy.gin:19", "%SEEDS needs %SEEDS"]),
    (
        swap("SEEDS = 3", "SEEDS = %B\nB = (%SEEDS,)"),
        ["needs itself", "toy.gin:20", "%SEEDS needs %B needs %SEEDS"],
    ),
    (
        swap("SEEDS = 3", "SEEDS = 'three'"),
        ["Cell.seeds", "'three'", "toy.gin:9, through SEEDS at", "toy.gin:19)"],
    ),
    (append("SEEDZ = 4"), ["Nothing reads SEEDZ", LINE, "did you mean 'SEEDS'?"]),
    (append("step_size = 4"), ["Nothing reads step_size", LINE, "scope/Class.field = value"]),
    (append("Langevin/step_size = 4"), ["Nothing reads Langevin/step_size", LINE]),
    # values
    (swap("= 0.1", "= 'five'"), ["Langevin.step_size should be a number, not 'five' (", "toy.gin:20)"]),
    (swap("= 0.1", "= True"), ["should be a number, not True", "toy.gin:20"]),
    (swap("= 0.1", "= None"), ["should be a number, not None", "toy.gin:20"]),
    (swap("= 0.1", "= 1e999"), ["should be a finite number, not inf", "toy.gin:20"]),
    (swap("= 0.1", "= -0.1"), ["Langevin.step_size should be a number above zero, not -0.1", "toy.gin:20"]),
    (swap("= 0.1", "= {'a': 1}"), ["should be a number, not {'a': 1}", "toy.gin:20"]),
    (swap("= 0.1", "= @MALA()"), ["should be a number, not a MALA", "toy.gin:20"]),
    (
        swap("= 100\n", "= 1e2\n"),
        ["Stage.steps should be a whole number, not 100.0", "toy.gin:16", "write 100"],
    ),
    (swap("= 100\n", "= True\n"), ["Stage.steps should be a whole number, not True", "toy.gin:16"]),
    (swap("'a paper'", "7"), ["Table.source should be a string, not 7", "toy.gin:3"]),
    (append("Score.half = 1"), ["Score.half should be True or False, not 1", LINE]),
    (append("Cell.status = 'verifid'"), ["'verified' or 'secondary', not 'verifid'", LINE]),
    (swap("@Chains()", "@Langevin()"), ["Score.sampler should be a Sampler, not a Langevin", "toy.gin:13"]),
    (swap("%KERNEL", "@Score()"), ["needs itself", "Score() needs"]),
    (swap("%KERNEL", "3"), ["Stage.kernel should be a Kernel, not 3", "toy.gin:15", "it has no 'step'"]),
    (swap("[@Stage()]", "@Stage()"), ["Chains.schedule should be a tuple (each item a Stage)", "(item,)"]),
    (swap("[@Stage()]", "(@Stage())"), ["not a Stage", "toy.gin:14", "(item,)"]),
    (swap("[@Stage()]", "(@Stage(), 5)"), ["Chains.schedule[1] should be a Stage, not 5", "toy.gin:14"]),
    (append("Chains.box = (1, 2, 3)"), ["a tuple (a number, a number) or None, not (1, 2, 3)", LINE]),
    (append("Table.about = {'a': 1}"), ["Table.about should be", LINE]),
    (append("Table.tolerance = 13"), ["Table cannot be made", "RuntimeError: the number is unlucky"]),
    (
        swap("'long'", "'short'"),
        ["Table.cells should be cells of different rows, not (a Cell, a Cell)", "toy.gin:4"],
    ),
    # what is missing, twice there, or not read
    (
        swap("Langevin.step_size = 0.1\n", ""),
        ["Langevin needs step_size", "bases/shared.gin:1", "Langevin.step_size"],
    ),
    (
        swap("long/Cell.row", "lnog/Cell.row"),
        ["Cell needs row", "scope 'long'", "toy.gin:6", "lnog/Cell.row", "toy.gin:11"],
    ),
    (
        swap("long/Cell.row = 'long'\n", ""),
        ["Cell needs row", "scope 'long'", "toy.gin:6", "write long/Cell.row = ..."],
    ),
    (swap("Table.source = 'a paper'", "Table.tolerance = 1"), ["Table needs source", "toy.gin"]),
    (other("tilting/toy.gin", ""), ["Table needs source and cells", "toy.gin"]),
    (
        swap("long/Stage", "lnog/Stage"),
        ["Nothing reads lnog/Stage.steps", "toy.gin:17", "'lnog'", "did you mean 'long'?"],
    ),
    (append("Chains.schedule = ()"), ["Chains.schedule is bound at", "toy.gin:14", LINE]),
    (append("MALA.step_size = 4"), ["Nothing reads MALA.step_size", LINE, "nothing makes a MALA"]),
    (
        append("short/Stage.steps = 1"),
        ["Nothing reads Stage.steps", "toy.gin:16", "Bind that instead", "toy.gin:"],
    ),
    (append("Table.source = 'b'"), ["Table.source is bound at", "toy.gin:3", LINE]),
    (append("KERNEL = 1\ninclude 'bases/shared.gin'"), ["KERNEL is bound at", LINE, "bases/shared.gin:1"]),
    (
        append("Table.about = @x/Table()\nx/Table.about = @x/Table()"),
        ["needs itself", "@x/Table() needs @x/Table()"],
    ),
    # syntax
    (append("Langevin.step_size 0.1"), ["'Langevin.step_size 0.1'", LINE, "scope/Class.field = value"]),
    (append("Score.metric = 'unclosed"), [OPENED, LINE]),
    (append("Score.metric = 'unclosed\nTable.tolerance = 1\n"), [OPENED, LINE]),
    (append("Score.metric = '''unclosed\n\n"), [OPENED, LINE]),
    (append("Chains.box = (1,\n  2\n"), [OPENED, LINE]),
    (append("Chains.box = (1, 2\nTable.tolerance = 1\n"), [f"opened at line {END} is not closed"]),
    (append("Chains.box = (1, 2))"), ["something follows", LINE]),
    (append("Score.metric = modes"), ["modes is no value", LINE, "quotes"]),
    (append("Score.half = true"), ["true is no value", LINE, "write True"]),
    (append("Chains.beta ="), ["the value is missing", LINE]),
    (append("Chains.beta = -"), ["Cannot read 'Chains.beta = -'", LINE]),
    (append("Chains.beta = 2 3"), ["something follows", LINE]),
    (append("Chains.beta = 2; Table.tolerance = 1"), ["something follows", LINE]),
    (append("Chains.beta = 2 * 3"), ["something follows", LINE]),
    (append("Chains.beta = 007"), ["007", LINE]),
    (append("Chains.beta = f'2'"), ["Cannot read", LINE]),
    (append("Chains.beta == 2"), ["Cannot read", LINE]),
    (append("Chains.beta = $"), ["'$' is no value", LINE]),
    (append("Chains.beta = @"), ["Cannot read", LINE]),
    (append("Chains.beta = %"), ["Cannot read", LINE]),
    (append("Table.about = {[1]: 2}"), ["Cannot read", LINE]),
    (append("long /Stage.steps = 2"), ["no blanks", LINE]),
    (append("lo-ng/Stage.steps = 2"), ["Cannot read", LINE]),
    (append("= 5"), ["Cannot read '= 5'", LINE]),
    (append("%SEEDS = 5"), ["Cannot read '%SEEDS = 5'", LINE]),
    (append("Chains:\nbeta = 2"), ["indented", f"toy.gin:{END + 1}"]),
    (append("Chains:\n    beta = 2\n  box = None"), ["indented", f"toy.gin:{END + 2}"]),
    (append("Chains:\n    beta 2"), ["Cannot read 'beta 2'", f"toy.gin:{END + 1}"]),
    (append("Chains:"), ["'Chains:'", LINE, "indented"]),
    (append("Chains:\n    5 = 2"), ["field = value", f"toy.gin:{END + 1}"]),
    (
        append("Table.about = @Langevin(0.1)"),
        ["'Table.about = @Langevin(0.1)'", LINE, "parentheses of a reference"],
    ),
    (append("Table.about = {'a' 1}"), ["Cannot read", LINE]),
    (append("include 5"), ["include names its file in quotes", LINE]),
    (append("Table.about = " + "(" * 3000), ["Cannot read", LINE]),
    (append("Chains.beta = \0"), ["Cannot read", LINE]),
    # import and include
    (append("import ebmzoo.plugins"), ["'import ebmzoo.plugins'", LINE, "entry points only"]),
    (append("from os import system as s"), ["'from os import system as s'", LINE, "entry points only"]),
    (append("from __gin__ import dynamic_registration"), [LINE, "entry points only"]),
    (append("include bases"), ["Cannot read", LINE]),
    (append("include 'bases/share.gin'"), ["'bases/share.gin'", LINE, "did you mean 'bases/shared.gin'?"]),
    (append("include 'shared.gin'"), ["'shared.gin'", LINE, "did you mean 'bases/shared.gin'?"]),
    (append("include 'bases'"), ["'bases'", LINE]),
    (append("include '../reproductions/bases/shared.gin'"), [LINE, "path within"]),
    (append("include '/bases/shared.gin'"), [LINE, "path within"]),
    (append("include 'tilting/toy.gin'"), ["includes itself", LINE, "toy.gin includes"]),
    (other("bases/shared.gin", "include 'tilting/toy.gin'"), ["includes itself", "bases/shared.gin:1"]),
    (other("bases/shared.gin", "KERNEL = @Langvin()"), ["'Langvin'", "bases/shared.gin:1", "'Langevin'"]),
    (
        other("bases/shared.gin", "KERNEL = @MALA()\nKERNEL = @MALA()"),
        ["shared.gin:1 and again", "shared.gin:2"],
    ),
    (swap("'a paper'", b"'\xff'"), ["toy.gin:3 is not UTF-8"]),
    # options
    (sets("Langevin.stepsize=1"), ["no field 'stepsize'", "--set 'Langevin.stepsize=1'", "'step_size'"]),
    (sets("Langevin.step_size=five"), ["--set 'Langevin.step_size=five'", "five is no value"]),
    (
        sets("Langevin.step_size='five'"),
        ["should be a number, not 'five'", "--set \"Langevin.step_size='five'\""],
    ),
    (sets("Langevin.step_size"), ["--set 'Langevin.step_size'", "scope/Class.field = value"]),
    (sets("Langevin.step_size="), ["--set 'Langevin.step_size='", "the value is missing"]),
    (sets(""), ["--set ''", "is not one binding"]),
    (sets("# nothing"), ["--set '# nothing'", "is not one binding"]),
    (sets("SEEDS=1\nSEEDS=2"), ["is not one binding"]),
    (sets("Stage:\n  steps=2"), ["is not one binding"]),
    (sets("import os"), ["--set 'import os'", "is not one binding"]),
    (sets("include 'bases/shared.gin'"), ["is not one binding"]),
    (sets("lnog/Stage.steps=2"), ["Nothing reads lnog/Stage.steps", "--set", "did you mean 'long'?"]),
    (sets("MALA.step_size=2"), ["Nothing reads MALA.step_size", "nothing makes a MALA"]),
    (
        sets("Cell.row='x'"),
        ["Nothing reads Cell.row", "--set", "a value of its own. Bind that instead", "toy.gin:11"],
    ),
    (sets("KERNEL=@MALA"), ["@MALA names a class", "--set 'KERNEL=@MALA'"]),
    (sets("KERNEL=%KERNELS"), ["no macro %KERNELS", "--set", "'KERNEL'"]),
    (sets("KERNEL=%KERNEL"), ["needs itself", "--set"]),
    (sets("SEEDS=(1"), [OPENED, "--set 'SEEDS=(1'"]),
    (sets("Score.metric='fid"), [OPENED, "--set"]),
    (
        sets("KERNEL=@MALA()", "MALA.step_size=11"),
        ["MALA.limit should be", "not 10.0 (--set 'KERNEL=@MALA()')"],
    ),
    (sets("Langevin.step_size=-1"), ["above zero, not -1", "--set 'Langevin.step_size=-1'"]),
    # requests
    (asked("tilting/toi"), ["no table 'tilting/toi'", "did you mean 'tilting/toy'?", "`ebmzoo list tables`"]),
    (asked("toy"), ["no table 'toy'", "did you mean 'tilting/toy'?"]),
    (asked("xyz"), ["no table 'xyz'", "`ebmzoo list tables`"]),
    (asked(""), ["no table ''"]),
    (asked("tilting/toy.gin"), ["no file 'tilting/toy.gin'", "did you mean 'tilting/toy'?"]),
    (asked("reproductions/tilting/toy.laptop.gin"), ["is the overlay of a table", "--scale laptop"]),
    (asked("bases/shared"), ["no table 'bases/shared'"]),
    (asked("\0.gin"), ["no file"]),
    (asked(scale="labtop"), ["no scale 'labtop'", "did you mean 'laptop'?"]),
    (asked(scale="huge"), ["no scale 'huge'", "paper, laptop, smoke"]),
    (asked(scale="smoke"), ["toy.gin has no scale 'smoke'", "toy.smoke.gin", "paper and laptop"]),
    (asked(files=[Path("none.gin")]), ["no file 'none.gin'"]),
    (asked(files=[Path("reproductions")]), ["reproductions is a folder"]),
    (asked(files=[Path("reproductions/zoo/own.gin")]), ["zoo/own.gin:2", "no field 'metrics'", "'metric'"]),
    (asked("zoo/laid", "laptop"), ["zoo/laid.laptop.gin:1", "Nothing reads", "did you mean 'long'?"]),
    (asked("zoo/laid", "smoke"), ["zoo/laid.smoke.gin:1", "Stage.steps should be a whole number"]),
]


@pytest.mark.parametrize(("make", "expected"), MISTAKES, ids=[ascii(expected[0]) for _, expected in MISTAKES])
def test_mistakes(here, make, expected):
    write(here, "zoo/own.gin", "\nScore.metrics = 'x'")
    write(here, "zoo/laid.gin", TOY)
    write(here, "zoo/laid.laptop.gin", "lnog/Stage.steps = 3")
    write(here, "zoo/laid.smoke.gin", "Stage.steps = 'x'")
    made = make(here)
    request = {"name": "tilting/toy", "scale": "paper", **(made if isinstance(made, dict) else {})}
    with pytest.raises(ConfigError) as caught:
        load(**request)
    text = str(caught.value)
    for fragment in expected:
        assert fragment in text, text
    assert "\n" not in text
    for word in ("Traceback", "In call to", "configurable", "<ast.", "object at 0x", "ExceptionProxy"):
        assert word not in text
    assert len(text) < 600


PIECES = [
    *"'\"()[]{}@%/.=,:\n\\\0\té#$;",
    "    ",
    "include ",
    "import ",
    "-",
    "1e999",
    "None",
    "()",
    "\f",
    "\u2028",
    "1_",
]


def test_whatever_is_written_is_a_value_or_a_mistake(here):
    rng = random.Random(0)
    made, mistakes = 0, []
    for _ in range(300):
        text = TOY
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(text))
            text = text[:start] + rng.choice(PIECES) + text[start + rng.choice([0, 0, 1, 2, 5, 20]) :]
        write(here, "tilting/toy.gin", text)
        try:
            load("tilting/toy", rng.choice(["paper", "laptop"]))
            made += 1
        except ConfigError as error:
            mistakes.append(str(error))
    assert made > 0
    assert mistakes
    assert not [text for text in mistakes if "\n" in text or "In call to" in text]


def test_backslashes_that_escape_nothing(here, recwarn):
    assert load("tilting/toy", "paper", [r"Table.source='a\sb'"]).table.source == r"a\sb"
    assert not recwarn.list


def test_a_file_that_may_not_be_read(here, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"toy\.gin cannot be read: Permission denied"):
        load("tilting/toy", "paper")


def test_a_folder_in_the_place_of_a_table(here):
    (here / "folder.gin").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.gin is a folder"):
        load("folder.gin", "paper")


def test_nearest():
    assert config.nearest("mala", ["MALA", "HMC"]) == "; did you mean 'MALA'?"
    assert config.nearest("zebra", ["MALA", "HMC"]) == ""


GOOD = """
import dataclasses
from pathlib import Path
from ebmzoo import hookimpl

@dataclasses.dataclass(frozen=True)
class {name}:
    step_size: float = 1.0
    def step(self, position):
        return position

@hookimpl
def ebmzoo_classes():
    return {{{kind!r}: [{name}]}}

@hookimpl
def ebmzoo_reproductions():
    return Path(__file__).parent / {folder!r}
"""


def good(name: str, kind: str = "samplers", folder: str = "") -> str:
    return GOOD.format(name=name, kind=kind, folder=folder)


def distribute(site: Path, distribution: str, point: str) -> None:
    """Writes what an installer leaves of a distribution, with one entry point."""
    info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[ebmzoo]\n{point}\n")


@pytest.fixture
def install(here, monkeypatch):
    """Returns a function that installs a plugin, and lets only those that it installed be loaded."""
    site = here / "site"
    names: list[str] = []

    def put(name: str, text: str) -> None:
        distribute(site, f"ebmzoo-{name}-dist", f"{name} = plugin_{name}")
        (site / f"plugin_{name}.py").write_text(text)
        names.append(name)
        monkeypatch.setenv("EBMZOO_PLUGINS", ",".join(names))
        monkeypatch.syspath_prepend(str(site))
        registry.cache_clear()

    yield put
    for name in names:
        sys.modules.pop(f"plugin_{name}", None)


def errors() -> dict[str, str | None]:
    """Returns what is wrong with each plugin, after everything was asked of them."""
    config.classes()
    config.tables()
    return {each.name: each.error for each in config.plugins()}


def test_plugins_are_named_with_their_distribution(install):
    install("a", good("Kinetic"))
    assert config.plugins() == (
        config.Plugin("builtin", "ebmzoo", ebmzoo.__version__),
        config.Plugin("a", "ebmzoo-a-dist", "1.5"),
    )
    table = load("tilting/toy", "paper", ["KERNEL=@Kinetic()"]).table
    assert type(chains(table).schedule[0].kernel) is config.classes()["samplers"]["Kinetic"]


RETURN = "return {'samplers': [Other]}"

BROKEN = [
    ("import no_such_module", "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"),
    ("this is no Python", "cannot be imported (SyntaxError"),
    ("raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
    (
        good("Other").replace("o_classes", "o_clases"),
        "no hook 'ebmzoo_clases'; did you mean 'ebmzoo_classes'",
    ),
    (good("Other").replace("ebmzoo_classes()", "ebmzoo_classes(name)"), "name"),
    (good("Other").replace("@hookimpl", ""), "offers nothing"),
    (good("Langevin"), "'builtin' offers another class of the name 'Langevin' already"),
    (good("Other").replace("frozen=True", "frozen=False"), "'Other' is no frozen dataclass"),
    (good("Other").replace("step_size: float", "step_size: 'Flaot'"), "'Other' cannot be read (NameError"),
    (good("Other", kind="sampler"), "no kind 'sampler'; did you mean 'samplers'?"),
    (good("Other").replace("[Other]", "['Other']"), "'Other' is no class"),
    (good("Other").replace("[Other]", "Other"), "not iterable"),
    (good("Other").replace("Other:", "Other(__import__('collections').abc.Sized):"), "define __len__"),
    (
        good("Other").replace(
            RETURN, "return {'parts': [Other, dataclasses.make_dataclass('Other', [], frozen=True)]}"
        ),
        "two of its classes have the name 'Other'",
    ),
    (good("Other").replace(RETURN, "return 5"), "should return a mapping"),
    (good("Other").replace(RETURN, "1 / 0"), "ebmzoo_classes failed (ZeroDivisionError"),
    (good("Other").replace(RETURN, "import no_torch"), "No module named 'no_torch'"),
    (good("Other", folder="nowhere"), "no folder"),
    (good("Other").replace("return Path(__file__).parent", "return Path(5)"), "ebmzoo_reproductions failed"),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN, ids=[expected for _, expected in BROKEN])
def test_a_broken_plugin_is_named_and_the_others_work(install, text, expected):
    install("a", good("Kinetic"))
    install("b", text)
    install("c", good("Custom"))
    told = errors()
    assert expected in told.pop("b")
    assert told == {"builtin": None, "a": None, "c": None}
    assert {"Kinetic", "Custom"} <= set(config.classes()["samplers"])
    assert load("tilting/toy").table == toy(seeds=2, short=10, long=20)
    with pytest.raises(ConfigError, match=r"no class 'Zebra'.* broken: b \("):
        load("tilting/toy", sets=["Zebra.stripes=3"])


def test_two_plugins_of_one_name(here, install):
    install("a", good("Kinetic"))
    distribute(here / "site", "another", "a = somewhere_else")
    told = [each for each in config.plugins() if each.name == "a"]
    assert len(told) == 2
    assert told[1].error == f"a plugin of {told[0].distribution} has the same name"


def test_a_table_that_another_plugin_has(here, install):
    install("a", good("Kinetic", folder="first"))
    install("b", good("Custom", folder="second"))
    for name in ("first/paper/one.gin", "second/paper/one.gin", "second/paper/two.gin"):
        path = here / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert sorted(config.tables()) == ["paper/one", "tilting/toy"]
    assert errors()["b"] == "another plugin offers the table 'paper/one' already"


def test_the_variable_limits_plugins(install, monkeypatch):
    install("a", good("Kinetic"))
    install("b", good("Custom"))
    for value, expected in (("b", ["builtin", "b"]), (" b , a ", ["builtin", "a", "b"]), ("", ["builtin"])):
        monkeypatch.setenv("EBMZOO_PLUGINS", value)
        registry.cache_clear()
        assert [each.name for each in config.plugins()] == expected
    monkeypatch.delenv("EBMZOO_PLUGINS")
    registry.cache_clear()
    assert {"a", "b"} <= {each.name for each in config.plugins()}


def test_the_variable_names_what_is_not_there(install, monkeypatch):
    install("first", good("Kinetic"))
    monkeypatch.setenv("EBMZOO_PLUGINS", "frist")
    registry.cache_clear()
    for function in (config.plugins, config.tables, config.classes):
        with pytest.raises(
            ConfigError, match=r"EBMZOO_PLUGINS names a plugin 'frist'.*did you mean 'first'\?"
        ):
            function()


def test_without_a_table_class(here, offer):
    offer(classes={"parts": [Cell]})
    write(here, "tilting/none.gin", "")
    with pytest.raises(ConfigError, match=r"There is no class 'Table' for .*none\.gin to make"):
        load("tilting/none", "paper")


class Abstract(Protocol):
    name: str

    def __call__(self) -> int: ...


@dataclass(frozen=True)
class Concrete:
    name: str

    def __call__(self) -> int:
        return 0


FITTING: list[tuple[Any, Any, Any]] = [
    (1, float, 1.0),
    (1, int, 1),
    (True, bool, True),
    ("a", str, "a"),
    (None, int | None, None),
    (1, float | None, 1.0),
    (1, int | float, 1),
    ([1, [2]], Any, (1, (2,))),
    ([1, 2], tuple[float, ...], (1.0, 2.0)),
    ([], tuple[float, ...], ()),
    ([], tuple[()], ()),
    ([[1], [2]], tuple[tuple[int, ...], ...], ((1,), (2,))),
    ((1, "a"), tuple[int, str], (1, "a")),
    ([1, "a"], tuple, (1, "a")),
    ([1], Sequence[int], (1,)),
    (2, Literal[1, 2], 2),
    (Concrete("a"), Abstract, Concrete("a")),
    (Concrete("a"), Concrete, Concrete("a")),
    (Concrete("a"), Langevin | Concrete, Concrete("a")),
]

UNFITTING: list[tuple[Any, Any, str]] = [
    (True, int, "a whole number"),
    (True, float, "a number"),
    (1, bool, "True or False"),
    (1.5, int, "a whole number"),
    (10**400, float, "a finite number"),
    ("1", int | None, "a whole number or None"),
    (True, Literal[1, 2], "1 or 2"),
    ("ab", tuple[str, ...], "a tuple (each item a string)"),
    ("ab", Sequence[str], "a tuple (each item a string)"),
    ((1,), tuple[()], "the empty tuple ()"),
    ((1,), tuple[int, int], "a tuple (a whole number, a whole number)"),
    ((1, 2), tuple[int], "a tuple (a whole number,)"),
    (5, tuple, "a tuple"),
    ((1, (2, "a")), tuple[int, tuple[int, ...]], "a whole number"),
    (Langevin(1), Abstract, "an Abstract"),
    (Langevin(1), Concrete, "a Concrete"),
    ({"a": 1}, Any, "a number, a string, an object or a tuple of such"),
]


@pytest.mark.parametrize(("value", "hint", "expected"), FITTING)
def test_values_that_fit(value, hint, expected):
    got = convert(value, hint)
    assert (type(got), repr(got)) == (type(expected), repr(expected))


@pytest.mark.parametrize(("value", "hint", "expected"), UNFITTING)
def test_values_that_do_not_fit(value, hint, expected):
    with pytest.raises(Mismatch) as caught:
        convert(value, hint)
    assert caught.value.expected == expected


def test_tables_need_no_torch():
    code = "import sys, ebmzoo.config as c; c.tables(); c.plugins(); assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
