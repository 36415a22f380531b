"""What may differ between two deployments of the Lambda: environment variables, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from beverage_classifier.errors import ClassifierError

# A category becomes part of file names.
CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SERVICE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,62}")
TOPIC = re.compile(r"[^+#\0]+")


@dataclass(frozen=True)
class Settings:
    """The Lambda's settings; the defaults are those of the article."""

    response_topic: str = "/response/prediction/beverage_container"
    categories: tuple[str, ...] = ("beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle")
    service_name: str = "beverage-classifier"
    field_data: Path = Path("/raw_field_data")
    keep_below: float = 0.6
    keep_above: float = 0.9

    def keeps(self, confidence: float) -> bool:
        """Tell whether a picture classified with this confidence is worth labelling."""
        return confidence < self.keep_below or confidence > self.keep_above


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings that the variables ask for; raise ClassifierError for a value that cannot be meant.

    RESPONSE_TOPIC, CATEGORIES (in the order of the model's outputs, separated by commas), SERVICE_NAME,
    FIELD_DATA (a directory), KEEP_BELOW and KEEP_ABOVE (confidences from 0 to 1).
    """
    default = Settings()
    return Settings(
        response_topic=_matching(environment, "RESPONSE_TOPIC", default.response_topic, TOPIC),
        categories=_categories(environment.get("CATEGORIES", ",".join(default.categories))),
        service_name=_matching(environment, "SERVICE_NAME", default.service_name, SERVICE_NAME),
        field_data=_directory(environment.get("FIELD_DATA", str(default.field_data))),
        keep_below=_confidence(environment, "KEEP_BELOW", default.keep_below),
        keep_above=_confidence(environment, "KEEP_ABOVE", default.keep_above),
    )


def _matching(environment: Mapping[str, str], name: str, default: str, pattern: re.Pattern[str]) -> str:
    value = environment.get(name, default)
    if not pattern.fullmatch(value):
        raise ClassifierError(f"{name} must match {pattern.pattern}, unlike {value!r}; correct or unset it.")
    return value


def _categories(value: str) -> tuple[str, ...]:
    categories = tuple(category.strip() for category in value.split(","))
    for category in categories:
        if not CATEGORY.fullmatch(category):
            raise ClassifierError(
                "CATEGORIES must be names of letters, digits, '.', '_' and '-', separated by commas, unlike "
                f"{category!r}; correct or unset it."
            )
    if len(set(categories)) < len(categories):
        raise ClassifierError(f"CATEGORIES must not name a category twice, unlike {value!r}; correct it.")
    return categories


def _directory(value: str) -> Path:
    directory = Path(value)
    if not directory.is_absolute():
        raise ClassifierError(f"FIELD_DATA must be an absolute path, unlike {value!r}; correct or unset it.")
    return directory


def _confidence(environment: Mapping[str, str], name: str, default: float) -> float:
    value = environment.get(name, str(default))
    try:
        confidence = float(value)
    except ValueError:
        confidence = -1.0
    if not 0 <= confidence <= 1:
        raise ClassifierError(f"{name} must be a number from 0 to 1, unlike {value!r}; correct or unset it.")
    return confidence
