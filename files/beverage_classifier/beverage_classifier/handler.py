"""The handler: take a picture, have it classified on the device, publish the answer.

A capture is written before anything else is tried, and goes away only after the answer is published. Whatever
fails in between leaves it in the field data.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
from functools import cached_property
from typing import Any

import pi_camera

from beverage_classifier import captures, settings
from beverage_classifier.errors import ClassifierError

ALGORITHM = "image-classification"

_log = logging.getLogger(__name__)


class Classifier:
    """One camera and the two clients of the core, each opened when it is first needed and then kept."""

    def __init__(self, chosen: settings.Settings) -> None:
        """Remember the settings; nothing is opened yet."""
        self._settings = chosen
        self._camera: pi_camera.Camera | None = None

    def answer(self, keep: bool = True) -> dict[str, str]:
        """Take, classify and publish one picture; return what was published.

        Without `keep` the rule for field data is not asked; a picture whose handling fails stays all the same.
        """
        picture = self._take_picture()
        capture = captures.save(self._settings.field_data, picture)
        category, confidence = self._classify(picture)
        reply = {"message": f"Classified image as {category} with a confidence of {confidence}"}
        self._iot_data.publish(topic=self._settings.response_topic, payload=json.dumps(reply))
        if keep and self._settings.keeps(confidence):
            capture.keep(category, confidence)
        else:
            capture.discard()
        return reply

    def _take_picture(self) -> bytes:
        try:
            if self._camera is None:
                self._camera = pi_camera.open_camera()
            return self._camera.capture_jpeg()
        except pi_camera.CameraError:
            self._let_go_of_camera()
            raise

    def _let_go_of_camera(self) -> None:
        """Close the camera, so that the next event opens it afresh."""
        camera, self._camera = self._camera, None
        try:
            if camera is not None:
                camera.close()
        except pi_camera.CameraError as error:
            _log.warning("%s", error)

    def _classify(self, picture: bytes) -> tuple[str, float]:
        """Return the likeliest category and its confidence."""
        response = self._inference.invoke_inference_service(
            AlgoType=ALGORITHM,
            ServiceName=self._settings.service_name,
            ContentType="image/jpeg",
            Body=picture,
        )
        confidences = parse_confidences(response["Body"].read(), len(self._settings.categories))
        likeliest = max(range(len(confidences)), key=confidences.__getitem__)
        return self._settings.categories[likeliest], confidences[likeliest]

    @cached_property
    def _iot_data(self) -> Any:
        # Without it the SDK's publish does nothing and says nothing: captures would go away unanswered.
        if not os.environ.get("MY_FUNCTION_ARN"):
            raise ClassifierError("MY_FUNCTION_ARN is not set: nothing is published; run this as a Lambda.")
        return importlib.import_module("greengrasssdk").client("iot-data")

    @cached_property
    def _inference(self) -> Any:
        return importlib.import_module("greengrass_machine_learning_sdk").client("inference")


def parse_confidences(body: bytes, categories: int) -> list[float]:
    """Return the numbers of a reply such as b"[0.1,0.7]": finite, and as many as `categories`."""
    try:
        values = json.loads(body.decode())
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise ValueError("it is no list of numbers")
        confidences = [float(value) for value in values]
        if not all(math.isfinite(confidence) for confidence in confidences):
            raise ValueError("not all of its numbers are finite")
    except (ValueError, OverflowError, RecursionError) as error:
        raise ClassifierError(
            f"The inference service's reply {body[:80]!r} cannot be used ({error}); check its model."
        ) from error
    if len(confidences) != categories:
        raise ClassifierError(
            f"The model gave {len(confidences)} confidences for {categories} categories; set CATEGORIES to "
            "those that it was trained with."
        )
    return confidences


_classifier = Classifier(settings.from_environment(os.environ))


def may_keep(event: object) -> bool:
    """Say whether a message leaves the picture to the rule for field data: all do, but for `{"keep": false}`."""
    try:
        message = json.loads(event) if isinstance(event, bytes) else event
    except (ValueError, RecursionError):
        return True
    return not (isinstance(message, dict) and message.get("keep") is False)


def function_handler(event: object, context: object) -> None:
    """Answer one message, whatever it says, by publishing: as the article's, it returns nothing."""
    _classifier.answer(may_keep(event))
