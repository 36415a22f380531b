"""Started on demand: gives back its event and what it was told about itself."""

import os


def function_handler(event, context):
    return {
        "event": event,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "greeting": os.environ["GREETING"],
    }
