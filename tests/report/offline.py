"""What lies in an offline run of W&B: its log is LevelDB's, of protocol buffers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_FILE_HEADER, _HEADER, _BLOCK, _ENDS = 7, 7, 32768, (1, 4)


class Offline(NamedTuple):
    """One run: what it is called, its rows, its summary, its steps and how it ended."""

    record: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    steps: dict[str, str]
    exit_code: int | None


def read_offline(path: Path) -> Offline:
    """Read ``run-<id>.wandb``."""
    from wandb.proto.wandb_internal_pb2 import Record

    run: Any = None
    config, history, summary, steps, exit_code = {}, [], {}, {}, None
    for data in _records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run, config = record.run, config | _values(record.run.config.update)
        elif kind == "config":
            config |= _values(record.config.update)
        elif kind == "history":
            history.append(_values(record.history.item))
        elif kind == "summary":
            summary |= _values(record.summary.update)
        elif kind == "metric" and record.metric.step_metric:
            steps[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            exit_code = record.exit.exit_code
    return Offline(run, config, history, summary, steps, exit_code)


def _values(items: Any) -> dict[str, Any]:
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def _records(data: bytes) -> Iterator[bytes]:
    at, whole = _FILE_HEADER, b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:  # the rest of a block holds no header
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in _ENDS:
            yield whole
            whole = b""
