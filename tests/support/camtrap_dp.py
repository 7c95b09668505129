"""What Camtrap DP 1.0.2 (https://camtrap-dp.tdwg.org/data) requires of its tables and of datapackage.json."""

from typing import Any

_TIME = "%Y-%m-%dT%H:%M:%S%z"
_MEDIA_TYPE, _PATH = "^(image|video|audio)/.*$", r"^(?=^[^./~])(^((?!\.{2}).)*$).*$"
_TYPES = ("animal", "human", "vehicle", "blank", "unknown", "unclassified")
_FEATURES = (
    *("roadPaved", "roadDirt", "trailHiking", "trailGame", "roadUnderpass", "roadOverpass", "roadBridge", "culvert"),
    *("burrow", "nestSite", "carcass", "waterSource", "fruitingTree"),
)
# All fields in the order of the standard: a name, then "!" if it is required and "*" if it is unique; its type, if that
# is not text; what limits it: least and largest, or the values that it may have, or a pattern.
_FIELDS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "deployments": (
        *(("deploymentID!*",), ("locationID",), ("locationName",)),
        *(("latitude!", "number", -90, 90), ("longitude!", "number", -180, 180)),
        *(("coordinateUncertainty", "integer", 1), ("deploymentStart!", "datetime"), ("deploymentEnd!", "datetime")),
        *(("setupBy",), ("cameraID",), ("cameraModel",), ("cameraDelay", "integer", 0), ("cameraHeight", "number", 0)),
        *(("cameraDepth", "number", 0), ("cameraTilt", "integer", -90, 90), ("cameraHeading", "integer", 0, 360)),
        *(("detectionDistance", "number", 0), ("timestampIssues", "boolean"), ("baitUse", "boolean")),
        *(("featureType", "string", _FEATURES), ("habitat",), ("deploymentGroups",), ("deploymentTags",)),
        ("deploymentComments",),
    ),
    "media": (
        *(("mediaID!*",), ("deploymentID!",), ("captureMethod", "string", ("activityDetection", "timeLapse"))),
        *(("timestamp!", "datetime"), ("filePath!", "string", _PATH), ("filePublic!", "boolean"), ("fileName",)),
        *(("fileMediatype!", "string", _MEDIA_TYPE), ("exifData", "any"), ("favorite", "boolean"), ("mediaComments",)),
    ),
    "observations": (
        *(("observationID!*",), ("deploymentID!",), ("mediaID",), ("eventID",)),
        *(("eventStart!", "datetime"), ("eventEnd!", "datetime"), ("observationLevel!", "string", ("media", "event"))),
        *(("observationType!", "string", _TYPES), ("cameraSetupType", "string", ("setup", "calibration"))),
        *(("scientificName",), ("count", "integer", 1), ("lifeStage", "string", ("adult", "subadult", "juvenile"))),
        *(("sex", "string", ("female", "male")), ("behavior",), ("individualID",)),
        *(("individualPositionRadius", "number", 0), ("individualPositionAngle", "number", -90, 90)),
        *(("individualSpeed", "number", 0), ("bboxX", "number", 0, 1), ("bboxY", "number", 0, 1)),
        *(("bboxWidth", "number", 1e-15, 1), ("bboxHeight", "number", 1e-15, 1)),
        *(("classificationMethod", "string", ("human", "machine")), ("classifiedBy",)),
        *(("classificationTimestamp", "datetime"), ("classificationProbability", "number", 0, 1)),
        *(("observationTags",), ("observationComments",)),
    ),
}
_KEYS = {
    "deployments": (),
    "media": (("deploymentID", "deployments"),),
    "observations": (("deploymentID", "deployments"), ("mediaID", "media")),
}
_DESIGNS = ["simpleRandom", "systematicRandom", "clusteredRandom", "experimental", "targeted", "opportunistic"]
_ROLES = ["contact", "principalInvestigator", "rightsHolder", "publisher", "contributor"]
PACKAGE = {  # JSON schema of datapackage.json
    "required": ["resources", "profile", "created", "contributors", "project", "spatial", "temporal", "taxonomic"],
    "properties": {
        "contributors": {
            "minItems": 1,
            "items": {"required": ["title"], "properties": {"role": {"enum": _ROLES}}},
        },
        "project": {
            "required": ["title", "samplingDesign", "captureMethod", "individualAnimals", "observationLevel"],
            "properties": {
                "samplingDesign": {"enum": _DESIGNS},
                "captureMethod": {"items": {"enum": ["activityDetection", "timeLapse"]}, "minItems": 1},
                "individualAnimals": {"type": "boolean"},
                "observationLevel": {"items": {"enum": ["media", "event"]}},
            },
        },
        "temporal": {"required": ["start", "end"], "additionalProperties": {"pattern": r"^\d{4}-\d\d-\d\d$"}},
        "taxonomic": {
            "items": {
                "required": ["scientificName"],
                "properties": {
                    "taxonRank": {"enum": ["kingdom", "phylum", "class", "order", "family", "genus", "species"]}
                },
            }
        },
        "resources": {
            "minItems": 3,
            "items": {
                "required": ["name", "path", "profile", "schema"],
                "properties": {
                    "profile": {"const": "tabular-data-resource"},
                    "schema": {"pattern": r"^https://.*/1\.0\.2/(deployments|media|observations)-table-schema\.json$"},
                },
            },
        },
    },
}


def table_schema(name: str) -> dict[str, Any]:
    """The table schema of a resource."""
    keys = [
        {"fields": [field], "reference": {"resource": resource, "fields": [field]}} for field, resource in _KEYS[name]
    ]
    return {"fields": [_field(*field) for field in _FIELDS[name]]} | ({"foreignKeys": keys} if keys else {})


def _field(name: str, kind: str = "string", *limits: Any) -> dict[str, Any]:
    constraints: dict[str, Any] = {"required": "!" in name, "unique": "*" in name}
    if limits and isinstance(limits[0], tuple):
        constraints["enum"] = list(limits[0])
    elif limits and isinstance(limits[0], str):
        constraints["pattern"] = limits[0]
    else:
        constraints |= dict(zip(("minimum", "maximum"), limits, strict=False))
    form = {"format": _TIME} if kind == "datetime" else {}
    return {"name": name.rstrip("!*"), "type": kind, "constraints": constraints} | form
