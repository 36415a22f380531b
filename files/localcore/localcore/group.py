"""The group: what runs on a device and what may reach what, in the shape of the Greengrass V1 API's definitions.

A definition is what `aws greengrass create-*-definition-version` took, or the whole reply of
`get-*-definition-version`. What the local core cannot serve is refused, all of it in one list, and never ignored.

`python3 -m localcore.group FILE` checks a file. Standard library only: the control node uses this module too.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from localcore import arn as arns
from localcore import topics
from localcore.errors import LocalCoreError

CLOUD = "cloud"
SHADOW = "GGShadowService"
INFERENCE = "GG-ML-INF-image-classification-"
CURRENT = "AWSCURRENT"

DEFINITIONS = {
    "CoreDefinition": "Cores",
    "FunctionDefinition": "Functions",
    "ConnectorDefinition": "Connectors",
    "ResourceDefinition": "Resources",
    "SubscriptionDefinition": "Subscriptions",
    "DeviceDefinition": "Devices",
    "LoggerDefinition": "Loggers",
}
# What the replies of the API hold beside the definition itself.
ENVELOPE = {"Arn", "CreationTimestamp", "Id", "NextToken", "ResponseMetadata", "Version"}
GROUP_ENVELOPE = {"Arn", "CreationTimestamp", "Id", "LastUpdatedTimestamp", "LatestVersion", "LatestVersionArn"}

CONNECTOR_ARN = re.compile(r"arn:aws[a-z-]*:greengrass:[a-z0-9-]+::/connectors/([A-Za-z0-9-]+)/versions/[0-9]+")
CONNECTORS = {
    "ImageClassificationARMv7",
    "ImageClassificationx86-64",
    "ImageClassificationaarch64",
}
SECRET_ARN = re.compile(
    r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]*:[0-9]*:secret:([A-Za-z0-9/_+=.@-]+?)(-[A-Za-z0-9]{6})?"
)
THING_ARN = re.compile(r"arn:aws[a-z-]*:iot:[a-z0-9-]*:[0-9]*:thing/(.+)")
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
# A function's name becomes part of the names of units and files.
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
SERVICE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,62}")
HANDLER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Paths and groups go into systemd units, where other characters mean something.
PATH = re.compile(r"/[A-Za-z0-9/._@+,=~-]*")
GROUP_OWNER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
POSITIVE = re.compile(r"[1-9][0-9]{0,11}")

SMALLEST_MEMORY = 16 * 1024
LARGEST_MEMORY = 16 * 1024 * 1024
LONGEST_TIMEOUT = 24 * 3600
HIGHEST_ID = 2**32 - 2

OWN_VARIABLES = frozenset(
    {
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_DEFAULT_REGION",
        "AWS_IOT_THING_NAME",
        "AWS_REGION",
        "ENCODING_TYPE",
        "GG_DAEMON_PORT",
        "GGC_MAX_INTERFACE_VERSION",
        "GGC_VERSION",
        "GROUP_ID",
        "HOME",
        "LAMBDA_HANDLER",
        "LAMBDA_TIMEOUT",
        "MY_FUNCTION_ARN",
        "PYTHONPATH",
        "ROUTER_FUNCTION_ARN",
        "RUNTIME_DIRECTORY",
        "SECRETS_MANAGER_FUNCTION_ARN",
        "SHADOW_FUNCTION_ARN",
    }
)
# Where a bind would hide or reveal the system itself.
SYSTEM_PATHS = ("/dev", "/proc", "/sys")
# Disks, memory, the kernel's log: who has them has the device. And folders where links lead to such.
PRIVILEGED_NODE = re.compile(
    r"/dev/(mmcblk|nvme|loop|ram|zram|dm-|md|nbd|mtd|mtdblock|ubi|sr|sg|bcache)[0-9].*"
    r"|/dev/(sd|hd|vd|xvd)[a-z].*"
    r"|/dev/(mem|kmem|port|kmsg|core|root|nvram|snapshot|loop-control|initctl)"
    r"|/dev/(block|bsg|char|cpu|disk|fd|mapper|md|mqueue|pts|raw|shm|vfio)(/.*)?"
)
# Groups whose members can become root, or read keys of others, with the number that Debian fixes for some.
PRIVILEGED_GROUPS: dict[str, int | None] = {
    "root": 0,
    "disk": 6,
    "kmem": 15,
    "sudo": 27,
    "shadow": 42,
    **dict.fromkeys(("docker", "incus-admin", "libvirt", "localcore", "lxd", "mosquitto", "ssl-cert", "wheel")),
}
# A group as V1 exports it has 9 levels.
DEEPEST = 32


class GroupError(LocalCoreError):
    """What is wrong with a group, all of it."""

    def __init__(self, problems: Iterable[str]) -> None:
        """Take the problems, each one sentence."""
        self.problems = tuple(problems)
        super().__init__("\n".join(f"- {problem}" for problem in self.problems))


@dataclass(frozen=True)
class RunAs:
    """The user and group that a function runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Function:
    """A Lambda; `access` maps the ids of resources to 'ro' or 'rw'; `memory_kib` is 0 where V1 set no limit."""

    arn: str
    name: str
    pinned: bool
    timeout: float
    memory_kib: int
    encoding: str
    handler: str
    variables: Mapping[str, str]
    run_as: RunAs | None
    access: Mapping[str, str]
    isolated: bool
    access_sysfs: bool


