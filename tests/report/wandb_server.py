"""As much of W&B's server as saving a report asks for, on this machine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

_TIME = "2026-01-01T00:00:00"
_USER = {
    **dict.fromkeys(("id", "entity", "name", "username", "email"), "me"),
    "admin": False,
    "flags": "{}",
    "deletedAt": None,
    **{key: {"edges": []} for key in ("apiKeys", "teams")},
}
_PROJECT = {"id": "p", "name": "kdci", "entityName": "me"}


@contextmanager
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the reports of its one project, which are those that were saved there."""
    reports: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = _answer(asked["query"], asked.get("variables") or {}, reports)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": data}).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", reports
        finally:
            http.shutdown()
            thread.join()


def _answer(
    query: str, variables: dict[str, Any], reports: list[dict[str, Any]]
) -> dict[str, Any]:
    if "upsertView" in query:
        return {"upsertView": {"view": _saved(variables, reports), "inserted": True}}
    if "allViews" in query:
        return {"project": {"allViews": _page(reports)}}
    if "models(" in query:
        project = {**_PROJECT, "createdAt": _TIME, "isBenchmark": False, "user": _USER}
        return {"models": _page([project])}
    return {"viewer": _USER}


def _saved(variables: dict[str, Any], reports: list[dict[str, Any]]) -> dict[str, Any]:
    identity = variables.get("id") or f"report{len(reports)}"
    wanted = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
    report = {"id": identity, **wanted, "project": _PROJECT, "updatedAt": _TIME}
    reports[:] = [*(each for each in reports if each["id"] != identity), report]
    return report


def _page(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    edges = [{"node": node, "cursor": "c"} for node in nodes]
    return {"edges": edges, "pageInfo": {"endCursor": "c", "hasNextPage": False}}
