"""Eyeriss's silicon (JSSC 2017, Table V) beside the model with the mapping of Table III, into benchmarks/records/eyeriss.json.

    LAMINA_SHARED=DIR python benchmarks/eyeriss.py

The paper's tables lie in DIR/reference/hardware; the layers are evaluated as `tests/hardware/test_validation.py` does.
"""

import sys
from pathlib import Path

import record
import tables

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.hardware.test_validation import eyeriss_table


def main() -> None:
    rows = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in eyeriss_table()]
    print(tables.eyeriss(rows))
    record.write("eyeriss", record.provenance(), rows=rows)


if __name__ == "__main__":
    main()
