"""Does what its event asks for: answers, fails, takes too long, eats memory, asks others, publishes much."""

import json
import os
import signal
import time

import greengrasssdk

data = greengrasssdk.client("iot-data")
functions = greengrasssdk.client("lambda")
secrets = greengrasssdk.client("secretsmanager")
started = time.time()


def publish(topic, what):
    data.publish(topic=topic, payload=json.dumps(what), queueFullPolicy="AllOrException")


def function_handler(event, context):
    subject = context.client_context.custom.get("subject", "")
    answer = {"number": event.get("number"), "subject": subject, "pid": os.getpid(), "started": started}
    if "raise" in event:
        raise RuntimeError(event["raise"])
    if "kill" in event:
        os.kill(os.getpid(), signal.SIGKILL)
    if "eat" in event:
        answer["ate"] = len(b"x" * event["eat"] * 2**20)
    time.sleep(event.get("sleep", 0))
    if "read" in event:
        try:
            with open(event["read"], "rb") as file:
                answer["read"] = len(file.read())
        except OSError as error:
            answer["read"] = error.__class__.__name__
    if "secret" in event:
        try:
            answer["secret"] = secrets.get_secret_value(SecretId=event["secret"])["SecretString"]
        except Exception as error:
            answer["secret"] = str(error)
    if "shadow" in event:
        data.update_thing_shadow(thingName=event["thing"], payload=json.dumps(event["shadow"]))
        answer["shadow"] = json.loads(data.get_thing_shadow(thingName=event["thing"])["payload"])
    if "invoke" in event:
        reply = functions.invoke(FunctionName=event["invoke"], Payload=json.dumps(event.get("payload", {})))
        payload = reply["Payload"]
        answer["invoke"] = {
            "error": reply["FunctionError"],
            "payload": (payload.read() if hasattr(payload, "read") else payload).decode(),
        }
    publish("echo/answer", answer)
    if "elsewhere" in event:
        publish(event["elsewhere"], answer)
    return answer
