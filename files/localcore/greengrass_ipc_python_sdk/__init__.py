"""How functions speak to the core: the IPC of Greengrass V1 over HTTP, written anew."""
