"""Random schemas and mappings of them, from a seed: keys of all kinds, references of all kinds, shared tables, filters.

A `World` says the same thing three times: as SQL, as a mapping file, and as plain values for the model.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

Piece = str | tuple[str, str]  # a literal text; or "column" or "attribute", and its name
DECLARED = {"rowid": "INTEGER", "id": "INTEGER", "code": "TEXT", "a": "TEXT", "b": "INTEGER", "c": "TEXT"}
DECLARED |= {"s": "TEXT", "n": "INTEGER", "d": "TEXT", "u": "TEXT", "w": "INTEGER"}
KEYS: tuple[tuple[str, ...], ...] = (("id",), ("id",), ("code",), ("a", "b"), ("a", "b", "c"), ("rowid",))
WHERE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "": lambda row: True,
    "w > 0": lambda row: row["w"] > 0,
    "w = 0": lambda row: row["w"] == 0,
}


@dataclass(frozen=True)
class Reference:
    """An attribute that refers to a parent: by its key, or by its column u."""

    name: str
    columns: tuple[str, ...]
    parent: str  # an entity
    table: str  # where the parent's rows are
    by: tuple[str, ...]
    part: str
    optional: bool


@dataclass(frozen=True)
class Part:
    """An attribute of a key: a new id, the value of a column, or a template."""

    name: str
    pieces: tuple[Piece, ...] = ()
    column: str = ""
    attribute: str = ""

    @property
    def is_new_id(self) -> bool:
        return not (self.pieces or self.column or self.attribute)


@dataclass(frozen=True)
class Spec:
    """An entity."""

    name: str
    source: str
    key: tuple[str, ...]
    target: str
    parts: tuple[Part, ...]
    references: tuple[Reference, ...]
    where: str = ""
    identity: tuple[tuple[str, ...], ...] = ()
    indexes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    value: tuple[Piece, ...] = ()

    @property
    def new_id(self) -> str | None:
        return next((part.name for part in self.parts if part.is_new_id), None)

    @property
    def attributes(self) -> set[str]:
        """Every attribute that is ours."""
        return {"s", "n", "d", *(p.name for p in self.parts), *(r.name for r in self.references)} | (
            {"v"} if self.value else set()
        )


@dataclass(frozen=True)
class World:
    """The entities, and the columns of each table of the source beside the key."""

    specs: dict[str, Spec]
    columns: dict[str, dict[str, str]]
    keys: dict[str, tuple[str, ...]]
    declares: bool  # foreign keys

    def find_index_keys(self, target: str) -> set[str]:
        """The attributes that any index of a table wants."""
        mates = [spec for spec in self.specs.values() if spec.target == target]
        return {name for spec in mates for names in spec.indexes.values() for name in names}


def make_world(seed: int, most: int) -> World:
    """A schema of two tables and more, and a mapping over it."""
    draw = random.Random(f"world {seed}")
    number = min(draw.choice((2, 2, 2, 3, 3, 4, 5)), most)
    keys: dict[str, tuple[str, ...]] = {f"t{i}": draw.choice(KEYS) for i in range(number)}
    columns = {f"t{i}": {name: DECLARED[name] for name in "sndw"} | {"u": "TEXT UNIQUE"} for i in range(number)}
    specs: dict[str, Spec] = {}
    kinds = {f"t{i}": draw.choice(("new_id", "kept", "kept", "template", "template", "other", "other", "reference"))
             for i in range(number)}  # fmt: skip
    names: dict[str, tuple[str, ...]] = {}
    parts: dict[str, tuple[Part, ...]] = {}
    for i in range(number):  # keys first, since references of all tables need them; those of parents before
        kind = kinds[f"t{i}"] if i or kinds[f"t{i}"] != "reference" else "kept"
        parts[f"t{i}"] = make_parts(draw, i, keys[f"t{i}"], kind)
        names[f"t{i}"] = tuple(part.name for part in parts[f"t{i}"])
    for i in range(number):
        table, references = f"t{i}", []
        wanted = draw.choice((0, 1, 1, 2, 2))
        made_of = {part.attribute for part in parts[table]} | {
            piece[1] for part in parts[table] for piece in part.pieces if isinstance(piece, tuple)
        }
        uses_reference = any("_r" in name for name in made_of)
        for k in range(max(wanted, uses_reference)):
            in_key = uses_reference and k == 0
            parent = f"t{draw.randrange(i if in_key else number)}"
            by = ("u",) if draw.random() < 0.25 else keys[parent]
            held = tuple(f"r{k}_{one}" for one in by)
            columns[table] |= {name: DECLARED[one] for name, one in zip(held, by, strict=True)}
            part = draw.choice(names[parent])
            references.append(
                Reference(f"e{i}_r{k}", held, f"e{parent[1:]}", parent, by, part, draw.random() < 0.6 and not in_key)
            )
        specs[f"e{i}"] = finish_spec(draw, i, table, keys[table], parts[table], tuple(references))
    specs = share_tables(draw, specs)
    if draw.random() < 0.3:
        twin = draw.choice(list(specs.values()))
        specs[twin.name] = replace(twin, where="w > 0")
        specs["twin"] = replace(twin, name="twin", where="w = 0")
    return World(specs, columns, keys, draw.random() < 0.5)


def make_parts(draw: random.Random, i: int, key: tuple[str, ...], kind: str) -> tuple[Part, ...]:
    """The key of an item. It refers to the first reference of the entity, if it is made of one."""
    mark = draw.choice((f"E{i}#", f"E{i}#", "K#", ""))
    own: tuple[Piece, ...] = tuple(piece for column in key for piece in (("column", column), "/"))[:-1]
    has_rowid = key == ("rowid",)
    if kind == "new_id" or (has_rowid and kind != "other"):
        made = draw.choice(("one", "one", "two"))
        if made == "one":
            return (Part(draw.choice(("pk", f"id{i}"))),)
        return (Part("pk", (mark, ("column", "s"))), Part("sk")) if draw.random() < 0.5 else (
            Part("pk"), Part("sk", (f"S{i}",)),
        )  # fmt: skip
    if kind == "kept":
        if len(key) == 1:
            return (Part(key[0], column=key[0]),)
        if len(key) == 2:
            return Part("a", column="a"), Part("b", column="b")
    if kind == "other":
        return draw.choice(
            (
                (Part("pk", (f"{mark}", ("column", "u"))),),
                (Part("pk", (mark, ("column", "s"), "#", ("column", "n"))),),
                (Part("pk", (mark, ("column", "s"))), Part("sk", ("N#", ("column", "n")))),
                (Part("pk", (mark, ("column", "u"))), Part("sk", ("#META",))),
                (Part("pk", (mark, ("attribute", "s"))), Part("sk", ("#", ("column", "u")))),
                (Part("pk", (mark, *own)), Part("sk", ("S#", ("column", "s")))),
            )
        )
    if kind == "reference":
        name = f"e{i}_r0"
        return draw.choice(
            (
                (Part("pk", (mark, ("attribute", name))), Part("sk", ("X#", *own))),
                (Part("pk", (mark, ("attribute", name))), Part("sk", ("X#", ("column", "n")))),
                (Part("pk", (mark or "C#", ("attribute", name))),),
                (Part(name, attribute=f"@{name}"), Part("sk", ("X#", *own))),
                (Part("pk", (mark, ("attribute", name))), Part("sk")),
            )
        )
    if len(key) == 1 or draw.random() < 0.5:
        return (Part("pk", (mark, *own)),) if draw.random() < 0.5 else (
            Part("pk", (mark, *own)), Part("sk", ("#META",)),
        )  # fmt: skip
    return Part("pk", (mark, ("column", key[0]))), Part("sk", ("N", *own[2:]))


def finish_spec(
    draw: random.Random,
    i: int,
    table: str,
    key: tuple[str, ...],
    parts: tuple[Part, ...],
    references: tuple[Reference, ...],
) -> Spec:
    """An entity with its filter, identity, indexes and template."""
    identity: tuple[tuple[str, ...], ...] = ()
    if key == ("rowid",) or (any(part.is_new_id for part in parts) and draw.random() < 0.6):
        identity = draw.choice(((("s",),), (("s",), ("n", "d")), (("s", "n"),)))
    indexes: dict[str, tuple[str, ...]] = {}
    for reference in references:
        if draw.random() < 0.4 and reference.name not in {part.name for part in parts}:
            indexes[f"by-{reference.name}"] = draw.choice(((reference.name,), (reference.name, "s")))
    value: tuple[Piece, ...] = ()
    if draw.random() < 0.5:
        value = ("[", ("column", "s"), "-", ("attribute", draw.choice(("n", *(r.name for r in references)))))
    return Spec(
        f"e{i}", table, key, f"T{i}-{{environment}}", parts, references,
        draw.choice(("", "", "w > 0")), identity, indexes, value,
    )  # fmt: skip


def share_tables(draw: random.Random, specs: dict[str, Spec]) -> dict[str, Spec]:
    """Some of the entities whose keys are texts of the same names share a table."""
    chance = draw.choice((0.0, 0.6, 1.0))
    return {
        name: replace(spec, target=f"Shared{len(spec.parts)}-{{environment}}")
        if [part.name for part in spec.parts] in (["pk"], ["pk", "sk"]) and draw.random() < chance
        else spec
        for name, spec in specs.items()
    }


def show_pieces(pieces: tuple[Piece, ...]) -> str:
    return "".join(
        one if isinstance(one, str) else f"{{{'@' if one[0] == 'attribute' else ''}{one[1]}}}" for one in pieces
    )


def write_schema(world: World) -> str:
    """The tables, in SQL."""
    lines = []
    for table, key in world.keys.items():
        columns = [f"{name} {kind}" for name, kind in world.columns[table].items()]
        if key != ("rowid",):
            columns = [f"{name} {DECLARED[name]}" for name in key] + columns + [f"PRIMARY KEY ({', '.join(key)})"]
        for spec in world.specs.values() if world.declares else ():
            if spec.source == table and spec.name != "twin":
                columns += [
                    f"FOREIGN KEY ({', '.join(r.columns)}) REFERENCES {r.table} ({', '.join(r.by)})"
                    for r in spec.references
                    if r.by != ("rowid",)
                ]
        lines.append(f"CREATE TABLE {table} ({', '.join(columns)});")
    return "\n".join(lines)


def write_mapping(world: World) -> str:
    """The mapping file."""
    lines = ["name: world", "entities:"]
    for spec in world.specs.values():
        where = f', where: "{spec.where}"' if spec.where else ""
        lines += [f"  {spec.name}:", f"    source: {{table: {spec.source}, key: [{', '.join(spec.key)}]{where}}}"]
        if spec.key == ("rowid",):
            lines[-1] = f"    source: {{table: {spec.source}, key: rowid{where}}}"
        made = {
            part.name: "new_id" if part.is_new_id else "keep" if part.column else f'"{{{part.attribute}}}"'
            if part.attribute else f'"{show_pieces(part.pieces)}"' for part in spec.parts
        }  # fmt: skip
        key = ", ".join(f"{name}: {how}" for name, how in made.items())
        lines += [f'    target: {{table: "{spec.target}", key: {{{key}}}}}', "    attributes:"]
        lines += ["      s: {column: s, type: string}", "      n: {column: n, type: number}",
                  "      d: {column: d, type: date}"]  # fmt: skip
        for one in spec.references:
            parent = next(other for other in world.specs.values() if other.name == one.parent)
            more = f", by: {one.by[0]}" if one.by != parent.key else ""
            more += f", part: {one.part}" if len(parent.parts) > 1 else ""
            optional = ", optional: true" if one.optional else ""
            column = one.columns[0] if len(one.columns) == 1 else f"[{', '.join(one.columns)}]"
            lines.append(
                f"      {one.name}: {{column: {column}, references: {{entity: {one.parent}{more}}}{optional}}}"
            )
        if spec.value:
            lines.append(f'      v: {{value: "{show_pieces(spec.value)}", type: string}}')
        if spec.indexes:
            shown = ", ".join(f"{name}: [{', '.join(names)}]" for name, names in spec.indexes.items())
            lines.append(f"    indexes: {{{shown}}}")
        if spec.identity:
            lines.append(f"    identity: [{', '.join('[' + ', '.join(names) + ']' for names in spec.identity)}]")
    return "\n".join(lines) + "\n"