@dataclass(frozen=True)
class Connector:
    """A local inference service; `model` is the id of its model's resource."""

    id: str
    arn: str
    service: str
    timeout: float
    memory_kib: int
    model: str

    @property
    def function_name(self) -> str:
        """The name under which Lambdas invoke the service."""
        return INFERENCE + self.service

    @property
    def function_arn(self) -> str:
        """The ARN under which the service takes its work."""
        return f"arn:aws:lambda:{self.arn.split(':')[3]}:aws:function:{self.function_name}"


@dataclass(frozen=True)
class Volume:
    """A directory or file of the device that a function sees at `destination`.

    The function is in the group `group_owner`; with `auto_group`, in the group that owns the source.
    """

    id: str
    name: str
    source: str
    destination: str
    group_owner: str | None
    auto_group: bool


@dataclass(frozen=True)
class DeviceNode:
    """A device node that a function may use; the groups are those of a volume."""

    id: str
    name: str
    source: str
    group_owner: str | None
    auto_group: bool


@dataclass(frozen=True)
class Secret:
    """A secret; `name` is its friendly name, which the ARN holds with six random characters after it."""

    id: str
    name: str
    arn: str


@dataclass(frozen=True)
class Model:
    """A model that functions and connectors of V1 found unpacked at `destination`."""

    id: str
    name: str
    destination: str


Resource = Volume | DeviceNode | Secret | Model


@dataclass(frozen=True)
class Subscription:
    """Messages on `subject` that go from `source` to `target`.

    Both are 'cloud', 'GGShadowService', or the ARN of a function or connector as the group writes it.
    """

    id: str
    source: str
    subject: str
    target: str


@dataclass(frozen=True)
class Group:
    """All of it; `resources` by their ids."""

    name: str
    thing: str
    functions: tuple[Function, ...]
    connectors: tuple[Connector, ...]
    resources: Mapping[str, Resource]
    subscriptions: tuple[Subscription, ...]


