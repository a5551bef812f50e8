"""`Store` on SQLite: WAL, synchronous=FULL, one connection, one transaction a `write`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from .store import AppRecord, FunctionRecord, InputsRecord, LaneClosedRecord, LaneRecord, Record, ResultsRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS apps (
  app_id TEXT PRIMARY KEY, name TEXT NOT NULL, detach INTEGER NOT NULL, created_unix_s REAL NOT NULL,
  stopped INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS functions (function_id TEXT PRIMARY KEY, app_id TEXT NOT NULL, spec BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lanes (
  lane_id TEXT PRIMARY KEY, function_id TEXT NOT NULL, num_inputs INTEGER NOT NULL DEFAULT 0,
  num_done INTEGER NOT NULL DEFAULT 0, closed INTEGER NOT NULL DEFAULT 0, expired INTEGER NOT NULL DEFAULT 0,
  touched_unix_s REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lanes_unfinished ON lanes (lane_id) WHERE num_done < num_inputs;
CREATE TABLE IF NOT EXISTS inputs (
  lane_id TEXT NOT NULL, first_index INTEGER NOT NULL, count INTEGER NOT NULL, at_unix_s REAL NOT NULL, data BLOB NOT NULL,
  UNIQUE (lane_id, first_index));
CREATE TABLE IF NOT EXISTS results (
  id INTEGER PRIMARY KEY, lane_id TEXT NOT NULL, first_index INTEGER NOT NULL, last_index INTEGER NOT NULL,
  final_count INTEGER NOT NULL, at_unix_s REAL NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS results_by_lane ON results (lane_id, last_index);
"""
_LANE = "SELECT lane_id, function_id, num_inputs, num_done, closed, expired FROM lanes"
_RESULT = "SELECT lane_id, first_index, last_index, final_count, data, at_unix_s FROM results WHERE lane_id = ?"


