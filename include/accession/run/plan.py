"""The plan of a run: the totals of its change set, before anything is written. Approval shows these numbers.

The plan adds up the staged entities, prices the writes, estimates the duration, and says if a policy refuses the run.
"""

import csv
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accession.artifacts import Change, EntityPlan, Plan, StagedEntity, Store, list_rejects
from accession.errors import RefusedError
from accession.items import MASK, KeyMask, TypedItem
from accession.mapping import Mapping
from accession.progress import show_seconds
from accession.run.context import RunContext
from accession.run.lookups import LOOK_UPS
from accession.run.reconcile import READ_UNIT_BYTES

# US dollars for a million units on demand in us-east-1 (AWS page "Pricing for On-Demand Capacity"; regions differ).
WRITE_PRICE = Decimal("0.625")
READ_PRICE = Decimal("0.125")
# Write units per second of a new on-demand table (Developer Guide, "On-demand capacity mode", initial throughput).
NEW_TABLE_WRITE_UNITS = 4000
# US dollars for 10⁹ bytes of uncompressed data by ImportTable. The number is widely quoted, but we found no AWS page
# that confirms it, and no price of bulk put items.
IMPORT_PRICE = Decimal("0.15")
IMPORT_SAVES = Decimal(1)  # dollars that ImportTable must save before the plan mentions it
SAMPLES = 5


def make_plan(run: RunContext) -> Plan:
    """Write `plan.json` and `rejects.csv`. Safe to repeat: the plan of an earlier attempt is kept.

    A plan that the policies refuse is written too, with the reason (see `refuse_plan`).
    """
    started = run.host.timestamp()
    found = run.folder.find_plan()
    if found is not None:
        return found
    entities = {name: run.folder.load_staged(name) for name in run.mapping.order}
    _write_rejects(run, entities)
    counts = [staged.counts for staged in entities.values()]
    write_units = sum(count.write_units for count in counts)
    read_units = sum(count.read_units + count.reread_units for count in counts)
    writes = sum(count.put + count.updated + count.deleted for count in counts)
    is_proved = writes or run.params.seal
    proof_units = sum(_estimate_proof(run, staged) for staged in entities.values()) if is_proved else 0.0
    rate = run.params.write_units_per_second or NEW_TABLE_WRITE_UNITS
    plan = Plan(
        run=run.name,
        entities={name: _plan_entity(run, staged) for name, staged in entities.items()},
        writes=writes,
        rejected=sum(count.rejected for count in counts),
        conflicts=sum(count.conflicts for count in counts),
        write_units=write_units,
        read_units=read_units,
        proof_read_units=proof_units,
        price_usd=price_units(write_units, read_units + proof_units),
        seconds=round(write_units / rate, 1),
        records_changed=any(staged.records_changed for staged in entities.values()),
        refused=_find_refusal(run, entities),
        started_at=started,
        ended_at=run.host.timestamp(),
    )
    run.store.claim(run.folder.path("plan.json"), plan.dump())
    return run.folder.load_plan()


def _plan_entity(run: RunContext, staged: StagedEntity) -> EntityPlan:
    return EntityPlan(
        table=staged.table,
        counts=staged.counts,
        rejects=staged.rejects,
        kept_back=staged.counts.kept_back + staged.counts.rejected,
        samples=list(islice(_show_changes(run, staged), SAMPLES)),
    )


def _estimate_proof(run: RunContext, staged: StagedEntity) -> float:
    """Return the read units of proving a table that holds our items alone: one scan, and the look-ups.

    A scan takes a unit for each 4 KB of the table, a look-up through an index half of one for each 4 KB of an item
    (Developer Guide, "Capacity unit consumption": it is eventually consistent).
    """
    counts, entity = staged.counts, run.mapping.entities[staged.entity]
    indexes = [index for index in run.mapping.indexes[staged.entity] if all(map(entity.may_have, index.names))]
    items = counts.source_rows - counts.rejected
    if not items:
        return 0.0
    look_ups = len(indexes) * min(items, LOOK_UPS)
    return ceil(counts.item_bytes / READ_UNIT_BYTES) + look_ups * ceil(counts.item_bytes / items / READ_UNIT_BYTES) / 2


def price_units(write_units: float, read_units: float) -> Decimal:
    """Return the price of units on demand, in US dollars."""
    price = Decimal(str(write_units)) * WRITE_PRICE + Decimal(str(read_units)) * READ_PRICE
    return (price / 1_000_000).quantize(Decimal("0.000001"))


def refuse_plan(plan: Plan) -> None:
    """Raise RefusedError if the policies refuse the plan. Nothing has been written to DynamoDB by then."""
    if plan.refused:
        raise RefusedError(plan.refused)


def _find_refusal(run: RunContext, entities: dict[str, StagedEntity]) -> str | None:
    counts = [staged.counts for staged in entities.values()]
    for name, count in zip(entities, counts, strict=True):
        if count.renumbered * 10 > count.matched and not run.params.allow_renumbered:
            return (
                f"{count.renumbered:,} of {count.matched:,} rows of entity {name} are not what the last run found "
                "under their row ids, over 10 %: nothing was written. VACUUM may have renumbered them. Restore the "
                "source as it was, or set allow_renumbered to write them as other things."
            )
    rejected = sum(count.rejected for count in counts)
    conflicts = sum(count.conflicts for count in counts)
    allowed = run.params.max_rejects
    if rejected > allowed:
        return (
            f"{rejected:,} rows cannot be migrated and {allowed:,} are allowed: nothing was written. Correct the "
            f"rows listed in {run.folder.uri('rejects.csv')}, or raise max_rejects."
        )
    if conflicts and run.params.on_conflict == "refuse":
        return (
            f"{conflicts:,} items were changed in the target since we wrote them: nothing was written. They are the "
            f"lines with op conflict in {run.folder.uri('changes/')}. Set on_conflict to keep or overwrite."
        )
    return None