def load(path: Path) -> Group:
    """Return the group in a file; raise GroupError with all that is wrong with it."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise GroupError([f"The group {path} cannot be read ({error.strerror}); check the file."]) from error
    except (ValueError, RecursionError) as error:
        raise GroupError([f"The group {path} is no JSON ({error}); correct or export it again."]) from error
    return parse(data)


def parse(data: object) -> Group:
    """Return the group that the parsed JSON describes; raise GroupError with all that is wrong with it."""
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [inner for each in level for inner in _inside(each)]
    # Whoever writes it, and what tells of a part of it, goes down to its bottom.
    if level:
        raise GroupError([f"The group has more than {DEEPEST} levels of lists and objects; export it again."])
    return _Reader().group(data)


T = TypeVar("T")
Definition = dict[str, Any]


class _Reader:
    """Reads definitions and collects what is wrong with them.

    Its methods return something of the right type whatever they find, so that reading goes on and finds the rest.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def group(self, data: object) -> Group:
        whole = self.mapping("The group", data)
        self.known("The group", whole, {"Name", "Core", *DEFINITIONS} | GROUP_ENVELOPE)
        items = {name: self.definition(whole, name, key) for name, key in DEFINITIONS.items()}
        thing = self.core(whole, items["CoreDefinition"])
        self.refuse_devices(items["DeviceDefinition"])
        self.refuse_loggers(items["LoggerDefinition"])
        resources = self.each("Resource", items["ResourceDefinition"], self.resource)
        known = {resource.id: resource for resource in resources}
        self.unique("Resource", "name", [resource.name for resource in resources])
        self.unique("Secret", "name", [each.name for each in resources if isinstance(each, Secret)])
        functions = self.functions(whole, items["FunctionDefinition"], known)
        connectors = self.each(
            "Connector", items["ConnectorDefinition"], lambda where, item: self.connector(where, item, known)
        )
        self.unique("Connector", "service name", [connector.service for connector in connectors])
        ends = _Ends(functions, connectors)
        subscriptions = self.each(
            "Subscription", items["SubscriptionDefinition"], lambda where, item: self.subscription(where, item, ends)
        )
        name = self.text("The group", whole, "Name") if "Name" in whole else thing
        if self.problems:
            raise GroupError(dict.fromkeys(self.problems))
        return Group(name, thing, tuple(functions), tuple(connectors), known, tuple(subscriptions))

    # --- what is in no list of its own

    def core(self, whole: Definition, cores: list[Any]) -> str:
        """Return the name of the core's thing, from `Core` or else from the core definition."""
        thing = ""
        if len(cores) > 1:
            self.problem("CoreDefinition", f"has {len(cores)} cores; keep one, a group is of one device")
        for item in cores:
            core = self.mapping("CoreDefinition", item)
            self.known("CoreDefinition", core, {"CertificateArn", "Id", "SyncShadow", "ThingArn"})
            if self.flag("CoreDefinition", core, "SyncShadow", False):
                self.problem("CoreDefinition", "asks for SyncShadow; set it to false, shadows stay on the device")
            if match := THING_ARN.fullmatch(self.text("CoreDefinition", core, "ThingArn", "")):
                thing = match[1]
        if "Core" in whole or not cores:
            core = self.mapping("Core", whole.get("Core", {}))
            self.known("Core", core, {"ThingName"})
            thing = self.text("Core", core, "ThingName")
        if thing and not THING_NAME.fullmatch(thing):
            self.problem("Core", f"has the ThingName {thing!r}; use letters, digits, ':', '_' and '-'")
        return thing

    def refuse_devices(self, devices: list[Any]) -> None:
        for item in devices:
            name = item.get("ThingArn", item.get("Id")) if isinstance(item, dict) else item
            self.problem(
                f"Device {name!r}",
                "is not served; remove it, local devices speak to the broker as the source or target 'cloud' does",
            )

    def refuse_loggers(self, loggers: list[Any]) -> None:
        for number, item in enumerate(loggers, 1):
            logger = self.mapping(f"Logger {number}", item)
            kind = logger.get("Type")
            if kind != "FileSystem":
                self.problem(
                    f"Logger {logger.get('Id', number)!r}",
                    f"logs to {kind!r}; use FileSystem or remove it, all logs are in the device's journal",
                )

    # --- resources

    def resource(self, where: str, item: Definition) -> Resource:
        self.known(where, item, {"Id", "Name", "ResourceDataContainer"})
        id_, name = item["Id"], self.text(where, item, "Name")
        container = self.mapping(where, item.get("ResourceDataContainer", {}))
        kinds: dict[str, Callable[[str, str, str, Definition], Resource]] = {
            "LocalVolumeResourceData": self.volume,
            "LocalDeviceResourceData": self.device_node,
            "SecretsManagerSecretResourceData": self.secret,
            "SageMakerMachineLearningModelResourceData": self.model,
            "S3MachineLearningModelResourceData": self.model,
        }
        self.known(where, container, set(kinds))
        given = [kind for kind in kinds if container.get(kind) is not None]
        if len(given) != 1:
            self.problem(where, f"must have one of {', '.join(kinds)} in its ResourceDataContainer, not {len(given)}")
            return Model(id_, name, "")
        return kinds[given[0]](where, id_, name, self.mapping(where, container[given[0]]))

    def volume(self, where: str, id_: str, name: str, data: Definition) -> Volume:
        self.known(where, data, {"SourcePath", "DestinationPath", "GroupOwnerSetting"})
        source, destination = (self.path(where, data, key) for key in ("SourcePath", "DestinationPath"))
        for key, path in (("SourcePath", source), ("DestinationPath", destination)):
            if path == "/" or any(_within(path, system) for system in SYSTEM_PATHS):
                self.problem(where, f"has the {key} {path!r}; choose a path outside {', '.join(SYSTEM_PATHS)} and '/'")
        return Volume(id_, name, source, destination, *self.group_owner(where, data))

    def device_node(self, where: str, id_: str, name: str, data: Definition) -> DeviceNode:
        self.known(where, data, {"SourcePath", "GroupOwnerSetting"})
        source = self.path(where, data, "SourcePath")
        if source and (source == "/dev" or not _within(source, "/dev")):
            self.problem(where, f"has the SourcePath {source!r}; name a device node under /dev")
        elif PRIVILEGED_NODE.fullmatch(source):
            self.problem(
                where,
                f"has the SourcePath {source!r}, and who has disks, memory or the kernel's log has the device; remove "
                "it, or name the one device node that the function needs",
            )
        return DeviceNode(id_, name, source, *self.group_owner(where, data))

    def secret(self, where: str, id_: str, name: str, data: Definition) -> Secret:
        self.known(where, data, {"ARN", "AdditionalStagingLabelsToDownload"})
        labels = self.sequence(where, data, "AdditionalStagingLabelsToDownload")
        if [label for label in labels if label != CURRENT]:
            self.problem(where, f"asks for the staging labels {labels}; remove them, {CURRENT} alone is served")
        arn = self.text(where, data, "ARN")
        match = SECRET_ARN.fullmatch(arn)
        if match is None:
            self.problem(where, f"has the ARN {arn!r}; write that of a secret of AWS Secrets Manager")
        return Secret(id_, match[1] if match else name, arn)

    def model(self, where: str, id_: str, name: str, data: Definition) -> Model:
        # Source and ownership are facts of the cloud and of V1's unpacking: models arrive here as releases.
        self.known(where, data, {"DestinationPath", "OwnerSetting", "S3Uri", "SageMakerJobArn"})
        return Model(id_, name, self.path(where, data, "DestinationPath"))

    def group_owner(self, where: str, data: Definition) -> tuple[str | None, bool]:
        setting = self.mapping(where, data.get("GroupOwnerSetting") or {})
        self.known(where, setting, {"AutoAddGroupOwner", "GroupOwner"})
        owner = self.text(where, setting, "GroupOwner", "")
        if owner and not GROUP_OWNER.fullmatch(owner):
            self.problem(where, f"has the GroupOwner {owner!r}; write the name of a Linux group")
        elif owner in PRIVILEGED_GROUPS:
            self.problem(
                where,
                f"has the GroupOwner {owner!r}, whose members can become root or read keys of others; give the "
                "resource a group of its own on the device, and name that",
            )
        return owner or None, self.flag(where, setting, "AutoAddGroupOwner", False)

    # --- functions

    def functions(self, whole: Definition, items: list[Any], resources: Mapping[str, Resource]) -> list[Function]:
        definition = _unwrapped(whole.get("FunctionDefinition"))
        default = self.mapping("DefaultConfig", definition.get("DefaultConfig") or {})
        self.known("DefaultConfig", default, {"Execution"})
        isolated, run_as = self.execution("DefaultConfig", default, True, None)
        functions = self.each(
            "Function", items, lambda where, item: self.function(where, item, resources, isolated, run_as)
        )
        self.unique("Function", "name", [function.name for function in functions])
        return functions

    def function(
        self, where: str, item: Definition, resources: Mapping[str, Resource], isolated: bool, run_as: RunAs | None
    ) -> Function:
        self.known(where, item, {"Id", "FunctionArn", "FunctionConfiguration"})
        arn = self.text(where, item, "FunctionArn")
        name = self.function_name(where, arn)
        configuration = self.mapping(where, item.get("FunctionConfiguration") or {})
        self.known(
            where,
            configuration,
            {"EncodingType", "Environment", "ExecArgs", "Executable", "FunctionRuntimeOverride", "MemorySize", "Pinned"}
            | {"Timeout"},
        )
        self.python_only(where, configuration)
        environment = self.mapping(where, configuration.get("Environment") or {})
        self.known(where, environment, {"AccessSysfs", "Execution", "ResourceAccessPolicies", "Variables"})
        isolated, run_as = self.execution(where, environment, isolated, run_as)
        encoding = self.text(where, configuration, "EncodingType", "json")
        if encoding not in ("json", "binary"):
            self.problem(where, f"has the EncodingType {encoding!r}; use json or binary")
        return Function(
            arn=arn,
            name=name,
            pinned=self.flag(where, configuration, "Pinned", False),
            timeout=self.number(where, "Timeout", configuration.get("Timeout", 3), 1, LONGEST_TIMEOUT, "seconds"),
            memory_kib=self.memory(where, configuration, isolated),
            encoding=encoding,
            handler=self.handler(where, configuration),
            variables=self.variables(where, environment),
            run_as=run_as,
            access=self.access(where, environment, resources, isolated),
            isolated=isolated,
            access_sysfs=self.flag(where, environment, "AccessSysfs", False),
        )

    def function_name(self, where: str, arn: str) -> str:
        try:
            name = arns.function_name(arn)
        except LocalCoreError as error:
            self.problem(where, f"has no valid FunctionArn: {error}")
            return ""
        if name == "GGStreamManager":
            self.problem(where, "is the stream manager, which is not served; remove it")
        elif name.startswith("GG") and not arns.region(arn):
            self.problem(where, f"is the system function {name}; remove it, the local core brings what it serves")
        elif name.startswith("GG-ML-INF-"):
            self.problem(where, f"is named {name}, as connectors are; choose another name")
        elif not FUNCTION_NAME.fullmatch(name):
            self.problem(where, f"is named {name}; use up to 64 letters, digits, '_' and '-', not '-' first")
        return name

    def python_only(self, where: str, configuration: Definition) -> None:
        runtime = self.text(where, configuration, "FunctionRuntimeOverride", "")
        if runtime and not runtime.startswith("python3"):
            self.problem(where, f"asks for the runtime {runtime}; port it to Python 3, which alone is served")
        if configuration.get("ExecArgs"):
            self.problem(where, "has ExecArgs; remove them, executables are not served, only Python 3 handlers")

    def handler(self, where: str, configuration: Definition) -> str:
        handler = self.text(where, configuration, "Executable")
        if handler and not HANDLER.fullmatch(handler):
            self.problem(
                where, f"has the Executable {handler!r}; name a handler of a Python 3 module as module.function"
            )
        return handler

    def execution(
        self, where: str, data: Definition, isolated: bool, run_as: RunAs | None
    ) -> tuple[bool, RunAs | None]:
        """Return isolation and user: those of the data, or else those given."""
        execution = self.mapping(where, data.get("Execution") or {})
        self.known(where, execution, {"IsolationMode", "RunAs"})
        mode = self.text(where, execution, "IsolationMode", "GreengrassContainer" if isolated else "NoContainer")
        if mode not in ("GreengrassContainer", "NoContainer"):
            self.problem(where, f"has the IsolationMode {mode!r}; use GreengrassContainer or NoContainer")
        if execution.get("RunAs") is not None:
            ids = self.mapping(where, execution["RunAs"])
            self.known(where, ids, {"Uid", "Gid"})
            values = [self.number(where, f"RunAs {key}", ids.get(key), 1, HIGHEST_ID) for key in ("Uid", "Gid")]
            run_as = RunAs(*(int(value) for value in values))
            for name, number in PRIVILEGED_GROUPS.items():
                if number == run_as.gid:
                    self.problem(
                        where,
                        f"has the RunAs Gid {number}, the group {name}, whose members can become root or read keys of "
                        "others; write the number of another group",
                    )
        return mode != "NoContainer", run_as

    def memory(self, where: str, configuration: Definition, isolated: bool) -> int:
        # V1 had MemorySize cleared for functions without a container.
        if not isolated and configuration.get("MemorySize") in (None, 0):
            return 0
        value = configuration.get("MemorySize")
        return int(
            self.number(
                where, "MemorySize", value, SMALLEST_MEMORY, LARGEST_MEMORY, "KB (131072 for 128 MB)", whole=True
            )
        )

    def variables(self, where: str, environment: Definition) -> dict[str, str]:
        variables = self.mapping(where, environment.get("Variables") or {})
        for name, value in variables.items():
            if not VARIABLE.fullmatch(name):
                self.problem(where, f"has the variable {name!r}; use letters, digits and '_'")
            elif name in OWN_VARIABLES:
                self.problem(where, f"sets the variable {name}, which belongs to the core; remove or rename it")
            if not isinstance(value, str) or "\0" in value or not _encodable(value):
                self.problem(where, f"sets the variable {name!r} to what is no text; write it as a string")
        return {name: str(value) for name, value in variables.items()}

    def access(
        self, where: str, environment: Definition, resources: Mapping[str, Resource], isolated: bool
    ) -> dict[str, str]:
        access: dict[str, str] = {}
        destinations: dict[str, str] = {}
        for item in self.sequence(where, environment, "ResourceAccessPolicies"):
            policy = self.mapping(where, item)
            self.known(where, policy, {"ResourceId", "Permission"})
            id_ = self.text(where, policy, "ResourceId")
            permission = self.text(where, policy, "Permission", "ro")
            if permission not in ("ro", "rw"):
                self.problem(where, f"has the Permission {permission!r} to the resource {id_!r}; use ro or rw")
            if id_ in access:
                self.problem(where, f"has two policies for the resource {id_!r}; keep one")
            access[id_] = permission
            resource = resources.get(id_)
            if resource is None:
                self.problem(where, f"has a policy for the resource {id_!r}, which the group does not define")
            elif isinstance(resource, Volume | DeviceNode) and not isolated:
                self.problem(
                    where,
                    f"has access to the resource {id_!r} in NoContainer; run it in GreengrassContainer, without "
                    "one it sees the device as it is",
                )
            if isinstance(resource, Volume):
                if resource.destination in destinations:
                    self.problem(
                        where,
                        f"has the resources {destinations[resource.destination]!r} and {id_!r} at one "
                        f"DestinationPath, {resource.destination}; change one of the paths",
                    )
                destinations[resource.destination] = id_
        return access

    # --- connectors

    def connector(self, where: str, item: Definition, resources: Mapping[str, Resource]) -> Connector:
        self.known(where, item, {"Id", "ConnectorArn", "Parameters"})
        arn = self.text(where, item, "ConnectorArn")
        match = CONNECTOR_ARN.fullmatch(arn)
        if match is None or match[1] not in CONNECTORS:
            self.problem(
                where,
                f"is {arn!r}, which is not served; remove it, Image Classification "
                f"({', '.join(sorted(CONNECTORS))}) alone is",
            )
            # Its parameters are its own: nothing can be said of them.
            return Connector(item["Id"], arn, item["Id"], 0, 0, "")
        parameters = self.mapping(where, item.get("Parameters") or {})
        feedback = "MLFeedbackConnectorConfigId"
        needed = (
            "MLModelDestinationPath",
            "MLModelResourceId",
            "MLModelSageMakerJobArn",
            "LocalInferenceServiceName",
            "LocalInferenceServiceTimeoutSeconds",
            "LocalInferenceServiceMemoryLimitKB",
        )
        self.known(where, parameters, {*needed, feedback})
        if parameters.get(feedback):
            self.problem(where, f"has the parameter {feedback}; remove it, the feedback connector is not served")
        values = {key: self.text(where, parameters, key) for key in needed}
        self.path(where, parameters, "MLModelDestinationPath")
        model = values["MLModelResourceId"]
        if model and not isinstance(resources.get(model), Model):
            self.problem(
                where, f"has the MLModelResourceId {model!r}, which is no machine learning resource of the group"
            )
        service = values["LocalInferenceServiceName"]
        if service and not SERVICE_NAME.fullmatch(service):
            self.problem(where, f"has the LocalInferenceServiceName {service!r}; it must match {SERVICE_NAME.pattern}")
        return Connector(
            id=item["Id"],
            arn=arn,
            service=service,
            timeout=self.decimal(where, parameters, "LocalInferenceServiceTimeoutSeconds", 1, LONGEST_TIMEOUT),
            memory_kib=self.decimal(
                where, parameters, "LocalInferenceServiceMemoryLimitKB", SMALLEST_MEMORY, LARGEST_MEMORY
            ),
            model=model,
        )

    # --- subscriptions

    def subscription(self, where: str, item: Definition, ends: _Ends) -> Subscription:
        self.known(where, item, {"Id", "Source", "Subject", "Target"})
        subject = self.text(where, item, "Subject")
        if subject and (fault := topics.fault_of_filter(subject)):
            self.problem(where, f"has the Subject {subject!r}: {fault}")
        source, target = (self.end(where, item, key, ends) for key in ("Source", "Target"))
        if source and source == target and source in (CLOUD, SHADOW):
            self.problem(where, f"goes from {source} to {source}; change its Source or Target")
        return Subscription(item["Id"], source, subject, target)

    def end(self, where: str, item: Definition, key: str, ends: _Ends) -> str:
        given = self.text(where, item, key)
        found = ends.find(given)
        if given and not found:
            advice = "name cloud, GGShadowService, or the ARN of a function or connector of this group"
            if THING_ARN.fullmatch(given):
                advice = "name cloud: local devices speak to the broker, as everybody outside the core does"
            self.problem(where, f"has the {key} {given!r}, which is not known; {advice}")
        return found

    # --- the smallest parts

    def problem(self, where: str, what: str) -> None:
        self.problems.append(f"{where} {what}.")

    def definition(self, whole: Definition, name: str, key: str) -> list[Any]:
        """Return the list in a definition, which may be within the API's reply."""
        given = whole.get(name)
        if given is None:
            return []
        outer = self.mapping(name, given)
        if "Definition" in outer:
            self.known(name, outer, ENVELOPE | {"Definition"})
            if outer.get("NextToken"):
                self.problem(name, "is one page of several (NextToken): fetch the others, and put their parts together")
        inner = self.mapping(name, _unwrapped(given))
        self.known(name, inner, {key, *(["DefaultConfig"] if key == "Functions" else [])})
        return self.sequence(name, inner, key)

    def each(self, kind: str, items: list[Any], read: Callable[[str, Definition], T]) -> list[T]:
        """Read the items of a definition; each has an id of its own."""
        result, ids = [], []
        for number, given in enumerate(items, 1):
            item = self.mapping(f"{kind} {number}", given)
            id_ = self.text(f"{kind} {number}", item, "Id")
            ids.append(id_)
            result.append(read(f"{kind} {id_ or number}", {**item, "Id": id_}))
        self.unique(kind, "Id", ids)
        return result

    def unique(self, kind: str, what: str, values: list[str]) -> None:
        for value, times in Counter(values).items():
            if value and times > 1:
                self.problem(f"{kind} {value}", f"is there {times} times by its {what}; give each its own")

    def known(self, where: str, data: Definition, keys: set[str]) -> None:
        if unknown := sorted(data.keys() - keys):
            self.problem(where, f"has {', '.join(map(repr, unknown))}, which is not served; remove it")

    def mapping(self, where: str, value: object) -> Definition:
        if isinstance(value, dict):
            return value
        self.problem(where, f"must be an object of keys and values where it is {_shown(value)}")
        return {}

    def sequence(self, where: str, data: Definition, key: str) -> list[Any]:
        value = data.get(key)
        if value is None:
            return []
        if isinstance(value, list):
            return value
        self.problem(where, f"must have a list as {key}, not {_shown(value)}")
        return []

    def text(self, where: str, data: Definition, key: str, default: str | None = None) -> str:
        """Return a string; without a default, one that must be there and not be empty."""
        value = data.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and _encodable(value) and (value or default is not None):
            return value
        self.problem(where, f"must have a text as {key}, not {_shown(value)}")
        return default or ""

    def flag(self, where: str, data: Definition, key: str, default: bool) -> bool:
        value = data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(where, f"must have true or false as {key}, not {_shown(value)}")
        return value is True

    def number(
        self, where: str, key: str, value: object, least: int, most: int, unit: str = "", *, whole: bool = False
    ) -> float:
        kinds = int if whole or not unit else int | float
        if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most:
            return value
        of_unit = f" {unit}" if unit else ""
        self.problem(where, f"must have from {least} to {most}{of_unit} as {key}, not {_shown(value)}")
        return least

    def decimal(self, where: str, parameters: Definition, key: str, least: int, most: int) -> int:
        value = parameters.get(key)
        if isinstance(value, str) and POSITIVE.fullmatch(value) and least <= int(value) <= most:
            return int(value)
        if isinstance(value, str) and value:
            self.problem(where, f'must have a number from "{least}" to "{most}" as {key}, not {_shown(value)}')
        return least

    def path(self, where: str, data: Definition, key: str) -> str:
        path = self.text(where, data, key)
        if not path:
            return ""
        if not PATH.fullmatch(path) or ".." in path.split("/"):
            self.problem(
                where,
                f"has the {key} {path!r}; write an absolute path without '..', of letters, digits and "
                "/ . _ - @ + , = ~",
            )
            return ""
        return re.sub("^/+", "/", str(PurePosixPath(path)))


