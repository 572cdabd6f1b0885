"""A validator of KubeRay's CRD schemas: strict JSON Schema (no unknown fields) and the CEL rules in them."""

import gzip
import json
from functools import cache
from typing import Any

import celpy
import jsonschema
import pytest
from celpy.adapter import json_to_cel

from tests.support.paths import SHARED

FOLDER = SHARED / "kuberay-crds"
PLURALS = {"RayJob": "rayjobs", "RayCluster": "rayclusters", "RayCronJob": "raycronjobs"}


def problems(manifest: dict[str, Any]) -> list[str]:
    """The problems for which an API server would reject a KubeRay manifest. Without the schemas, skips the test."""
    schema = _schema(manifest["kind"], manifest["apiVersion"].rpartition("/")[2])
    if structural := [
        error.message for error in jsonschema.Draft202012Validator(_strict(schema)).iter_errors(manifest)
    ]:
        return structural
    return list(_cel_problems(schema, manifest))


@cache
def _text(kind: str) -> str:
    path = FOLDER / f"{PLURALS[kind]}.json.gz"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not beside this checkout ({path.parent.parent.name}/{path.parent.name})")
    return gzip.decompress(path.read_bytes()).decode()


def _schema(kind: str, version: str) -> dict[str, Any]:
    return json.loads(_text(kind))["versions"][version]


def _strict(schema: Any, is_root: bool = True) -> Any:
    """The JSON Schema of a Kubernetes OpenAPI schema, without unknown fields."""
    if not isinstance(schema, dict):
        return schema
    strict = {key: value for key, value in schema.items() if key not in ("properties", "items", "default", "format")}
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "items" in schema:
        strict["items"] = _strict(schema["items"], False)
    if isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(schema["additionalProperties"], False)
    if "properties" in schema:
        properties = {key: _strict(value, False) for key, value in schema["properties"].items()}
        if is_root:
            properties["metadata"] = {"type": "object"}  # validated by the API server itself
        strict |= {"properties": properties}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    return strict


def _cel_problems(schema: Any, value: Any) -> Any:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not _program(rule["rule"]).evaluate({"self": json_to_cel(value)}):
            yield rule["message"]
    if isinstance(value, dict):
        for key, part in value.items():
            child = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(child, dict):
                yield from _cel_problems(child, part)
    elif isinstance(value, list):
        for part in value:
            yield from _cel_problems(schema.get("items", {}), part)


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
