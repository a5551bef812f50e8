"""`make bench`: every table of this folder, one plot. Run: `python benchmarks`."""

from __future__ import annotations

import calls
import cold_start
import harness

rows = [*calls.main([]), *cold_start.main()]
print()
print(harness.markdown(rows))
harness.plot(rows, harness.OUT / "bench.png")
print(f"\nplot: {harness.OUT / 'bench.png'}; {sum(row.met for row in rows)} of {len(rows)} targets met")