def _write_rejects(run: RunContext, entities: dict[str, StagedEntity]) -> None:
    """Write `rejects.csv`: each row, its reason, whether its earlier item is held, and its status since the head."""
    with TemporaryDirectory(prefix="accession-") as folder:
        file = Path(folder) / "rejects.csv"
        with file.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["entity", "table", "key", "column", "reason", "held", "since"])
            for name, staged in entities.items():
                mask = run.find_mask(name)
                if any(staged.rejects.values()):
                    id_map = _fetch_id_map(run.store, staged, folder)
                    rejects = list_rejects(id_map, _fetch_head(run, name, folder))
                    for row, since in rejects:
                        key, held = mask.cover(row.old_key), "yes" if row.held else "no"
                        writer.writerow([name, staged.table, key, row.column, row.reason, held, since])
        run.store.upload(run.folder.path("rejects.csv"), file)


def _fetch_id_map(store: Store, staged: StagedEntity, folder: str, name: str = "id_map.db") -> Path:
    return store.download(store.path(staged.id_map), Path(folder) / name, staged.id_map_sha256)


def _fetch_head(run: RunContext, entity: str, folder: str) -> Path | None:
    if run.head is None or entity not in run.head.load_plan().entities:
        return None
    return _fetch_id_map(run.store, run.head.load_staged(entity), folder, "head.db")


def _show_changes(run: RunContext, staged: StagedEntity) -> Iterator[str]:
    """Yield a line for each change of an entity, with sensitive values masked."""
    for part in staged.parts:
        for change in run.folder.read_changes(staged.entity, part):
            yield show_change(run.mapping, staged.entity, run.find_mask(staged.entity), change)


def show_change(mapping: Mapping, entity: str, mask: KeyMask, change: Change) -> str:
    """Return a change in one line, with sensitive values and secret keys masked."""
    head = f"{change.op} {mask.show(change.old_key)}"
    if change.key:
        head = f"{head} → {mask.show(change.key)}"
    if change.op == "reject":
        return f"{head}: {change.reason}"
    if change.op == "update" and change.before and change.item:
        changed = {n: v for n, v in change.item.items() if change.before.get(n) != v}
        gone = [n for n in change.before if n not in change.item]
        return f"{head}: {_show_item(mapping, entity, changed)}{''.join(f', without {name}' for name in gone)}"
    return f"{head}: {change.reason or _show_item(mapping, entity, change.item or change.before or {})}"


def _show_item(mapping: Mapping, entity: str, item: TypedItem) -> str:
    shown = []
    attributes, keys = mapping.entities[entity].attributes, mapping.entities[entity].target.keys
    for name, value in item.items():
        if name in keys:
            continue
        is_masked = name not in attributes or mapping.is_sensitive(entity, name)
        text: Any = MASK if is_masked else next(iter(value.values()))
        text = "NULL" if text is True and "NULL" in value else " ".join(str(text).split())
        shown.append(f"{name}={text if len(text) <= 40 else text[:39] + '…'}")
    return ", ".join(shown)


def _show_import(plan: Plan) -> list[str]:
    """Return a line on AWS's own import from S3 if it would be cheaper. It loads only new tables."""
    price = Decimal(sum(entity.counts.put_bytes for entity in plan.entities.values())) / 10**9 * IMPORT_PRICE
    puts_only = plan.writes == sum(entity.counts.put for entity in plan.entities.values())
    if not puts_only or plan.price_usd - price < IMPORT_SAVES:
        return []
    return [
        "",
        f"AWS's ImportTable would load these puts for about ${price:,.2f} instead of ${plan.price_usd:,.2f}, but only "
        "into tables that do not exist yet, and it neither counts duplicates nor can be undone. Bulk put items loads "
        "existing tables; its price is not known here.",
    ]


def _show_price(price: Decimal) -> str:
    return f"about ${price:,.2f}" if price >= Decimal("0.01") else "less than a cent"


def show_plan(plan: Plan, *, samples: bool = True) -> str:
    """Return the plan as Markdown: with samples of the changes for the approval, without them for the log."""
    writes = f"{plan.writes:,} item{'' if plan.writes == 1 else 's'} to write"
    left_out = f", {plan.rejected:,} row{'' if plan.rejected == 1 else 's'} left out" if plan.rejected else ""
    lines = [
        f"**Run {plan.run}: {writes}{left_out}**",
        "",
        "| entity | table | put | update | delete | unchanged | rejected | conflicts |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, entity in plan.entities.items():
        counts = entity.counts
        numbers = (
            counts.put, counts.updated, counts.deleted, counts.unchanged, counts.rejected, counts.conflicts,
        )  # fmt: skip
        lines.append(f"| {name} | {entity.table} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    lines += [
        "",
        f"{plan.write_units:,} write units and {plan.read_units + plan.proof_read_units:,.0f} read units, the proof's "
        f"included: {_show_price(plan.price_usd)} on demand (us-east-1), "
        f"{show_seconds(plan.seconds)} at the rate of a new table or the cap.",
    ]
    lines += _show_import(plan)
    for name, entity in plan.entities.items():
        if samples and entity.samples:
            lines += ["", f"**{name}**, for example", ""]
            lines += [f"- `{sample.replace('`', 'ʼ')}`" for sample in entity.samples]
    return "\n".join(lines)
