"""Reads the file of an offline W&B run, for which wandb has no public reader.

The file is a LevelDB log (github.com/google/leveldb/blob/main/doc/log_format.md) of protobuf
records after a header of 7 bytes.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK = 32768


def read_records(path: Path) -> Iterator[Record]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left  # a block's end too short for a header is padding
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read_run(directory: Path) -> dict[str, Any]:
    """Return `config`, `history` and `artifacts` (lists of dicts) of a directory's only run."""
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    config: dict[str, Any] = {}
    history, artifacts = [], []
    for record in read_records(path):
        for update in (*record.run.config.update, *record.config.update):
            config[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        if record.HasField("history"):
            items = record.history.item
            history.append(
                {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
            )
        if record.HasField("artifact"):
            artifact = record.artifact
            artifacts.append(
                {
                    "name": artifact.name,
                    "type": artifact.type,
                    "aliases": list(artifact.aliases),
                    "metadata": json.loads(artifact.metadata or "{}"),
                    "files": {c.path: Path(c.local_path) for c in artifact.manifest.contents},
                }
            )
    return {"config": config, "history": history, "artifacts": artifacts}
