"""Describe Parquet files in Croissant 1.1, which search engines and loaders of data sets read.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from bioclip_lite.utils.files import read_json

CONTEXT = Path(__file__).with_name("croissant_context.json")  # the terms of the specification
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
_KINDS = {"string": "sc:Text", "uint64": "cr:UInt64", "int8": "cr:Int8", "float": "cr:Float32"}


def describe(name: str, description: str, licence: str | None, tables: dict[str, tuple[str, pa.Schema]]) -> Any:
    """Make the content of croissant.json.

    Args:
        tables: name of a set of records -> (pattern of its files' names, their columns).
    """
    return {
        "@context": read_json(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description,
        **({"license": licence} if licence else {}),
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": f"{table}-files",
                "encodingFormat": "application/x-parquet",
                "includes": pattern,
            }
            for table, (pattern, _) in tables.items()
        ],
        "recordSet": [
            {"@type": "cr:RecordSet", "@id": table, "field": [_field(table, column) for column in schema]}
            for table, (_, schema) in tables.items()
        ],
    }


def _field(table: str, column: pa.Field) -> dict[str, Any]:
    listed = pa.types.is_fixed_size_list(column.type)
    kind = column.type.value_type if listed else column.type
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{column.name}",
        "dataType": _KINDS[str(kind)],
        **({"isArray": True, "arrayShape": "-1"} if listed else {}),
        "source": {"fileSet": {"@id": f"{table}-files"}, "extract": {"column": column.name}},
    }
