# Written as samples of 2018 were, and not touched since: the camera opened at import, boto3 imported, np.float used.
import json
import logging
import os
import time

import boto3
import greengrass_machine_learning_sdk as ml
import greengrasssdk
import numpy as np
from picamera import PiCamera

logger = logging.getLogger()
logger.setLevel(logging.INFO)

client = greengrasssdk.client("iot-data")
mlclient = ml.client("inference")

camera = PiCamera()
camera.resolution = (400, 400)
session = boto3.session.Session

path = "/raw_field_data"
categories = ["beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle"]


def predict(filename):
    with open(filename, "rb") as f:
        image = f.read()
    try:
        response = mlclient.invoke_inference_service(
            AlgoType="image-classification",
            ServiceName="beverage-classifier",
            ContentType="image/jpeg",
            Body=image,
        )
    except ml.GreengrassInferenceException as e:
        logger.info('inference exception %s("%s")', e.__class__.__name__, e)
        raise
    except ml.GreengrassDependencyException as e:
        logger.info('dependency exception %s("%s")', e.__class__.__name__, e)
        raise
    predictions = response["Body"].read()[1:-1]
    return np.array([np.float(x) for x in predictions.decode().split(",")], dtype=np.float)


def function_handler(event, context):
    filename = os.path.join(path, "%d.jpg" % int(time.time() * 1000))
    camera.capture(filename)
    try:
        predictions = predict(filename)
    except Exception as e:
        logger.error("%s", e)
        raise
    best = np.int(np.argmax(predictions))
    message = {
        "message": "Classified image as {} with a confidence of {}".format(categories[best], str(predictions[best])),
        "subject": context.client_context.custom["subject"],
    }
    client.publish(topic="/article/response", payload=json.dumps(message))
    os.remove(filename)
    return
