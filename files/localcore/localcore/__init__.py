"""The local core: what a device needs of AWS IoT Greengrass V1, served on the device alone.

The router (`python3 -m localcore`) speaks V1's contract with Lambdas and connectors over HTTP on loopback, and with
everybody else through the local broker.
"""