class SqliteStore:
    """See `hotbed_scheduler.store.Store`. Open and use it in one thread.

    Args:
        path: The database file; made with mode 0600 (payloads are the users' data).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        # Opened by whoever builds the server, used by its writer thread alone.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._db.executescript(_SCHEMA)

    def next_generation(self) -> int:
        """See `Store`."""
        row = self._db.execute(
            "INSERT INTO meta VALUES ('generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value"
        ).fetchone()
        return int(row[0])

    def write(self, records: Iterable[Record]) -> None:
        """See `Store`."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for record in records:
                self._write_one(record)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _write_one(self, record: Record) -> None:
        run = self._db.execute
        match record:
            case InputsRecord():
                added = run(
                    "INSERT OR IGNORE INTO inputs (lane_id, first_index, count, at_unix_s, data) VALUES (?, ?, ?, ?, ?)",
                    (record.lane_id, record.first_index, record.count, record.at_unix_s, record.data),
                ).rowcount
                run(
                    "INSERT INTO lanes (lane_id, function_id, num_inputs, touched_unix_s) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (lane_id) DO UPDATE SET num_inputs = num_inputs + excluded.num_inputs, "
                    "touched_unix_s = max(touched_unix_s, excluded.touched_unix_s)",
                    (record.lane_id, record.function_id, record.count if added else 0, record.at_unix_s),
                )
            case ResultsRecord():
                known = run(
                    "UPDATE lanes SET num_done = num_done + ?, touched_unix_s = max(touched_unix_s, ?) WHERE lane_id = ?",
                    (record.final_count, record.at_unix_s, record.lane_id),
                ).rowcount
                if known:
                    run(
                        "INSERT INTO results (lane_id, first_index, last_index, final_count, at_unix_s, data) "
                        "VALUES (?, ?, ?, ?, ?, ?)",
                        (
                            record.lane_id,
                            record.first_index,
                            record.last_index,
                            record.final_count,
                            record.at_unix_s,
                            record.data,
                        ),
                    )
            case LaneClosedRecord():
                run("UPDATE lanes SET closed = 1 WHERE lane_id = ?", (record.lane_id,))
            case FunctionRecord():
                run(
                    "INSERT OR REPLACE INTO functions (function_id, app_id, spec) VALUES (?, ?, ?)",
                    (record.function_id, record.app_id, record.spec),
                )
            case AppRecord():
                run(
                    "INSERT OR REPLACE INTO apps VALUES (?, ?, ?, ?, ?)",
                    (record.app_id, record.name, record.detach, record.created_unix_s, record.stopped),
                )

    def apps(self) -> list[AppRecord]:
        """See `Store`."""
        rows = self._db.execute("SELECT app_id, name, detach, created_unix_s FROM apps WHERE NOT stopped")
        return [AppRecord(app_id, name, bool(detach), created) for app_id, name, detach, created in rows]

    def functions(self) -> list[FunctionRecord]:
        """See `Store`."""
        rows = self._db.execute(
            "SELECT function_id, app_id, spec FROM functions WHERE app_id IN (SELECT app_id FROM apps WHERE NOT stopped) "
            "OR function_id IN (SELECT function_id FROM lanes WHERE num_done < num_inputs) ORDER BY rowid"
        )
        return [FunctionRecord(*row) for row in rows]

    def lane(self, lane_id: str) -> LaneRecord | None:
        """See `Store`."""
        row = self._db.execute(f"{_LANE} WHERE lane_id = ?", (lane_id,)).fetchone()
        return None if row is None else _lane(row)

    def unfinished_lanes(self) -> list[LaneRecord]:
        """See `Store`."""
        return [_lane(row) for row in self._db.execute(f"{_LANE} WHERE num_done < num_inputs ORDER BY touched_unix_s")]

    def inputs(self, lane_id: str) -> list[InputsRecord]:
        """See `Store`."""
        rows = self._db.execute(
            "SELECT lane_id, function_id, first_index, count, data, at_unix_s FROM inputs JOIN lanes USING (lane_id) "
            "WHERE lane_id = ? ORDER BY first_index",
            (lane_id,),
        )
        return [InputsRecord(*row) for row in rows]

    def results(self, lane_id: str, indices: Sequence[int] | None = None) -> list[ResultsRecord]:
        """See `Store`."""
        if indices is None:
            return [ResultsRecord(*row) for row in self._db.execute(f"{_RESULT} ORDER BY id", (lane_id,))]
        if not indices:
            return []
        rows = self._db.execute(
            f"{_RESULT} AND last_index >= ? AND first_index <= ? ORDER BY id", (lane_id, min(indices), max(indices))
        )
        return [ResultsRecord(*row) for row in rows]

    def sweep(self, before_unix_s: float) -> int:
        """See `Store`."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("DELETE FROM lanes WHERE expired AND touched_unix_s < ?", (before_unix_s,))
            finished = self._db.execute(
                "SELECT lane_id FROM lanes WHERE NOT expired AND num_done >= num_inputs AND touched_unix_s < ?",
                (before_unix_s,),
            )
            ids = [row[0] for row in finished]
            for lane_id in ids:
                self._db.execute("DELETE FROM inputs WHERE lane_id = ?", (lane_id,))
                self._db.execute("DELETE FROM results WHERE lane_id = ?", (lane_id,))
                self._db.execute("UPDATE lanes SET expired = 1, touched_unix_s = ? WHERE lane_id = ?", (before_unix_s, lane_id))
            self._db.execute(
                "DELETE FROM functions WHERE app_id NOT IN (SELECT app_id FROM apps WHERE NOT stopped) "
                "AND function_id NOT IN (SELECT function_id FROM lanes)"
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("PRAGMA incremental_vacuum(1000)")
        return len(ids)

    def close(self) -> None:
        """See `Store`."""
        self._db.close()


def _lane(row: tuple[str, str, int, int, int, int]) -> LaneRecord:
    return LaneRecord(row[0], row[1], row[2], row[3], bool(row[4]), bool(row[5]))