class _Ends:
    """What subscriptions may lead from and to."""

    def __init__(self, functions: list[Function], connectors: list[Connector]) -> None:
        self.functions = {function.name: function.arn for function in functions if function.name}
        self.connectors = [connector.arn for connector in connectors]

    def find(self, given: str) -> str:
        """Return the one name of a source or target, '' if it is not known."""
        if given in (CLOUD, SHADOW):
            return given
        if self.connectors.count(given) == 1:
            return given
        try:
            name = arns.function_name(given)
        except LocalCoreError:
            return ""
        return SHADOW if name == SHADOW else self.functions.get(name, "")


def _unwrapped(definition: object) -> Definition:
    """Return the definition itself where the whole reply of the API is given."""
    inner = definition.get("Definition", definition) if isinstance(definition, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(value: object) -> str:
    shown = json.dumps(value)
    return "nothing" if value in (None, "") else shown if len(shown) < 80 else f"{shown[:80]}..."


def main(arguments: list[str]) -> int:
    """Check the group in a file and say what it holds, or what is wrong with it."""
    if len(arguments) != 1:
        print("Usage: python3 -m localcore.group FILE", file=sys.stderr)
        return 2
    try:
        group = load(Path(arguments[0]))
    except GroupError as error:
        print(f"The group cannot be served:\n{error}", file=sys.stderr)
        return 1
    print(
        f"The group {group.name} can be served: {len(group.functions)} functions, {len(group.connectors)} connectors, "
        f"{len(group.resources)} resources, {len(group.subscriptions)} subscriptions."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
